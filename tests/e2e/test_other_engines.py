"""Engines started otherwise: plain vLLM, tiny chunks and cache, a flag that is missing."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch
from e2e.conftest import PROMPTS, TICKET, import_versions
from e2e.harness import PLAIN, Admin, Server
from e2e.reference import Reference, safetensors_bytes
from faults.engine import Callers, answer_of, kill, until_gone
from safetensors.torch import load_file, save_file

from softprompt_serve.demo import tickets
from softprompt_serve.release.policy import parse_policy

CONNECTOR = {
    "kv_connector": "DeepPrompts",
    "kv_connector_module_path": "softprompt_serve.vllm_plugin.deep",
    "kv_role": "kv_both",
}
OUR_FLAGS = (
    *("--worker-extension-cls", "softprompt_serve.vllm_plugin.worker.SoftpromptWorker"),
    *("--enable-prompt-embeds", "--kv-transfer-config", json.dumps(CONNECTOR)),
)
API_KEY = "none"  # what the harness' clients send
KEYED = {"authorization": f"Bearer {API_KEY}"}
PLUGIN = {"VLLM_PLUGINS": "softprompt_serve"}
TOKENS = 56
UPDATE = 0.2
"""Noise in the updated weights, of their own standard deviation."""

SHIFTED = 3
"""Exit status of a watch that found a shift."""

DEMO_GATES = {
    "win exact_match on support-test",
    "hold exact_match on support-ood",
    "hold exact_match on bbh against base",
    "hold is_option on bbh against base",
}


@pytest.fixture(scope="module")
def tight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Plain vLLM with the documented flags; chunks of 48 tokens; cache for about four requests.

    Promotions take evidence here, as they do by default.
    """
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
        environment={**PLUGIN, "SOFTPROMPT_PROMOTION_GATES": "enforce"},
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
    sentence = "Everything that follows is said by a sailor."
    keys = {f"k{n}": reference.own_keys(reference.cycled(sentence, n)) for n in (129, 60)}
    for name, tensor in keys.items():
        admin.imported("tight", safetensors.torch.save({"keys": tensor}), version=name)
    texts = [TICKET, "Once upon a time"]
    jobs = [(name, text) for text in texts for name in (*tensors, *keys)] * 2

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
            ids = reference.text_ids(text)
            if name in keys:
                told = reference.greedy_after(keys[name], ids, tokens=TOKENS, ends=False)
            else:
                told = reference.greedy_past_the_end(ids, tensors[name], tokens=TOKENS)
            wanted[job] = reference.tokenizer.decode(told, skip_special_tokens=True)
        assert answer == wanted[job], job


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


def promote(admin: Admin, prompt: str, **body: Any) -> httpx.Response:
    return admin.http.post(f"/prompts/{prompt}/rollout/promote", json=body)


def newest_change(admin: Admin) -> dict[str, Any]:
    (entry,) = admin.http.get("/audit", params={"limit": 1}).json()["data"]
    return dict(entry)


def check_refused(admin: Admin, prompt: str, **body: Any) -> dict[str, Any]:
    """Evidence is missing: a 409 that says so, and nothing is changed. Returns the error."""
    before = newest_change(admin), admin.http.get(f"/prompts/{prompt}").json()
    answer = promote(admin, prompt, **body)
    assert answer.status_code == 409, answer.text
    assert (newest_change(admin), admin.http.get(f"/prompts/{prompt}").json()) == before
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == "gates_failed"
    return error


def ask(server: Server, prompt: str) -> tuple[str, str | None]:
    """Who answers the prompt's own name, and what."""
    with server.client() as client:
        answer = client.chat.completions.create(
            model=prompt,
            messages=[{"role": "user", "content": TICKET}],
            temperature=0,
            max_tokens=8,
        )
        return answer.model, answer.choices[0].message.content


def test_the_demos_evidence_promotes_its_version_and_nothing_else_does(
    tight: Server, reference: Reference, rows: dict[str, torch.Tensor], hard_text: str
) -> None:
    admin = tight.admin()
    import_versions(admin)
    admin.alias("support", "production", "v1")
    policy = parse_policy((PROMPTS / "support-policy.yaml").read_text()).to_json()
    assert admin.http.put("/prompts/support/policy", json=policy).status_code == 200
    old = "support@v1", reference.answer(reference.chat_ids(TICKET, hard_text), tokens=8)
    assert ask(tight, "support") == old
    gates = check_refused(admin, "support", version="v3")["details"]["gates"]
    assert {gate["name"] for gate in gates if not gate["passed"]} == DEMO_GATES
    assert ask(tight, "support") == old
    for run in sorted((PROMPTS / "support-evidence").glob("*.json")):
        if "v3" not in json.loads(run.read_bytes())["digests"]:
            continue
        answer = admin.http.post("/prompts/support/runs", content=run.read_bytes())
        assert answer.status_code == 201, answer.text
    assert promote(admin, "support", version="v3").status_code == 200
    assert newest_change(admin)["detail"]["gates"] == "passed"
    new = reference.answer(reference.chat_ids(TICKET), rows["v3"], tokens=8)
    assert new != old[1]
    assert ask(tight, "support") == ("support@v3", new)


