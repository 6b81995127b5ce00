"""`softprompt-serve eval` against a fake endpoint, and against the real admin API for what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import Result
from evaluation.fake_endpoint import BASE, TOKEN, Fake, digest, refusal
from runs import scored
from typer.testing import CliRunner

from softprompt_serve.cli import app
from softprompt_serve.demo import tickets
from softprompt_serve.demo.scoring import score
from softprompt_serve.evaluation.replies import base_digest
from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.testing import serving

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

DATA = Path(__file__).parent.parent / "evaluation" / "data"
(RESULTS,) = (DATA / "lm_eval").glob("results_*.json")
ITEMS = 40


@pytest.fixture
def fake() -> Fake:
    return Fake(rule=lambda version, body: "Billing." if version == "v2" else "shipping")


@pytest.fixture
def url(fake: Fake, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(fake.app()) as url:  # type: ignore[arg-type]
        monkeypatch.setenv("SOFTPROMPT_URL", url)
        monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", TOKEN)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        yield url


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tickets.jsonl"
    rows = (
        {"id": f"t-{n}", "text": f"question {n}", "label": "billing", "cohort": "default"}
        for n in range(ITEMS)
    )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def run(url: str, dataset: Path) -> Callable[..., Result]:
    def call(*arguments: str, versions: str = "v1,v2", fails: int = 0) -> Result:
        named = ("-p", "support", "--versions", versions, "--dataset", str(dataset))
        asked = ("eval", "run", *named, "-e", "exact_match", "--results", "r.jsonl", *arguments)
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == fails, result.output
        return result

    return call


def test_a_run_is_shown_kept_and_uploaded(run: Callable[..., Result], fake: Fake) -> None:
    shown = run().stdout
    assert "+100.0 points" in shown
    assert "40, 0 of 40" in shown
    kept = json.loads(Path("r.run.json").read_text())
    assert fake.runs == {kept["id"]: kept}
    assert kept["digests"] == {"v1": digest("v1"), "v2": digest("v2")}
    assert kept["base"]["fingerprint"] == "f" * 64
    assert Counter((s["version"], s["passed"]) for s in kept["scores"]) == {
        ("v1", False): ITEMS,
        ("v2", True): ITEMS,
    }


def test_json_is_the_summary_and_nothing_else(run: Callable[..., Result]) -> None:
    data = json.loads(run("--json").stdout)
    assert data["versions"] == ["v1", "v2"]
    assert [row["mean"] for row in data["scores"]] == [0.0, 1.0]


def test_every_request_is_sent_as_the_options_say(run: Callable[..., Result], fake: Fake) -> None:
    run("--limit", "1", "--max-tokens", "8", "--seed", "3", "--sampling", '{"top_p": 0.5}')
    kept = json.loads(Path("r.run.json").read_text())
    expected = {"temperature": 0.0, "seed": 3, "max_tokens": 8, "top_p": 0.5}
    assert kept["sampling"] == expected
    assert expected.items() <= fake.bodies[0].items()


def test_an_alias_is_asked_as_the_version_it_stands_for(
    run: Callable[..., Result], fake: Fake
) -> None:
    run("--limit", "1", versions="production,v2")
    assert {body["model"] for body in fake.bodies} == {"support@v1", "support@v2"}


@pytest.mark.parametrize(
    ("versions", "code"),
    [
        ("v1,v9", "version_not_found"),
        ("v1,production", "duplicate_version"),
        (",", "invalid_request"),
    ],
)
def test_versions_that_cant_be_asked_are_refused(
    run: Callable[..., Result], fake: Fake, versions: str, code: str
) -> None:
    assert code in run(versions=versions, fails=1).stderr
    assert not fake.asked


def test_the_base_model_is_asked_beside_a_prompts_versions_and_is_evidence(
    run: Callable[..., Result], fake: Fake
) -> None:
    run("--limit", "1", versions="base,v2")
    assert {body["model"] for body in fake.bodies} == {BASE, "support@v2"}
    (kept,) = fake.runs.values()
    assert kept["digests"] == {"base": base_digest(), "v2": digest("v2")}


def test_a_version_of_kind_base_is_asked_where_there_is_one(
    run: Callable[..., Result], fake: Fake
) -> None:
    fake.versions, fake.kinds = ("v0", "v2"), {"v0": "base"}
    run("--limit", "1", versions="base,v2")
    assert {body["model"] for body in fake.bodies} == {"support@v0", "support@v2"}


@pytest.mark.parametrize("more", ["[]", "{", '{"model": "x"}', '{"n": 2}', '{"top_p": NaN}'])
def test_sampling_that_means_nothing_here_is_refused(run: Callable[..., Result], more: str) -> None:
    assert "invalid_sampling" in run("--sampling", more, fails=1).stderr


def test_without_upload_a_run_stays_here_and_can_be_sent_later(
    run: Callable[..., Result], fake: Fake
) -> None:
    run("--no-upload")
    assert not fake.runs
    for _ in range(2):
        assert CliRunner().invoke(app, ["eval", "upload", "r.run.json"]).exit_code == 0
    assert len(fake.runs) == 1


def test_an_upload_that_fails_says_how_to_send_it_later(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", "another-token")
    assert "softprompt-serve eval upload r.run.json" in " ".join(run(fails=1).stderr.split())
    assert Path("r.run.json").is_file()


def test_the_same_file_again_asks_nothing_and_is_the_same_run(
    run: Callable[..., Result], fake: Fake
) -> None:
    run()
    run()
    assert len(fake.asked) == 2 * ITEMS
    assert len(fake.runs) == 1


def test_a_run_that_was_stopped_says_how_to_go_on(run: Callable[..., Result], fake: Fake) -> None:
    rule = fake.rule
    fake.rule = lambda version, body: (
        refusal(401, "no_key") if len(fake.asked) > 9 else rule(version, body)
    )
    assert "--resume r.jsonl" in " ".join(run("--json", fails=1).stdout.split())
    fake.rule = rule
    run("--resume", "r.jsonl")
    assert set(fake.counts().values()) == {1}
    assert len(fake.asked) == 2 * ITEMS


@pytest.mark.parametrize("options", [("--resume", "nowhere.jsonl"), ("--resume", "tickets.jsonl")])
def test_only_what_is_there_can_be_resumed(
    run: Callable[..., Result], options: tuple[str, ...]
) -> None:
    assert "invalid_results" in run(*options, fails=1).stderr


def test_a_run_on_other_versions_is_not_resumed(run: Callable[..., Result], fake: Fake) -> None:
    run()
    refused = run(versions="v1", fails=1).stderr
    assert "run_differs" in refused
    assert "digests" in refused
    fake.base = {**fake.base, "fingerprint": "e" * 64}
    assert "base" in run(fails=1).stderr


def test_an_answer_of_another_version_stops_the_run(run: Callable[..., Result], fake: Fake) -> None:
    fake.lies = {"x-softprompt-version": "v1"}
    assert "wrong_version" in run(versions="v2", fails=1).stderr
    assert not fake.runs


def test_items_without_what_an_evaluator_needs_stop_before_anything_is_asked(
    run: Callable[..., Result], fake: Fake, dataset: Path
) -> None:
    dataset.write_text('{"prompt": "x"}')
    assert "invalid_dataset" in run(fails=1).stderr
    assert not fake.bodies


def test_the_judge_is_the_served_base_model_unless_another_is_named(
    run: Callable[..., Result], fake: Fake, tmp_path: Path
) -> None:
    (tmp_path / "tone.md").write_text("Be kind.")
    fake.rule = lambda version, body: '{"reason": "", "score": 1}'
    run("--limit", "1", "-e", "judge:tone", "--rubric", "tone=tone.md")
    judged = [body for body in fake.bodies if not body.get("stream")]
    assert {body["model"] for body in judged} == {BASE}
    assert len(judged) == 2


def test_lm_evals_results_become_evidence(url: str, fake: Fake, tmp_path: Path) -> None:
    out = str(tmp_path / "out.json")
    asked = ["eval", "import", "-p", "support", "--version", "v1", "--lm-eval", str(RESULTS)]
    for _ in range(2):
        result = CliRunner().invoke(app, [*asked, "--samples", str(RESULTS.parent), "--out", out])
        assert result.exit_code == 0, result.output
    (kept,) = fake.runs.values()
    assert (kept["source"], kept["dataset"], len(kept["scores"])) == ("lm-eval", "tiny_group", 24)
    assert "tiny_a/bleu" in result.output
    assert "33.3 ± 14.9" in result.stdout


def test_results_of_another_model_are_refused_unless_they_are_said_to_be_the_same(
    url: str, fake: Fake, tmp_path: Path
) -> None:
    asked = ["eval", "import", "-p", "support", "--version", "v2", "--lm-eval", str(RESULTS)]
    asked += ["--out", str(tmp_path / "out.json")]
    assert "other_model" in CliRunner().invoke(app, asked).stderr
    assert CliRunner().invoke(app, [*asked, "--any-model"]).exit_code == 0
    assert len(fake.runs) == 1


def test_an_inspect_log_becomes_evidence(url: str, fake: Fake, tmp_path: Path) -> None:
    log = ["--inspect", str(DATA / "inspect.json"), "--out", str(tmp_path / "out.json")]
    asked = ["eval", "import", "-p", "support", "--version", "v1", *log]
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert {run["source"] for run in fake.runs.values()} == {"inspect"}


def test_an_import_takes_one_file(url: str) -> None:
    asked = ["eval", "import", "-p", "support", "--version", "v1"]
    assert "invalid_import" in CliRunner().invoke(app, asked).stderr


def test_stored_runs_are_listed_and_shown(cli: Cli, tmp_path: Path) -> None:
    added = cli.json("import", "-p", "support", "--text", "Sort tickets.", "--version", "v1")
    path = tmp_path / "run.json"
    run = scored({"v1": added["digest"]})
    path.write_bytes(to_document(run))
    cli("eval", "upload", str(path))
    assert run.id in cli("eval", "list", "support").stdout
    assert "75.0 %" in cli("eval", "show", "support", run.id).stdout
    assert cli.json("eval", "show", "support", run.id)["id"] == run.id


def test_a_stored_run_is_removed_once_that_is_confirmed(cli: Cli, tmp_path: Path) -> None:
    added = cli.json("import", "-p", "support", "--text", "Sort tickets.", "--version", "v1")
    path = tmp_path / "run.json"
    run = scored({"v1": added["digest"]})
    path.write_bytes(to_document(run))
    cli("eval", "upload", str(path))
    asked = ("eval", "remove", "support", run.id)
    assert "confirmation_needed" in cli(*asked, stdin="y\n", fails=1).stderr
    assert run.id in cli("eval", "list", "support").stdout
    assert f"Removed run {run.id}: v1 on tickets" in cli(*asked, "--yes").stdout
    assert run.id not in cli("eval", "list", "support").stdout
    assert "run_not_found" in cli(*asked, "--yes", fails=1).stderr


def test_a_prompt_without_runs_says_how_to_make_one(cli: Cli) -> None:
    cli("import", "-p", "support", "--text", "Sort tickets.")
    assert "softprompt-serve eval run" in cli("eval", "list", "support").stdout


@pytest.mark.parametrize("name", ["../runs", "", "a/b"])
def test_what_is_no_runs_id_is_refused_before_any_call(cli: Cli, name: str) -> None:
    assert "invalid_run" in cli("eval", "show", "support", name, fails=1).stderr
    assert "invalid_run" in cli("eval", "remove", "support", name, "--yes", fails=1).stderr


def test_the_demos_tickets_are_scored_as_the_demo_scores_them(
    run: Callable[..., Result], fake: Fake
) -> None:
    asked = tickets.load("test")
    answers = {ticket.text: f" {ticket.label.title()}. " for ticket in asked[::3]}
    fake.rule = lambda version, body: answers.get(body["messages"][-1]["content"], "No idea")
    path = str(tickets.DATA / "test.jsonl")
    data = json.loads(run("--dataset", path, "--json", versions="v1").stdout)
    given = [(answers.get(ticket.text, "No idea"), ticket.label) for ticket in asked]
    assert data["scores"][0]["mean"] == score(given).accuracy


def started(dataset: Path, *arguments: str) -> subprocess.Popen[str]:
    asked = ["-p", "support", "--versions", "v1,v2", "--dataset", str(dataset), "-e", "exact_match"]
    command = [sys.executable, "-m", "softprompt_serve.cli", "eval", "run", *asked, *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_answers(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not path.is_file() or path.read_text().count('"type":"answer"') < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers_in(path: Path) -> Counter[tuple[str, str]]:
    found = (json.loads(line) for line in path.read_text().splitlines())
    return Counter((a["item"], a["version"]) for a in found if a["type"] == "answer")


@pytest.mark.parametrize("times", [1, 3])
def test_a_run_that_is_killed_goes_on_and_has_every_item_once(
    url: str, fake: Fake, dataset: Path, times: int
) -> None:
    fake.delay = 0.1
    path = Path("r.jsonl")
    for number in range(1, times + 1):
        process = started(dataset, "--results", "r.jsonl", "--concurrency", "4")
        wait_for_answers(path, 10 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert sum(answers_in(path).values()) < 2 * ITEMS
    fake.delay = 0.0
    process = started(dataset, "--resume", "r.jsonl")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "going on from there" in out
    every = {(f"t-{n}", version): 1 for n in range(ITEMS) for version in ("v1", "v2")}
    assert answers_in(path) == every
    (kept,) = fake.runs.values()
    assert Counter((a["item"], a["version"]) for a in kept["answers"]) == every
    assert Counter((s["item"], s["version"]) for s in kept["scores"]) == every


def test_ctrl_c_leaves_what_is_answered_and_says_how_to_go_on(
    url: str, fake: Fake, dataset: Path
) -> None:
    fake.delay = 0.1
    process = started(dataset, "--results", "r.jsonl", "--concurrency", "2")
    wait_for_answers(Path("r.jsonl"), 6)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped at" in out
    assert "--resume r.jsonl" in " ".join(out.split())
    assert "Traceback" not in said
    assert not fake.runs
