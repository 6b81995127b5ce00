"""Engines started otherwise: plain vLLM, tiny chunks and cache, a flag that is missing."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from e2e.conftest import TICKET
from e2e.harness import PLAIN, Admin, Server
from e2e.reference import Reference, safetensors_bytes

OUR_FLAGS = (
    *("--worker-extension-cls", "softprompt_serve.vllm_plugin.worker.SoftpromptWorker"),
    "--enable-prompt-embeds",
)
API_KEY = "none"  # what the harness' clients send
KEYED = {"authorization": f"Bearer {API_KEY}"}
PLUGIN = {"VLLM_PLUGINS": "softprompt_serve"}
TOKENS = 56


@pytest.fixture(scope="module")
def tight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Plain vLLM with the documented flags; chunks of 48 tokens; cache for about four requests."""
    server = Server(
        model,
        tmp_path_factory.mktemp("tight"),
        flags=(
            *OUR_FLAGS,
            *("--max-model-len", "512", "--max-num-seqs", "8", "--enforce-eager"),
            *("--api-key", API_KEY),
            *("--max-num-batched-tokens", "48", "--kv-cache-memory-bytes", str(64 * 2**20)),
            *("--shutdown-timeout", "120"),
        ),
        environment=PLUGIN,
        command=PLAIN,
    )
    try:
        yield server.start()
    finally:
        server.stop()


def metric(admin: Admin, name: str) -> float:
    text = admin.root.get("/metrics").text
    return sum(float(v) for v in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


def test_chunks_smaller_than_n_and_preemption_change_no_answer(
    tight: Server, reference: Reference
) -> None:
    admin = tight.admin()
    sizes = {"n200": 200, "n60": 60, "n129": 129}
    tensors = {name: reference.random_rows(n, seed=n) for name, n in sizes.items()}
    for name, tensor in tensors.items():
        admin.imported("tight", safetensors_bytes(tensor), version=name)
    texts = [TICKET, "Once upon a time", "A list of fruits: apple,", "The weather today is"]
    jobs = [(name, text) for text in texts for name in tensors] * 2

    async def run() -> list[str]:
        async with tight.async_client() as client:

            async def one(name: str, text: str) -> str:
                answer = await client.completions.create(
                    model=f"tight@{name}",
                    prompt=text,
                    temperature=0,
                    max_tokens=TOKENS,
                    extra_body={"ignore_eos": True},
                )
                return answer.choices[0].text

            return await asyncio.gather(*(one(*job) for job in jobs))

    answers = asyncio.run(run())
    assert metric(admin, "vllm:num_preemptions_total") > 0, "nothing was preempted"
    wanted: dict[tuple[str, str], str] = {}
    for job, answer in zip(jobs, answers, strict=True):
        if job not in wanted:
            name, text = job
            wanted[job] = greedy_past_the_end(reference, text, tensors[name])
        assert answer == wanted[job], job


def greedy_past_the_end(reference: Reference, text: str, tensor: torch.Tensor) -> str:
    embeddings = reference.embeddings(reference.text_ids(text), tensor)[None]
    with torch.inference_mode():
        out = reference.model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            min_new_tokens=1,
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=-1,
        )
    return reference.tokenizer.decode(out[0], skip_special_tokens=True)


def test_raw_prompt_embeds_are_refused_by_default(tight: Server) -> None:
    answer = tight.admin().root.post(
        "/v1/completions",
        headers=KEYED,
        json={"model": "tight@n60", "prompt": None, "prompt_embeds": "AAAA"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "raw_prompt_embeds_disabled"


def test_vllms_api_key_guards_its_own_routes_and_has_no_say_in_ours(tight: Server) -> None:
    admin = tight.admin()
    assert admin.root.get("/v1/models").status_code == 401
    assert admin.root.get("/v1/models", headers=KEYED).status_code == 200
    assert admin.root.get("/softprompts/v1/prompts", headers=KEYED).status_code == 401
    assert admin.http.get("/prompts").status_code == 200


def test_an_answer_that_has_begun_is_finished_when_the_server_is_told_to_end(
    tight: Server, reference: Reference
) -> None:
    """The last of this engine's tests: it is gone afterwards."""
    tensor = reference.random_rows(60, seed=60)
    tight.admin().imported("tight", safetensors_bytes(tensor), version="n60")
    with tight.client() as client:
        stream = client.completions.create(
            model="tight@n60",
            prompt=TICKET,
            temperature=0,
            max_tokens=TOKENS,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        text = next(iter(stream)).choices[0].text
        assert tight.process is not None
        tight.process.send_signal(signal.SIGTERM)
        text += "".join(chunk.choices[0].text for chunk in stream)
    assert text == greedy_past_the_end(reference, TICKET, tensor)
    assert tight.wait_exit() == 0


def test_a_missing_flag_is_named_by_the_failing_start(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Server(
        model,
        tmp_path_factory.mktemp("flagless"),
        flags=("--max-model-len", "256", "--enforce-eager"),
        environment=PLUGIN,
        command=PLAIN,
    )
    server.launch()
    try:
        assert server.wait_exit() != 0
        log = server.tail(20_000)
        assert "Add --enable-prompt-embeds." in log
        assert f"Add --worker-extension-cls {OUR_FLAGS[1]}." in log
    finally:
        server.stop()
