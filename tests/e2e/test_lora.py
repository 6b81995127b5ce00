"""vLLM's own adapters beside soft prompts, and beneath one where a single name means both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
from e2e.conftest import TICKET, import_support
from e2e.harness import BASE, Server
from e2e.reference import Reference
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

TEXTS = [TICKET, "Why was I charged twice for the same subscription?", "The capital of France is?"]
TOKENS = 12
ADAPTER = "tone"
BOTH = "support@v3"


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes answers: both of its factors are random, none is zero."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(11)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(plain, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(model: Path, adapter: Path) -> Reference:
    """Transformers with the adapter merged into the weights."""
    reference = Reference(model)
    reference.model = PeftModel.from_pretrained(reference.model, adapter).merge_and_unload().eval()
    return reference


@pytest.fixture(scope="module")
def server(
    model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(
        model,
        tmp_path_factory.mktemp("lora-home"),
        flags=(
            *("--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager"),
            *("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2"),
            *("--lora-modules", f"{ADAPTER}={adapter}", f"{BOTH}={adapter}"),
        ),
    )
    try:
        server.start()
        import_support(server.admin())
        yield server
    finally:
        server.stop()


async def answers(server: Server, jobs: list[tuple[str, str]]) -> list[str]:
    """All at once, so that they share batches."""

    async def one(client: openai.AsyncOpenAI, name: str, text: str) -> str:
        answer = await client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=TOKENS,
        )
        return answer.choices[0].message.content or ""

    async with server.async_client() as client:
        return await asyncio.gather(*(one(client, *job) for job in jobs))


def expected(reference: Reference, text: str, rows: torch.Tensor | None = None) -> str:
    return reference.answer(reference.chat_ids(text), rows, tokens=TOKENS)


def test_adapters_prompts_and_the_base_model_share_batches_and_keep_apart(
    server: Server, reference: Reference, adapted: Reference, rows: dict[str, torch.Tensor]
) -> None:
    for text in TEXTS:
        assert expected(adapted, text) != expected(reference, text), "the adapter changes nothing"
    jobs = [(name, text) for text in TEXTS for name in (BASE, ADAPTER, "support@v2")] * 2
    found = asyncio.run(answers(server, jobs))
    wanted = {
        BASE: lambda text: expected(reference, text),
        ADAPTER: lambda text: expected(adapted, text),
        "support@v2": lambda text: expected(reference, text, rows["v2"]),
    }
    for (name, text), answer in zip(jobs, found, strict=True):
        assert answer == wanted[name](text), (name, text)


def test_an_adapter_with_a_versions_full_name_lies_beneath_its_soft_prompt(
    server: Server, adapted: Reference, rows: dict[str, torch.Tensor]
) -> None:
    found = asyncio.run(answers(server, [(BOTH, text) for text in TEXTS]))
    assert found == [expected(adapted, text, rows["v3"]) for text in TEXTS]


def test_such_an_adapter_is_not_applied_where_another_name_leads_to_the_version(
    server: Server, reference: Reference, rows: dict[str, torch.Tensor]
) -> None:
    server.admin().alias("support", "candidate", "v3")
    found = asyncio.run(answers(server, [("support@candidate", text) for text in TEXTS]))
    assert found == [expected(reference, text, rows["v3"]) for text in TEXTS]
