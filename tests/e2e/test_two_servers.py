"""Two API servers in front of one engine: what one does the other follows, counts and traces."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import safetensors.torch
from e2e.conftest import TICKET, import_support
from e2e.harness import BASE, Server
from e2e.reference import Reference, safetensors_bytes
from e2e.test_metrics import Page, eventually
from otlp_receiver import Receiver

TOKEN = "a-token-for-two"
PRICES = {"input": 1.0, "cached_input": 0.25, "virtual": 0.5, "output": 4.0}
HOOK = """
def redact(kind, text):
    return text.replace("parcel", "[goods]") if kind == "input" else None
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with Receiver("http/protobuf") as receiver:
        yield receiver


@pytest.fixture(scope="module")
def pair(
    model: Path, collector: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Two API servers in front of one engine; with prices, texts on spans past a hook, and keys."""
    home = tmp_path_factory.mktemp("pair")
    (home / "e2e_redaction.py").write_text(HOOK)
    server = Server(
        model,
        home,
        flags=(
            *("--max-model-len", "512", "--max-num-seqs", "16", "--enforce-eager"),
            *("--api-server-count", "2"),
        ),
        environment={
            **collector.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH")))),
            "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
            "SOFTPROMPT_CALLER_ACCESS": "tokens",
            "SOFTPROMPT_TENANT_SALT": "token",
            "SOFTPROMPT_PRICES": json.dumps({BASE: PRICES}),
            "SOFTPROMPT_TRACE_CONTENT": "true",
            "SOFTPROMPT_TRACE_REDACT": "e2e_redaction:redact",
        },
        key=TOKEN,
    )
    try:
        yield server.start()
    finally:
        server.stop()


def let_both_follow(server: Server) -> None:
    """Wait until the kernel finds one revision wherever it sends 16 connections.

    A change is seen at once where it was made; the other server looks ten times a second.
    """
    eventually(lambda: len({revision(server) for _ in range(16)}) == 1)


def revision(server: Server) -> int:
    """What is served by one of both: each call is a connection of its own."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = httpx.get(f"{server.url}/softprompts/v1/server", headers=headers)
    return int(answer.raise_for_status().json()["catalogue_revision"])


def ask_each(server: Server, model: str, times: int = 16) -> set[tuple[str, str]]:
    """Answers over fresh connections, which the kernel spreads over both servers."""
    answers = set()
    for _ in range(times):
        with server.client() as client:
            answer = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": TICKET}],
                temperature=0,
                max_tokens=8,
            )
            answers.add((answer.model, answer.choices[0].message.content))
    return answers


def test_two_api_servers_follow_each_others_changes(pair: Server, reference: Reference) -> None:
    admin = pair.admin(TOKEN)
    visible = reference.chat_ids(TICKET)
    tensors = reference.distinct_rows(140, visible, ("v1", "v2"), tokens=8)
    for name, tensor in tensors.items():
        admin.imported("shared", safetensors_bytes(tensor), version=name)
    for name in ("v1", "v2", "v1"):
        admin.alias("shared", "production", name)
        let_both_follow(pair)
        wanted = reference.answer(visible, tensors[name], tokens=8)
        assert ask_each(pair, "shared") == {(f"shared@{name}", wanted)}
    keys = reference.own_keys(reference.cycled("Speak of ships and the sea.", 9))
    admin.imported("shared", safetensors.torch.save({"keys": keys}), version="deep")
    admin.alias("shared", "production", "deep")
    let_both_follow(pair)
    told = reference.greedy_after(keys, visible, tokens=8)
    wanted = reference.tokenizer.decode(told, skip_special_tokens=True)
    assert ask_each(pair, "shared") == {("shared@deep", wanted)}
    admin.alias("shared", "production", "v1")
    let_both_follow(pair)


def test_a_crash_loses_nothing_that_was_acknowledged(pair: Server, reference: Reference) -> None:
    admin = pair.admin(TOKEN)
    import_support(admin)
    let_both_follow(pair)
    before = admin.http.get("/prompts").json()
    audit = admin.http.get("/audit").json()
    answers = ask_each(pair, "support", times=2)
    pair.stop(signal.SIGKILL)
    pair.start()
    admin = pair.admin(TOKEN)
    after = admin.http.get("/prompts").json()
    assert after == before
    assert admin.http.get("/audit").json() == audit
    states = {v["state"] for prompt in after["data"] for v in prompt["versions"]}
    assert states == {"resident"}
    assert ask_each(pair, "support", times=4) == answers


def test_both_servers_count_on_one_page(pair: Server) -> None:
    admin = pair.admin(TOKEN)
    admin.imported("counted", kind="hard", text="Be brief.")
    admin.alias("counted", "production", "v1")
    let_both_follow(pair)
    before = Page(admin)
    assert before.value("softprompt_requests_total", prompt="counted", version="v1") == 0
    times = 12
    ask_each(pair, "counted", times=times)
    eventually(lambda: Page(admin).value("softprompt_requests_total", prompt="counted") == times)
    page = Page(admin)
    told = {"prompt": "counted", "version": "v1"}
    assert page.value("softprompt_time_to_first_token_seconds_count", **told) == times
    assert page.value("softprompt_rollout_weight_ratio", **told) == 1
    (worker,) = admin.workers()
    assert page.value("softprompt_bank_used_rows") == worker["used_rows"]
    assert page.value("softprompt_build_info") == 1
    tokens = {
        kind: page.value(f"softprompt_{kind}_tokens_total", **told)
        for kind in ("visible", "virtual", "cached", "output")
    }
    assert tokens["output"] == 8 * times
    cost = (
        (tokens["visible"] - tokens["cached"]) * PRICES["input"]
        + tokens["cached"] * PRICES["cached_input"]
        + tokens["output"] * PRICES["output"]
    ) / 1e6
    assert page.value("softprompt_cost_usd_total", **told) == pytest.approx(cost)
    assert page.value("softprompt_token_cost_per_trace_usd_count", **told) == times


