"""Learned keys and values, served: token for token what Transformers and PEFT answer with them."""

from __future__ import annotations

import asyncio
import json
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import safetensors.torch
import torch
from e2e.conftest import TICKET
from e2e.harness import BASE, Admin, Server
from e2e.reference import Reference, safetensors_bytes
from e2e.test_answers import check_as_peft
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from softprompt_serve.artifact.content import keys_of

TOKENS = 12
SIZE = 9
TEXTS = [
    TICKET,
    "I can't log in since I changed my phone number.",
    "Please cancel order 5512, I ordered the wrong size.",
    "Do you ship to Norway, and what would it cost?",
]
HINTS = {
    "a": "Answer every message with a joke about the sea and its many fishes.",
    "b": "You are a pirate. You only speak of gold, ships and rum, whatever is asked.",
}


def noisy(reference: Reference, text: str, tokens: int, seed: int = 0) -> torch.Tensor:
    """Keys and values ``[layers, 2, tokens, kv_heads, head_dim]`` that steer as a text does."""
    keys = reference.own_keys(reference.cycled(text, tokens))
    generator = torch.Generator().manual_seed(seed)
    return keys + 0.05 * keys.std() * torch.randn(keys.shape, generator=generator)


def saved(keys: torch.Tensor) -> bytes:
    return safetensors.torch.save({"prefix": keys.contiguous()})


def ask(client: openai.OpenAI, model: str, text: str, **more: Any) -> Any:
    asked = {"temperature": 0, "max_tokens": TOKENS} | more
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], **asked
    )


def wanted(reference: Reference, keys: torch.Tensor, text: str) -> str:
    ids = reference.greedy_after(keys, reference.chat_ids(text), tokens=TOKENS)
    return reference.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def prefixes(admin: Admin, reference: Reference) -> dict[str, torch.Tensor]:
    """`deep@a` and `deep@b`, in float32, of 9 tokens each: 180 rows of the bank's 1,024."""
    tensors = {name: noisy(reference, text, SIZE) for name, text in HINTS.items()}
    for name, tensor in tensors.items():
        admin.imported("deep", saved(tensor), version=name)
    return tensors


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # PEFT's own
@pytest.mark.parametrize("projection", [False, True], ids=["P-Tuning v2", "Prefix Tuning"])
def test_an_adapter_of_peft_answers_what_peft_answers(
    admin: Admin, server: Server, reference: Reference, tmp_path: Path, projection: bool
) -> None:
    client, model = server.client(), reference.folder
    torch.manual_seed(int(projection))
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=7,
        prefix_projection=projection,
        encoder_hidden_size=64,
    )
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    made.save_pretrained(str(tmp_path))
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        told = json.loads((tmp_path / "adapter_config.json").read_text())
        told["base_model_name_or_path"] = BASE  # as it is served here
        zipped.writestr("adapter_config.json", json.dumps(told))
        zipped.write(tmp_path / "adapter_model.safetensors", "adapter_model.safetensors")
    name = f"p{int(projection)}"
    uploaded = admin.imported("peft-deep", archive.getvalue(), version=name)
    assert uploaded["kind"] == "prefix"
    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), str(tmp_path)
    ).eval()
    # By ids, because what a prefix of random numbers says is no text.
    check_as_peft(client, f"peft-deep@{name}", tuned, reference, TEXTS)
    assert admin.http.delete(f"/prompts/peft-deep/versions/{name}").status_code == 200


def test_prefixes_steer_differently_and_as_transformers_says(
    client: openai.OpenAI, reference: Reference, prefixes: dict[str, torch.Tensor]
) -> None:
    answers = {
        (name, text): ask(client, f"deep@{name}", text).choices[0].message.content
        for name in prefixes
        for text in TEXTS
    }
    assert answers == {
        (name, text): wanted(reference, prefixes[name], text) for name, text in answers
    }
    assert any(answers["a", text] != answers["b", text] for text in TEXTS)