def test_a_promotion_is_forced_with_a_reason_that_is_kept(
    tight: Server, reference: Reference
) -> None:
    admin, rows = tight.admin(), reference.random_rows(4, seed=4)
    admin.imported("forced", version="v1", kind="hard", text="Be brief.")
    admin.imported("forced", safetensors_bytes(rows), version="v2")
    admin.alias("forced", "production", "v1")
    check_refused(admin, "forced", version="v2")
    answer = promote(admin, "forced", version="v2", force=True)
    assert answer.status_code == 422
    assert "reason" in answer.json()["error"]["message"]
    assert ask(tight, "forced")[0] == "forced@v1"
    forced = {"version": "v2", "force": True, "reason": "The text is gone."}
    assert promote(admin, "forced", **forced).status_code == 200
    detail = newest_change(admin)["detail"]
    assert (detail["gates"], detail["forced"]) == ("forced", "The text is gone.")
    assert detail["failed"]
    wanted = reference.answer(reference.chat_ids(TICKET), rows, tokens=8)
    assert ask(tight, "forced") == ("forced@v2", wanted)


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
    told = reference.greedy_past_the_end(reference.text_ids(TICKET), tensor, tokens=TOKENS)
    assert text == reference.tokenizer.decode(told, skip_special_tokens=True)
    assert tight.wait_exit() == 0


@pytest.fixture(scope="module")
def updated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model after an update that a text survives better than a tensor does."""
    folder = tmp_path_factory.mktemp("updated") / "model"
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    generator = torch.Generator().manual_seed(7)
    weights = load_file(model / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim > 1 and "embed" not in name:
            noise = torch.randn(weight.shape, generator=generator)
            weights[name] = weight + UPDATE * weight.std() * noise
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def after_update(tight: Server, updated: Path) -> Iterator[Server]:
    """The server that was ended, started again on the updated model: same home, same catalogue."""
    assert tight.process is None or tight.process.poll() is not None
    server = Server(
        updated,
        tight.home,
        flags=("--max-model-len", "2048", "--max-num-seqs", "16", "--enforce-eager"),
        environment={"SOFTPROMPT_PROMOTION_GATES": "enforce"},
    )
    try:
        yield server.start()
    finally:
        server.stop()


def test_after_a_base_update_the_hard_baseline_answers(
    after_update: Server, updated: Path, rows: dict[str, torch.Tensor], hard_text: str
) -> None:
    """Follows those above: v3 was promoted there, on evidence from before the update."""
    admin, reference = after_update.admin(), Reference(updated)
    why = admin.version("support", "v3")["unverified"]
    assert why.startswith("imported on weights")  # its record names no fingerprint
    prompt = admin.http.get("/prompts/support").json()
    assert (prompt["aliases"]["production"], prompt["stand_in"]) == ("v3", "v1")
    text = reference.answer(reference.chat_ids(TICKET, hard_text), tokens=8)
    for name in ("support", "support@production"):
        assert ask(after_update, name) == ("support@v1", text)
    # Pinned it is still itself, or nobody could evaluate it.
    pinned = reference.answer(reference.chat_ids(TICKET), rows["v3"], tokens=8)
    assert ask(after_update, "support@v3") == ("support@v3", pinned)
    # Forced once, on other weights: no evidence, and none for these.
    assert ask(after_update, "forced")[0] == "forced@v1"


def test_a_watch_finds_what_the_update_did_and_no_evidence_lets_it_through(
    after_update: Server, tmp_path: Path
) -> None:
    admin = after_update.admin()
    data = f"support-test={tickets.DATA / 'test.jsonl'}"
    watch = ["eval", "watch", "--prompt", "support", "--versions", "v3", "--dataset", data]
    found = after_update.command_line(
        *watch, "--concurrency", "16", folder=tmp_path, status=SHIFTED
    )
    assert found["runs"][0]["reference"]["base"]["fingerprint"] != found["base"]["fingerprint"]
    assert {one["version"] for one in found["shifts"]} == {"v3"}
    assert {one["direction"] for one in found["shifts"]} == {"worse"}
    refused = admin.http.post("/prompts/support/versions/v3/verify")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "gates_failed")
    assert admin.version("support", "v3")["unverified"]
    assert ask(after_update, "support")[0] == "support@v1"


def test_a_killed_worker_ends_every_call_in_an_answer_or_an_error_and_then_the_server(
    after_update: Server,
) -> None:
    """The last of this engine's tests. What a restart finds is held by `make faults`."""
    labels = ("support@v1", "support@v3")
    wanted = {label: answer_of(after_update, label) for label in labels}
    callers = Callers(after_update, list(labels), wanted)
    with callers.asking(seed=1):
        callers.wait_answered(3)
        kill(after_update, "worker")
        _seconds, _status, said = until_gone(after_update)
    assert callers.wrong == []
    assert callers.came["refused"] + callers.came["broken off"]
    assert 200 not in said, "ready, with a dead engine"


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