def test_spans_of_both_layers_come_over_http_with_texts_that_passed_the_hook(
    pair: Server, collector: Receiver
) -> None:
    import_support(pair.admin(TOKEN))
    let_both_follow(pair)
    raw = pair.client().chat.completions.with_raw_response.create(
        model="support@v3",
        messages=[{"role": "user", "content": TICKET}],
        temperature=0,
        max_tokens=8,
    )
    trace = raw.headers["x-softprompt-trace-id"]
    (ours,) = collector.wait_for(
        lambda span: span.trace_id == trace and span.name == "chat support"
    )
    (engines,) = collector.wait_for(
        lambda span: span.trace_id == trace and span.name == "llm_request"
    )
    assert engines.parent_id == ours.span_id
    assert ours.resource["service.name"] == "softprompt-serve"
    assert "My [goods] was due on Monday" in ours.attributes["input.value"]
    assert "parcel" not in repr(collector.received)
    assert "output.value" not in ours.attributes
    assert ours.attributes["softprompt.token_cost_per_trace"] > 0


def test_feedback_may_go_to_the_server_that_did_not_answer(pair: Server) -> None:
    import_support(pair.admin(TOKEN))
    let_both_follow(pair)
    answer = pair.client().chat.completions.create(
        model="support@v3", messages=[{"role": "user", "content": TICKET}], max_tokens=2
    )
    for kind in ("thumbs_up", "thumbs_down", "escalation", "refund", "correction"):
        told = httpx.post(  # over a connection of its own, so that both are asked
            f"{pair.url}/softprompts/v1/feedback",
            json={"response_id": answer.id, "kind": kind},
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=60,
        )
        assert told.status_code == 201, told.text
        assert told.json()["answer"]["version"] == "v3"


def key_for(pair: Server, name: str, *prompts: str) -> str:
    body = {"name": name, "scopes": ["caller"], "prompts": prompts}
    answer = pair.admin(TOKEN).http.post("/tokens", json=body)
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["token"]
    return key


def asked(pair: Server, model: str, key: str, path: str = "/v1/chat/completions") -> httpx.Response:
    """Over a connection of its own, so that both servers are asked."""
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": TICKET}]}
    if path == "/v1/responses":
        body = {"model": model, "input": TICKET, "store": False}
    elif path == "/v1/completions":
        body = {"model": model, "prompt": TICKET}
    elif path == "/v1/messages":
        body["max_tokens"] = 2
    elif path.endswith("/batch"):
        body["messages"] = [body["messages"]]
    return httpx.post(
        pair.url + path, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/chat/completions/batch",
        "/tokenize",
    ],
)
def test_a_prompt_of_others_looks_like_one_that_does_not_exist(pair: Server, path: str) -> None:
    import_support(pair.admin(TOKEN))
    pair.admin(TOKEN).imported("secret", kind="hard", text="Nobody's business.")
    key = key_for(pair, f"reader-of{path.replace('/', '-').replace('_', '-')}", "supp*")
    let_both_follow(pair)
    seen = set()
    for _ in range(3):
        for model in ("secret", "secret@v1", BASE, "nobody"):
            answer = asked(pair, model, key, path)
            headers = set(answer.headers) - {"x-softprompt-trace-id"}
            seen.add((answer.status_code, answer.text.replace(model, "it"), frozenset(headers)))
            assert answer.headers["x-softprompt-error"] == "model_not_found"
    ((status, _, headers),) = seen
    assert status == 404
    assert not [
        name for name in headers if name.startswith("x-softprompt-") and "error" not in name
    ]


def test_a_key_opens_its_own_prompts_until_it_is_revoked_on_both_servers(pair: Server) -> None:
    import_support(pair.admin(TOKEN))
    key = key_for(pair, "support-team", "support")
    let_both_follow(pair)
    for _ in range(6):
        answer = asked(pair, "support@v3", key)
        assert (answer.status_code, answer.json()["model"]) == (200, "support@v3")
    listed = httpx.get(f"{pair.url}/v1/models", headers={"authorization": f"Bearer {key}"}).json()
    assert {model["id"].partition("@")[0] for model in listed["data"]} == {"support"}
    assert httpx.get(f"{pair.url}/v1/models").status_code == 401
    assert pair.admin(TOKEN).http.delete("/tokens/support-team").status_code == 200
    let_both_follow(pair)
    assert {asked(pair, "support@v3", key).status_code for _ in range(6)} == {401}
    log = pair.log.read_text(errors="replace")
    assert key not in log
    assert key.rpartition("_")[2] not in log


def test_keys_do_not_share_cached_prefixes(pair: Server) -> None:
    import_support(pair.admin(TOKEN))
    keys = [key_for(pair, f"tenant-{name}", "support", "@base") for name in "ab"]
    let_both_follow(pair)
    text = "The parcel of the first customer is late. " * 20  # more than a block of 128 tokens

    def cached(model: str, key: str) -> int:
        answer = httpx.post(
            f"{pair.url}/v1/completions",
            json={"model": model, "prompt": text, "max_tokens": 1},
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
        ).json()
        details = answer["usage"]["prompt_tokens_details"]
        return 0 if details is None else details["cached_tokens"] or 0

    for model in (BASE, "support@v3"):
        first, again, others = (
            cached(model, keys[0]),
            cached(model, keys[0]),
            cached(model, keys[1]),
        )
        assert (first, again > 0, others) == (0, True, 0), model