def test_a_stream_says_the_same_and_so_does_each_of_several_choices(
    client: openai.OpenAI, reference: Reference, prefixes: dict[str, torch.Tensor]
) -> None:
    told = wanted(reference, prefixes["a"], TICKET)
    chunks = list(ask(client, "deep@a", TICKET, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == told
    # Greedy sampling has one choice; from the likeliest token alone there may be several.
    several = ask(client, "deep@a", TICKET, n=2, temperature=1, extra_body={"top_k": 1})
    assert [choice.message.content for choice in several.choices] == [told, told]


def test_sixteen_at_once_of_every_kind_get_each_their_own(
    server: Server,
    support: dict[str, Any],
    rows: dict[str, torch.Tensor],
    reference: Reference,
    prefixes: dict[str, torch.Tensor],
) -> None:
    told = {
        (f"deep@{name}", text): wanted(reference, keys, text)
        for name, keys in prefixes.items()
        for text in TEXTS
    }
    for text in TEXTS:
        ids = reference.chat_ids(text)
        told[BASE, text] = reference.answer(ids, tokens=TOKENS)
        told["support@v2", text] = reference.answer(ids, rows["v2"], tokens=TOKENS)
    jobs = [*told] * 3
    order = sorted(range(len(jobs)), key=lambda i: (i * 7) % len(jobs))

    async def run() -> dict[int, str]:
        gate = asyncio.Semaphore(16)

        async def one(index: int) -> str:
            name, text = jobs[index]
            async with gate, server.async_client() as caller:
                answer = await caller.chat.completions.create(
                    model=name,
                    messages=[{"role": "user", "content": text}],
                    temperature=0,
                    max_tokens=TOKENS,
                )
            return answer.choices[0].message.content or ""

        return dict(zip(order, await asyncio.gather(*map(one, order)), strict=True))

    for index, answer in asyncio.run(run()).items():
        assert answer == told[jobs[index]], jobs[index]


def test_alternating_prefixes_and_users_salts_share_no_blocks(
    client: openai.OpenAI, reference: Reference, prefixes: dict[str, torch.Tensor]
) -> None:
    """A text of more than one block, so that visible blocks are in the prefix cache too."""
    text = " ".join(TEXTS * 3)
    told = {name: wanted(reference, keys, text) for name, keys in prefixes.items()}
    visible = len(reference.chat_ids(text))
    found = []
    for turn, name in enumerate("abababba"):
        salt = "x" if turn == 7 else None
        more = {} if salt is None else {"extra_body": {"cache_salt": salt}}
        answer = ask(client, f"deep@{name}", text, **more)
        assert answer.choices[0].message.content == told[name]
        found.append(answer.usage.prompt_tokens_details.cached_tokens)
    block = (SIZE + visible - 1) // 128 * 128
    assert block > SIZE
    # What is loaded counts as cached, as it is not computed.
    assert found == [SIZE, SIZE, block, block, block, block, block, SIZE]


def test_an_evicted_prefix_comes_back_from_the_host_and_answers_the_same(
    admin: Admin, client: openai.OpenAI, reference: Reference, prefixes: dict[str, torch.Tensor]
) -> None:
    ask(client, BASE, TICKET)  # a worker lets go of what the last request had with the next one
    for name, keys in prefixes.items():
        digest = admin.version("deep", name)["digest"]
        admin.worker_call("softprompt_unload", digest, False)
        assert digest in admin.workers()[0]["host"]
        answer = ask(client, f"deep@{name}", TICKET)
        assert answer.choices[0].message.content == wanted(reference, keys, TICKET)
        assert digest in admin.workers()[0]["resident"]


def test_a_prefix_that_was_lost_is_loaded_again(
    admin: Admin, client: openai.OpenAI, reference: Reference, prefixes: dict[str, torch.Tensor]
) -> None:
    digest = admin.version("deep", "a")["digest"]
    ask(client, "deep@a", TEXTS[1])
    admin.worker_call("softprompt_unload", digest, True)
    text = TEXTS[2]
    answer = ask(client, "deep@a", text)
    assert answer.choices[0].message.content == wanted(reference, prefixes["a"], text)


def test_a_prefix_that_can_not_be_loaded_is_an_error_and_no_answer(
    server: Server, admin: Admin, client: openai.OpenAI, reference: Reference
) -> None:
    keys = noisy(reference, "A text that nobody will hear.", 3)
    digest = admin.imported("vanished", saved(keys), version="v1")["digest"]
    ask(client, "vanished@v1", TICKET)
    for blob in (server.home / "blobs").rglob(f"*{digest}*"):
        blob.unlink()
    admin.worker_call("softprompt_unload", digest, True)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "vanished@v1", TICKET)
    assert caught.value.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert caught.value.body["code"] in {"blob_missing", "softprompt_lost"}  # type: ignore[index]
    admin.http.delete("/prompts/vanished/versions/v1")


def test_what_does_not_fit_the_model_is_refused_and_says_what_would(admin: Admin) -> None:
    answer = admin.upload("deep", saved(torch.zeros(30, 2, 4, 3, 32)), version="bad")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "artifact_wrong_kv_shape"
    assert "[30, 2, n, 3, 64]" in answer.json()["error"]["message"]


def kept(admin: Admin, digest: str) -> bool:
    """Whether the worker keeps a soft version's keys and values."""
    return all(keys_of(digest) in worker["resident"] for worker in admin.workers())


def test_a_soft_version_in_production_is_computed_once_and_then_loaded(
    admin: Admin, client: openai.OpenAI, reference: Reference
) -> None:
    for digest in admin.workers()[0]["resident"]:
        admin.worker_call("softprompt_unload", digest, False)  # so that there is room to spare
    tensor = reference.random_rows(9, seed=41)
    digest = admin.imported("kept", safetensors_bytes(tensor), version="v1")["digest"]
    before = ask(client, "kept@v1", TICKET)
    admin.alias("kept", "production", "v1")
    deadline = time.monotonic() + 30  # the swap waits for it only for a moment
    while not kept(admin, digest) and time.monotonic() < deadline:
        time.sleep(0.1)
    after = ask(client, "kept", TICKET)
    told = reference.answer(reference.chat_ids(TICKET), tensor, tokens=TOKENS)
    assert before.choices[0].message.content == after.choices[0].message.content == told
    assert before.usage.prompt_tokens_details.cached_tokens == 0
    assert after.usage.prompt_tokens_details.cached_tokens == 9

    # Keys that vanish are no loss: the rows are computed as before.
    admin.worker_call("softprompt_unload", keys_of(digest), True)
    again = ask(client, "kept", TEXTS[1])
    told = reference.answer(reference.chat_ids(TEXTS[1]), tensor, tokens=TOKENS)
    assert again.choices[0].message.content == told
    assert again.usage.prompt_tokens_details.cached_tokens == 0
