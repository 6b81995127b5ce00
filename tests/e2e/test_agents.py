"""An agent's planner, retriever and final answer with prompts of their own, in one trace.

The application is the one that docs/agents.md shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from e2e.conftest import TICKET
from e2e.harness import Admin, Server
from e2e.reference import Reference, safetensors_bytes
from e2e.teach import CALLS, FILE, ROWS
from e2e.test_metrics import Page, eventually
from e2e.test_spans import SERVER, engines
from opentelemetry import trace
from otlp_receiver import Received, Receiver
from safetensors.torch import load_file
from typer.testing import CliRunner

from softprompt_serve.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
ROUTES = ("planner", "retriever", "final_answer")
NAMED = 'model=f"shop-{route}"'
QUERY = "Write three words to search for."
FACT = "The parcel waits at the post office."
KINDS = {"planner": "soft", "retriever": "hard", "final_answer": "soft"}
VIRTUAL = {"planner": ROWS, "retriever": 0, "final_answer": 12}
TOKENS = 48  # as the page's application asks


def blocks(language: str) -> list[str]:
    """What the page shows in that language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@dataclass
class Told:
    """One answer of a step, with the ids of the trace and of the span that it was asked in."""

    route: str
    message: Any
    place: tuple[str, str]


@dataclass
class Application:
    """The page's application, with its tools; it remembers what each step was told."""

    names: dict[str, Any]
    told: list[Told] = field(default_factory=list)
    called: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        step = self.names["step"]

        def remembered(route: str, text: str, **more: Any) -> Any:
            message = step(route, text, **more)
            at = trace.get_current_span().get_span_context()
            place = f"{at.trace_id:032x}", f"{at.span_id:016x}"
            self.told.append(Told(route, message, place))
            return message

        self.names["step"] = remembered

    def respond(self) -> str:
        answer: str = self.names["respond"](TICKET, self._run, self._search)
        return answer

    def _run(self, name: str, **arguments: Any) -> str:
        self.called.append((name, arguments))
        return FACT

    def _search(self, query: str) -> list[str]:
        self.searched.append(query)
        return []


@pytest.fixture(scope="module")
def rows(reference: Reference) -> dict[str, torch.Tensor]:
    """Planners that were taught to call the right and the wrong tool, and the last step's."""
    taught = load_file(FILE)
    return {
        "planner": taught["find_parcel"],
        "refund": taught["refund"],
        "final_answer": reference.random_rows(VIRTUAL["final_answer"], seed=12),
    }


@pytest.fixture(scope="module")
def prompts(admin: Admin, rows: dict[str, torch.Tensor]) -> None:
    """A prompt for each step, and `shop`, which has all three as its versions v1, v2 and v3."""
    for prompt, version in (("shop-planner", "v7"), ("shop", "v1")):
        admin.imported(prompt, safetensors_bytes(rows["planner"]), version=version)
    admin.imported("shop-planner", safetensors_bytes(rows["refund"]), version="v8")
    for prompt, version in (("shop-retriever", "v3"), ("shop", "v2")):
        admin.imported(prompt, version=version, kind="hard", text=QUERY)
    for prompt, version in (("shop-final_answer", "v12"), ("shop", "v3")):
        admin.imported(prompt, safetensors_bytes(rows["final_answer"]), version=version)
    for prompt, version in (
        *(("shop-planner", "v7"), ("shop-retriever", "v3")),
        *(("shop-final_answer", "v12"), ("shop", "v3")),
    ):
        admin.alias(prompt, "production", version)


@pytest.fixture
def start(
    server: Server, prompts: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Application]]:
    """Start the page's application; with ``model``, its steps ask for that one instead."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    started: list[Application] = []

    def run(model: str | None = None) -> Application:
        (text,) = blocks("python")
        if model is not None:
            assert NAMED in text
            text = text.replace(NAMED, f'model="{model}"')
        names: dict[str, Any] = {}
        exec(compile(text, "agents.md", "exec"), names)
        started.append(Application(names))
        return started[-1]

    yield run
    for one in started:
        one.names["client"].close()


def ours(spans: Receiver, told: list[Told]) -> dict[str, Received]:
    """The server's spans below the application's own, by route."""
    (place,) = {one.place for one in told}
    found = spans.wait_for(
        lambda span: span.kind == SERVER and (span.trace_id, span.parent_id) == place,
        count=len(told),
    )
    assert len(found) == len(told)
    return {span.attributes["softprompt.route"]: span for span in found}


def inputs(reference: Reference) -> dict[str, list[int]]:
    """Visible token ids of each step, as the application asks."""
    return {
        "planner": reference.chat_ids(TICKET),
        "retriever": reference.chat_ids(TICKET, QUERY),
        "final_answer": reference.chat_ids(f"{FACT}\n{TICKET}"),
    }


def check_answers(
    application: Application, reference: Reference, rows: dict[str, torch.Tensor]
) -> None:
    """Each step answered as Transformers does with that step's own rows or text."""
    planner, retriever, final = application.told
    assert [one.route for one in application.told] == list(ROUTES)
    (call,) = planner.message.tool_calls
    assert application.called == [("find_parcel", {"day": "Monday"})]
    wanted = reference.answer(inputs(reference)["planner"], rows["planner"], tokens=TOKENS)
    assert wanted == CALLS["find_parcel"]
    assert json.loads(wanted.removeprefix("<tool_call>").removesuffix("</tool_call>")) == {
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
    }
    query = reference.answer(inputs(reference)["retriever"], tokens=TOKENS)
    assert application.searched == [retriever.message.content] == [query]
    ids = inputs(reference)["final_answer"]
    own = reference.answer(ids, rows["final_answer"], tokens=TOKENS)
    assert own != reference.answer(ids, tokens=TOKENS)
    assert final.message.content == own


