"""Soft prompts and prefixes on each verified architecture, by tiny models of random weights.

The list in ``docs/compatibility.md`` is what passes here. Each checkpoint is made from the real configuration
class; Transformers, on the same weights, says what must be answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from e2e.harness import Admin, Server
from e2e.reference import Reference
from fire import tiny

from softprompt_serve.vllm_plugin.probe import VERIFIED_ARCHITECTURES

TOKENS = 6
VISIBLE = 25
SIZES = [1, 20, 127, 128, 129, 255, 256, 257, 300]  # blocks are of 128 tokens
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen3ForCausalLM": {"model_type": "qwen3"},
    "MistralForCausalLM": {"model_type": "mistral", "sliding_window": None},
}
RANKS = {"Qwen3ForCausalLM": 1, "MistralForCausalLM": 2}
"""Workers of each engine: two of them share out the heads, one each."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def served(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Reference]]:
    home = tmp_path_factory.mktemp(request.param)
    checkpoint = tiny.make(home / "model", model, **ARCHITECTURES[request.param])
    ranks = RANKS[request.param]
    server = Server(
        checkpoint,
        home,
        flags=(
            *("--max-model-len", "512", "--max-num-seqs", "8", "--enforce-eager"),
            *("--tensor-parallel-size", str(ranks)),
        ),
        environment={
            "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(ranks))),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        },
    )
    reference = Reference(checkpoint)
    assert reference.model.config.architectures == [request.param]
    assert request.param in VERIFIED_ARCHITECTURES
    try:
        yield server.start(), reference
    finally:
        server.stop()


def told(server: Server, model: str, ids: list[int]) -> list[int]:
    answer = server.client().completions.create(
        model=model,
        prompt=ids,
        max_tokens=TOKENS,
        temperature=0,
        logprobs=1,
        extra_body={"ignore_eos": True, "return_tokens_as_token_ids": True},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    return [int(token.removeprefix("token_id:")) for token in logprobs.tokens or ()]


def visible(reference: Reference, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40_000, (VISIBLE,), generator=generator).tolist()


def imported(admin: Admin, prompt: str, tensor: torch.Tensor, version: str) -> str:
    kind = admin.imported(prompt, safetensors.torch.save({"t": tensor}), version=version)["kind"]
    assert isinstance(kind, str)
    return kind


def test_rows_and_keys_of_any_length_answer_as_transformers_does(
    served: tuple[Server, Reference],
) -> None:
    server, reference = served
    admin = server.admin()
    workers = admin.workers()
    assert all(worker["deep"] for worker in workers)
    for n in SIZES if len(workers) == 1 else SIZES[::4]:  # two on two cores take their time
        ids = visible(reference, seed=n)
        rows = reference.random_rows(n, seed=n)
        assert imported(admin, "soft", rows, f"n{n}") == "soft"
        keys = torch.randn(2, 2, n, 2, 32, generator=torch.Generator().manual_seed(n))
        assert imported(admin, "deep", keys, f"n{n}") == "prefix"
        soft = reference.greedy_past_the_end(ids, rows, tokens=TOKENS)
        deep = reference.greedy_after(keys, ids, tokens=TOKENS, ends=False)
        assert soft != deep
        for _ in range(2):  # the second time with what the prefix cache has
            assert told(server, f"soft@n{n}", ids) == soft, n
            assert told(server, f"deep@n{n}", ids) == deep, n
        for prompt in ("soft", "deep"):
            removed = admin.http.delete(f"/prompts/{prompt}/versions/n{n}")
            assert removed.status_code == 200, removed.text
