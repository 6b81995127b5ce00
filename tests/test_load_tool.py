"""How vLLM's load generator is called, and what is shown of its figures."""

from __future__ import annotations

from pathlib import Path

import load_tool
from vllm.benchmarks.serve import add_cli_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


def test_the_same_random_tokens_are_asked_whoever_answers() -> None:
    options = load_tool.arguments(["--model", "model", "--seed", "3"])
    calls = [load_tool.flags(options, "http://s", name, 100, 4) for name in ("base", "bench@v1")]
    differs = [pair for pair in zip(*calls, strict=True) if len(set(pair)) > 1]
    assert differs == [("base", "bench@v1")]
    assert f"--seed {options.seed}" in " ".join(calls[0])


def test_the_tool_takes_our_flags() -> None:
    options = load_tool.arguments(["--model", "model"])
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    found = parser.parse_args(load_tool.flags(options, "http://s", "bench@v1", 100, 16))
    assert (found.model, found.random_input_len, found.max_concurrency) == ("bench@v1", 100, 16)
    assert Path(found.tokenizer) == Path("model").absolute()


def test_a_table_shows_the_median_round() -> None:
    rounds = [{key: float(number) for key, _ in load_tool.SHOWN} for number in (1, 5, 2)]
    shown = load_tool.table({(16, "base"): rounds})
    assert shown.endswith(f"| 16 | base |{' 2.0 |' * len(load_tool.SHOWN)}")