def outputs(reference: Reference, rows: dict[str, torch.Tensor], route: str) -> int:
    """Generated tokens of a step's answer, with the end of its turn where there is room for it."""
    said = reference.greedy(inputs(reference)[route], rows.get(route), tokens=TOKENS)
    return min(len(said) + 1, TOKENS)


def check_counts(
    admin: Admin,
    reference: Reference,
    rows: dict[str, torch.Tensor],
    versions: dict[str, tuple[str, str]],
) -> None:
    """Each route has one series with an answer: its own version's, with its own tokens."""
    names = {prompt for prompt, _ in versions.values()}

    def answered() -> dict[str, dict[str, str]]:
        page = Page(admin)
        found = [
            sample.labels
            for sample in page.of("softprompt_requests_total", status="200")
            if sample.value
            and sample.labels["prompt"] in names
            and sample.labels["route"] in ROUTES
        ]
        assert len({labels["route"] for labels in found}) == len(found)
        return {labels["route"]: labels for labels in found}

    eventually(lambda: answered().keys() == set(ROUTES))
    page = Page(admin)
    for route, labels in answered().items():
        assert (labels["prompt"], labels["version"]) == versions[route]
        assert labels["cohort"] == ("tool_calling" if route == "planner" else "default")
        assert page.value("softprompt_requests_total", **labels) == 1
        sliced = {name: value for name, value in labels.items() if name != "status"}
        tokens = {
            kind: page.value(f"softprompt_{kind}_tokens_total", **sliced)
            for kind in ("visible", "virtual", "output")
        }
        assert tokens == {
            "visible": len(inputs(reference)[route]),
            "virtual": VIRTUAL[route],
            "output": outputs(reference, rows, route),
        }
        assert page.value("softprompt_time_to_first_token_seconds_count", **sliced) == 1


def test_each_step_has_its_own_version_in_one_trace(
    *,
    start: Callable[..., Application],
    admin: Admin,
    reference: Reference,
    rows: dict[str, torch.Tensor],
    spans: Receiver,
) -> None:
    application = start()
    assert application.respond() == application.told[-1].message.content
    check_answers(application, reference, rows)
    found = ours(spans, application.told)
    versions = {
        route: (span.attributes["softprompt.name"], span.attributes["softprompt.version"])
        for route, span in found.items()
    }
    assert versions == {
        "planner": ("shop-planner", "v7"),
        "retriever": ("shop-retriever", "v3"),
        "final_answer": ("shop-final_answer", "v12"),
    }
    for route, span in found.items():
        assert span.attributes["softprompt.kind"] == KINDS[route]
        assert span.attributes["softprompt.virtual_tokens"] == VIRTUAL[route]
        assert span.attributes["llm.token_count.prompt"] == len(inputs(reference)[route])
        assert engines(spans, span).trace_id == span.trace_id
    check_counts(admin, reference, rows, versions)


def test_one_prompt_may_be_routed_by_rule(
    *,
    start: Callable[..., Application],
    admin: Admin,
    reference: Reference,
    rows: dict[str, torch.Tensor],
    spans: Receiver,
) -> None:
    (document,) = (json.loads(block) for block in blocks("json") if '"arms"' in block)
    assert admin.http.put("/prompts/shop/rollout", json=document).status_code == 200
    application = start(model="shop")
    application.respond()
    check_answers(application, reference, rows)
    reasons = {
        route: (span.attributes["softprompt.version"], span.attributes["softprompt.reason"])
        for route, span in ours(spans, application.told).items()
    }
    assert reasons == {
        "planner": ("v1", "rule"),
        "retriever": ("v2", "rule"),
        "final_answer": ("v3", "split"),
    }
    versions = {route: ("shop", version) for route, (version, _) in reasons.items()}
    check_counts(admin, reference, rows, versions)


def test_an_evaluation_finds_the_version_that_calls_another_tool(
    server: Server, start: Callable[..., Application], tmp_path: Path
) -> None:
    item = {
        "messages": [{"role": "user", "content": TICKET}],
        "tools": start().names["TOOLS"],
        "expected": {"name": "find_parcel", "arguments": {"day": "Monday"}},
        "cohort": "tool_calling",
    }
    dataset = tmp_path / "planner-tools.jsonl"
    dataset.write_text(json.dumps(item))
    asked = ("-p", "shop-planner", "--versions", "v7,v8", "--dataset", str(dataset))
    result = CliRunner().invoke(
        app,
        [
            *("eval", "run", *asked, "-e", "tool_call", "--max-tokens", str(TOKENS)),
            *("--results", str(tmp_path / "r.jsonl"), "--no-upload", "--json"),
        ],
        env={"SOFTPROMPT_URL": server.url, "SOFTPROMPT_HOME": str(server.home)},
    )
    assert result.exit_code == 0, result.output
    scores = {row["version"]: row["mean"] for row in json.loads(result.stdout)["scores"]}
    assert scores == {"v7": 1.0, "v8": 0.0}
