"""The commands of docs/agents.md: a prompt that calls the wrong tool is not promoted.

The model is a fake endpoint that answers with OpenAI's tool calls; the server is the real admin API.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli.conftest import Cli
from click.testing import Result
from evaluation.fake_endpoint import Fake, question_of

from softprompt_serve.release.records import BaseModelIdentity
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    BASE_MODEL,
    FakeWorkers,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
PROMPT = "shop-planner"
ITEMS = 100
RIGHT, WRONG = "find_parcel", "refund"
"""Tools: the one that is expected, and the other that the page offers."""
PROMOTE = ["rollout", "promote"]
COHORT, HOLD = "cohort tool_calling by tool_call", "hold tool_call on planner-tools"


def shown(language: str, holding: str) -> str:
    """The page's block in that language which holds a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = (block for block in blocks if holding in block)
    return str(found)


def planner(version: str, body: dict[str, Any]) -> Any:
    """The soft versions word better than v1; v2 calls the wrong tool one time in five."""
    number = int(question_of(body).rsplit(" ", 1)[1])
    if "tools" not in body:
        return "yes" if version != "v1" or number % 2 else "no"
    tool = WRONG if version == "v2" and number % 5 == 0 else RIGHT
    call = {"name": tool, "arguments": '{"day": "Monday"}'}
    return [{"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": call}]}]


def texts() -> Iterator[str]:
    for number in range(ITEMS):
        yield json.dumps({"prompt": f"Is it late? Parcel {number}", "expected": "yes"})


def tool_calls() -> Iterator[str]:
    """The item that the page shows, in other words each time."""
    item = json.loads(shown("json", '"expected"'))
    assert (item["expected"]["name"], item["cohort"]) == (RIGHT, "tool_calling")
    assert [tool["function"]["name"] for tool in item["tools"]] == [RIGHT, WRONG]
    for number in range(ITEMS):
        messages = [{"role": "user", "content": f"Where is parcel {number}"}]
        yield json.dumps({**item, "messages": messages})


@pytest.fixture
def shop(clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """The planner's v1, a text in production, and v2 and v3, tensors; gates are enforced."""
    workers, fake = FakeWorkers(), Fake(rule=planner)
    service = service_for_tests(
        tmp_path / "server",
        workers=workers,
        settings=settings_for_tests(tmp_path / "server", promotion_gates="enforce"),
        identity=BaseModelIdentity(name=BASE_MODEL, fingerprint="f" * 64),
    )
    web = app_for_tests(service)
    for path in ("/v1/chat/completions", "/v1/completions"):
        web.add_route(path, fake.complete, methods=["POST"])
    with serving(web) as url:
        monkeypatch.setenv("SOFTPROMPT_URL", url)
        monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", ADMIN_TOKEN)
        monkeypatch.chdir(tmp_path)
        cli = Cli(url, workers, tmp_path)
        cli("import", "-p", PROMPT, "--text", "Pick a tool.")
        for fill in (0.25, 0.75):
            cli("import", cli.tensor(fill=fill), "-p", PROMPT)
        cli("alias", PROMPT, "production", "v1")
        versions = cli.json("show", PROMPT)["versions"]
        digests = {version["version"]: version["digest"] for version in versions}
        fake.digest_of = digests.__getitem__
        (tmp_path / "policy.yaml").write_text(shown("yaml", "baseline"))
        (tmp_path / "planner-texts.jsonl").write_text("\n".join(texts()))
        (tmp_path / "planner-tools.jsonl").write_text("\n".join(tool_calls()))
        yield cli


def release(cli: Cli, version: str, *, fails: int = 0) -> list[Result]:
    """The page's commands for that version; the last two, the check and the promotion, may fail."""
    lines = shown("console", "policy set").replace("v2", version).splitlines()
    commands = [shlex.split(line)[1:] for line in lines]
    assert [command[:2] for command in commands[-2:]] == [["policy", "check"], PROMOTE]
    proven = [cli(*command) for command in commands[:-2]]
    return [*proven, *(cli(*command, fails=fails) for command in commands[-2:])]


def production(cli: Cli) -> str:
    return str(cli.json("show", PROMPT)["aliases"]["production"])


def test_a_version_that_calls_the_wrong_tool_is_refused_whatever_it_says(shop: Cli) -> None:
    *_, checked, promoted = release(shop, "v2", fails=1)
    assert COHORT in " ".join(checked.stdout.split())
    assert "code: gates_failed" in promoted.stderr
    answer = httpx.post(
        f"{shop.url}/softprompts/v1/prompts/{PROMPT}/rollout/promote",
        json={"version": "v2"},
        headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, "gates_failed")
    gates = {gate["name"]: gate for gate in error["details"]["gates"]}
    assert {name for name, gate in gates.items() if not gate["passed"]} == {COHORT, HOLD}
    assert gates["win exact_match on planner-texts"]["passed"]
    numbers = gates[COHORT]["numbers"]
    means = (numbers["candidate_mean"], numbers["against_mean"])
    assert (*means, numbers["items"], numbers["worse"]) == (0.8, 1.0, ITEMS, ITEMS // 5)
    assert HOLD in error["message"]
    assert " ".join(shown("text", COHORT).split()) in error["message"]
    assert production(shop) == "v1"


def test_a_version_that_keeps_the_tools_is_promoted(shop: Cli) -> None:
    *_, checked, promoted = release(shop, "v3")
    assert "passes every gate" in checked.stdout
    assert promoted.exit_code == 0
    assert production(shop) == "v3"


def test_without_tool_calls_in_the_evidence_nothing_is_promoted(shop: Cli) -> None:
    shop("policy", "set", PROMPT, "policy.yaml")
    texts_only = ("--dataset", "planner-texts.jsonl", "-e", "exact_match")
    shop("eval", "run", "-p", PROMPT, "--versions", "v1,v3", *texts_only)
    refused = shop(*PROMOTE, PROMPT, "v3", fails=1).stderr
    assert "no evidence for tool_calling" in " ".join(refused.split())
    assert production(shop) == "v1"
