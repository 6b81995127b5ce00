"""What was measured on BIG-Bench Hard: of the items that the code makes, shown as it is, and judged by it."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from softprompt_serve.artifact.checks import KvShape
from softprompt_serve.cli.client import Api
from softprompt_serve.demo import bbh, bbh_items
from softprompt_serve.demo.scoring import wilson
from softprompt_serve.demo.seed import EVIDENCE, POLICY, PROMPTS, seed
from softprompt_serve.evaluation.evaluators import Options, evaluators_of
from softprompt_serve.release.evidence import Run
from softprompt_serve.release.evidence_shapes import parse_run
from softprompt_serve.release.gates import Subject, Verdict, judge, to_text
from softprompt_serve.release.policy import Policy, parse_policy
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    FakeWorkers,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

ROOT = Path(__file__).parent.parent
RUNS = {
    path.stem: parse_run(path.read_bytes()) for path in sorted((PROMPTS / EVIDENCE).glob("*.json"))
}
KINDS: dict[str, Any] = {"base": "base", "v1": "hard", "v2": "soft", "v3": "soft", "v4": "prefix"}
SETS = tuple(bbh_items.SETS)
ASKED = [name for name, run in RUNS.items() if run.dataset in SETS]


def run_with(version: str, dataset: str) -> Run:
    """The first that asked it."""
    return next(r for r in RUNS.values() if r.dataset == dataset and version in r.digests)


def judged(policy: Policy, name: str) -> Verdict:
    candidate, baseline = (
        Subject(one, KINDS[one], run_with(one, "bbh").digests[one]) for one in (name, "v1")
    )
    now = max(run.at for run in RUNS.values()) + 3600
    served = RUNS["bbh"].base
    return judge(
        policy, candidate, baseline, list(RUNS.values()), served=served, now=now, prompt="support"
    )


def shipped() -> Policy:
    return parse_policy((PROMPTS / POLICY).read_text())


def right(run: Run, version: str, evaluator: str) -> tuple[int, int]:
    passed = [s.passed for s in run.scores if (s.version, s.evaluator) == (version, evaluator)]
    return sum(passed), len(passed)


@pytest.mark.parametrize("name", ASKED)
def test_it_was_asked_as_the_code_would_ask_it_now(name: str) -> None:
    run = RUNS[name]
    assert run.dataset_sha256 == bbh_items.SHA256[run.dataset]
    assert dict(run.evaluators) == {
        e.name: e.version for e in evaluators_of(bbh.EVALUATORS, Options())
    }
    asked = {"temperature": 0.0, "seed": 0, "max_tokens": bbh.MAX_TOKENS}
    assert dict(run.sampling) == asked | json.loads(bbh.SAMPLING)
    if name in SETS:
        assert list(run.digests) == bbh.VERSIONS.split(",")


@pytest.mark.parametrize("name", SETS)
def test_who_was_asked_again_answered_the_same(name: str) -> None:
    """Greedy, in other company: what one run says of a version, another may be compared with."""
    first, *later = (run for run in RUNS.values() if run.dataset == name)
    for run in later:
        for version in first.digests.keys() & run.digests.keys():
            assert run.digests[version] == first.digests[version]
            again = {(s.item, s.evaluator): s.passed for s in run.scores if s.version == version}
            then = {(s.item, s.evaluator): s.passed for s in first.scores if s.version == version}
            assert again == then


@pytest.mark.parametrize("name", ASKED)
def test_every_version_answered_every_item(name: str) -> None:
    scores = Counter((score.version, score.evaluator) for score in RUNS[name].scores)
    assert len(scores) == len(RUNS[name].digests) * len(bbh.EVALUATORS)
    assert set(scores.values()) == {bbh_items.PER_TASK * len(bbh_items.TASKS)}


@pytest.mark.parametrize("name", ASKED)
def test_it_gives_no_answer_away(name: str) -> None:
    assert RUNS[name].answers == ()


@pytest.mark.parametrize("name", ASKED)
def test_it_names_items_by_their_hashes_as_many_of_each_task(name: str) -> None:
    ids = {score.item for score in RUNS[name].scores}
    assert all(re.fullmatch(r"[a-z_]+-[0-9a-f]{12}", one) for one in ids)
    tasks = Counter(one.rpartition("-")[0] for one in ids)
    assert tasks == {task.replace("/", "_"): bbh_items.PER_TASK for task in bbh_items.TASKS}


def test_it_was_made_on_the_model_of_the_other_evidence() -> None:
    fingerprints = {(run.base.fingerprint, run.base.tokenizer_fingerprint) for run in RUNS.values()}
    assert len(fingerprints) == 1


@pytest.mark.parametrize("version", KINDS)
@pytest.mark.parametrize(
    ("name", "evaluator"), [("bbh", "exact_match"), ("bbh-plain", "exact_match")]
)
def test_the_readme_shows_the_numbers_of_the_evidence(
    name: str, evaluator: str, version: str
) -> None:
    passed, items = right(run_with(version, name), version, evaluator)
    low, high = wilson(passed, items)
    cell = f"{passed / items:.1%} ({100 * low:.0f}\u2013{100 * high:.0f})".replace("%", " %")
    row = next(
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| base," if version == "base" else f"| `support@{version}`")
    )
    assert cell in row


def test_the_policy_holds_soft_versions_to_these_items() -> None:
    held = {(hold.dataset, hold.dataset_sha256, hold.against) for hold in shipped().hold}
    assert ("bbh", bbh_items.SHA256["bbh"], "base") in held


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_soft_versions_pass_it(version: str) -> None:
    verdict = judged(shipped(), version)
    assert verdict.passed, to_text(verdict)


def test_the_prefix_does_not_for_what_it_does_to_other_tasks() -> None:
    verdict = judged(shipped(), "v4")
    assert not verdict.passed
    assert {gate.name for gate in verdict.gates if not gate.passed} == {
        "hold exact_match on bbh against base",
        "hold is_option on bbh against base",
    }


def test_a_server_takes_the_evidence_and_promotes_on_it(tmp_path: Path) -> None:
    service = service_for_tests(
        tmp_path,
        settings=settings_for_tests(tmp_path, promotion_gates="enforce"),
        workers=FakeWorkers(hidden_size=576, kv=KvShape(30, 3, 64)),
        identity=RUNS["bbh"].base,
    )
    with serving(app_for_tests(service)) as url, Api(url, ADMIN_TOKEN) as api:
        seed(api, Console(file=io.StringIO()))
        kept = {run["dataset"] for run in api.get("/prompts/support/runs").data["data"]}
        assert kept == {run.dataset for run in RUNS.values()}
        assert len(api.get("/prompts/support/runs").data["data"]) == len(RUNS)
        api.change("PUT", "/prompts/support/aliases/production", json_body={"version": "v3"})
        newest = api.get("/audit").data["data"][0]
        assert "forced" not in newest["detail"]


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("evaluator", ["exact_match", "is_option"])
def test_a_policy_that_held_them_to_plain_questions_would_refuse_them(
    version: str, evaluator: str
) -> None:
    hold = {"evaluator": evaluator, "dataset": "bbh-plain", "max_drop": 0.03, "against": "base"}
    document = shipped().to_json()
    document["hold"] = [*document["hold"], hold]
    verdict = judged(parse_policy(json.dumps(document)), version)
    (gate,) = [gate for gate in verdict.gates if not gate.passed]
    assert gate.name == f"hold {evaluator} on bbh-plain against base"
    assert gate.numbers["items"] == 264
    assert float(gate.numbers["low"]) < -0.03


def test_the_readme_shows_what_was_measured_of_the_lora() -> None:
    measured = (ROOT / "benchmarks" / "results" / "2026-11-25-kinds-cpu.md").read_text()
    (line,) = (one for one in measured.splitlines() if one.startswith("| lora "))
    cells = [cell.strip() for cell in line.split("|")[3:7]]
    shown = [cell.replace("%", " %").replace("-", "\u2013") for cell in cells]
    (row,) = (
        one for one in (ROOT / "README.md").read_text().splitlines() if one.startswith("| a LoRA")
    )
    assert [cell.strip() for cell in row.split("|")[4:8]] == shown
