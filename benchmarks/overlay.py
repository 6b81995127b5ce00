"""What does the overlay cost? Plain tokens, overlay and native prompt_embeds, side by side.

One engine, warm, the three variants in turn in each round, so that a drifting machine hits all
alike; the figures to trust are the ratios. Prompts have equal length: the overlay's n placeholders
plus the visible tokens, native's embeddings of both, or as many plain tokens. Prefix caching is
off, so that every prefill is computed.

    python benchmarks/overlay.py --model DIR       # the demo model
    python benchmarks/overlay.py --wide            # hidden 4096, 2 layers, random weights
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PLAIN, OVERLAY, NATIVE = "plain tokens", "overlay", "native prompt_embeds"
VARIANTS = (PLAIN, OVERLAY, NATIVE)
WIDE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass
class Figures:
    """One figure per round and variant."""

    rounds: dict[str, list[float]] = field(default_factory=lambda: {v: [] for v in VARIANTS})

    def median(self, variant: str) -> float:
        return statistics.median(self.rounds[variant])

    def ratios(self, variant: str, to: str) -> list[float]:
        return [a / b for a, b in zip(self.rounds[variant], self.rounds[to], strict=True)]


class Engine:
    """vLLM in this process, with the plugin, and one resident version of random rows."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from softprompt_serve.vllm_plugin.worker import EXTENSION

        arguments: dict[str, Any] = {
            "model": str(folder),
            "dtype": options.dtype,
            "max_model_len": 2048,
            "max_num_seqs": options.concurrency,
            "enable_prefix_caching": False,
            "disable_log_stats": True,
        }
        if options.wide:
            arguments |= {"load_format": "dummy", "skip_tokenizer_init": True}
        if not options.without_flag:
            arguments |= {"enable_prompt_embeds": True, "worker_extension_cls": EXTENSION}
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        config = self.engine.model_config
        self.hidden_size: int = config.get_inputs_embeds_size()
        self.vocabulary: int = config.get_vocab_size()
        self.dtype = config.dtype
        self.reference: dict[str, Any] = {}
        self.salt = ""

    async def load(self, rows: int) -> None:
        """Make a version of ``rows`` random rows resident."""
        import torch

        from softprompt_serve.artifact import Content
        from softprompt_serve.vllm_plugin import reference
        from softprompt_serve.vllm_plugin.placeholder import placeholder_id
        from softprompt_serve.vllm_plugin.rpc import EngineWorkers

        tensor = torch.randn(rows, self.hidden_size) * 0.02
        content = Content(
            "soft", dtype="float32", shape=(rows, self.hidden_size), data=tensor.numpy().tobytes()
        )
        await EngineWorkers(self.engine).load(content.header, content.data, ())
        ref = reference.Reference(content.digest, rows)
        self.reference = {reference.KEY: ref.to_extra_args()}
        self.salt = reference.salt_for(content.digest, None)
        self.placeholders = [placeholder_id(self.engine.vllm_config)] * rows

    def prompt(self, variant: str, visible: list[int], lead: list[int]) -> tuple[Any, Any]:
        """Engine input and extra arguments of one request."""
        import torch
        from vllm.inputs import embeds_input, tokens_input

        if variant == OVERLAY:
            return tokens_input(self.placeholders + visible, cache_salt=self.salt), self.reference
        if variant == NATIVE:
            rows = len(lead) + len(visible)
            return embeds_input(torch.randn(rows, self.hidden_size, dtype=self.dtype) * 0.02), None
        return tokens_input(lead + visible), None

    async def run(self, prompt: Any, extra: Any, name: str, tokens: int) -> tuple[float, int]:
        """Seconds to the first token, and how many tokens came."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, extra_args=extra, detokenize=False
        )
        begun = time.perf_counter()
        first = 0.0
        count = 0
        async for output in self.engine.generate(prompt, params, name):
            first = first or time.perf_counter() - begun
            count = len(output.outputs[0].token_ids)
        return first, count


async def measure(engine: Engine, options: argparse.Namespace) -> dict[str, Figures]:
    """Rounds of all variants: one at a time for TTFT, many at once for throughput."""
    rng = random.Random(options.seed)
    ttft, throughput = Figures(), Figures()
    variants = [PLAIN] if options.without_flag else list(VARIANTS)

    def ids(count: int) -> list[int]:
        return [rng.randrange(10, engine.vocabulary - 10) for _ in range(count)]

    for number in range(options.rounds + 1):  # the first warms up
        order = variants[number % len(variants) :] + variants[: number % len(variants)]
        for variant in order:
            prompts = [
                engine.prompt(variant, ids(options.visible), ids(options.rows))
                for _ in range(options.concurrency)
            ]
            singles = []
            for index in range(options.singles):
                prompt, extra = prompts[index % len(prompts)]
                first, _ = await engine.run(prompt, extra, f"{number}-{variant}-s{index}", 1)
                singles.append(first)
            begun = time.perf_counter()
            done = await asyncio.gather(
                *(
                    engine.run(prompt, extra, f"{number}-{variant}-{index}", options.output)
                    for index, (prompt, extra) in enumerate(prompts)
                )
            )
            seconds = time.perf_counter() - begun
            if number:
                ttft.rounds[variant].append(statistics.median(singles))
                throughput.rounds[variant].append(sum(count for _, count in done) / seconds)
        print(f"  round {number} of {options.rounds}", file=sys.stderr, flush=True)
    return {"ttft": ttft, "throughput": throughput}


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def table(title: str, found: dict[str, Figures], options: argparse.Namespace) -> str:
    """Markdown: medians, and ratios per round with their spread."""
    heading = (
        f"### {title}\n\n{options.rows} virtual + {options.visible} visible tokens, "
        f"{options.output} generated, {options.concurrency} at once, {options.rounds} rounds, "
        f"{options.dtype}.\n"
    )
    lines = [
        heading,
        "| variant | TTFT alone (ms) | tokens/s | TTFT ÷ plain | tokens/s ÷ plain |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for variant in VARIANTS:
        if not found["ttft"].rounds[variant]:
            continue
        cells = [
            f"{found['ttft'].median(variant) * 1000:.1f}",
            f"{found['throughput'].median(variant):.1f}",
            *(spread(found[figure].ratios(variant, PLAIN)) for figure in ("ttft", "throughput")),
        ]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    if found["ttft"].rounds[NATIVE]:
        gain = spread(found["throughput"].ratios(OVERLAY, NATIVE))
        saved = spread(found["ttft"].ratios(OVERLAY, NATIVE))
        lines.append(f"\nOverlay ÷ native: tokens/s {gain}, TTFT {saved}.")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, help="folder of a model, such as the demo's")
    parser.add_argument("--wide", action="store_true", help="hidden 4096, 2 layers, random weights")
    parser.add_argument(
        "--without-flag", action="store_true", help="plain, no --enable-prompt-embeds"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens")
    parser.add_argument("--visible", type=int, default=100, help="visible tokens")
    parser.add_argument("--output", type=int, default=16, help="generated tokens")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--singles", type=int, default=5, help="requests alone, per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every round's figures here")
    options = parser.parse_args()
    if bool(options.model) == options.wide:
        parser.error("give --model DIR or --wide")
    return options


async def main() -> None:
    """Run and print a Markdown table."""
    options = arguments()
    os.environ["VLLM_PLUGINS"] = "softprompt_serve"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # the table goes to stdout, alone
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or Path(scratch)
        if options.wide:
            (folder / "config.json").write_text(json.dumps(WIDE))
        engine = Engine(options, folder)
        if not options.without_flag:
            await engine.load(options.rows)
        found = await measure(engine, options)
        engine.engine.shutdown()
    title = "hidden 4096, 2 layers, random weights" if options.wide else options.model.name
    if options.without_flag:
        title += ", without --enable-prompt-embeds"
    print(table(title, found, options))
    machine = f"{cpu_name()}; Python {platform.python_version()}; torch {version('torch')}; "
    print(f"\n{machine}vLLM {vllm_version()}; {datetime.now(UTC):%Y-%m-%d}.")
    if options.json:
        options.json.write_text(json.dumps({k: f.rounds for k, f in found.items()}, indent=1))


def vllm_version() -> str:
    from softprompt_serve.vllm_plugin.seams import installed_vllm

    return " ".join(installed_vllm() or ("none",))


if __name__ == "__main__":
    asyncio.run(main())
