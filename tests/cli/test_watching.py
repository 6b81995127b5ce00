"""Waiting for a rollout and watching it, at a server that answers by a script."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cli.rollout_answers import Data, ended, replica, rollout
from click.testing import Result
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from rich.console import Console
from typer.testing import CliRunner

from softprompt_serve.cli import app, watching
from softprompt_serve.testing import serving

BEHIND = rollout(replica("one"), replica("two", 11))
THERE = rollout(replica("one"), replica("two"))
DOWN = 503


@dataclass
class Script:
    """What the server answers, one after the other; the last one again and again."""

    url: str
    answers: list[Data | int] = field(default_factory=list)
    asked: int = 0

    def __call__(self, *arguments: str, fails: int = 0) -> Result:
        result = CliRunner().invoke(app, ["rollout", *arguments, "--url", self.url])
        assert result.exit_code == fails, result.output
        return result

    def next(self) -> Data | int:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def script(clean_environment: None) -> Iterator[Script]:
    server = FastAPI()

    @server.api_route("/softprompts/v1/prompts/support/rollout{rest:path}", methods=["GET", "PUT"])
    def answer() -> JSONResponse:
        found = script.next()
        if isinstance(found, int):
            error = {"message": "The catalogue can't be used now.", "code": "catalogue_unavailable"}
            return JSONResponse({"error": error}, found)
        return JSONResponse(found)

    with serving(server) as url:
        script = Script(url)
        yield script


CHANGE = ("weights", "support", "v1=90", "v2=10")


def test_a_change_waits_until_every_replica_serves_it(script: Script) -> None:
    script.answers = [BEHIND, BEHIND, THERE]
    assert "applied     yes" in script(*CHANGE, "--wait", "30").stdout


def test_a_change_that_is_applied_at_once_is_not_asked_about_again(script: Script) -> None:
    script.answers = [THERE, DOWN]
    script(*CHANGE, "--wait", "30")
    assert script.asked == 1


def test_who_is_behind_is_said_when_the_time_is_over(script: Script) -> None:
    script.answers = [BEHIND]
    failed = script(*CHANGE, "--wait", "0.2", fails=1)
    assert "not applied after 0.2 s: two serves generation 11 of 12" in failed.stderr
    assert "v2   10" in failed.stdout


def test_waiting_no_time_looks_at_the_change_alone(script: Script) -> None:
    script.answers = [BEHIND, THERE]
    script(*CHANGE, "--wait", "0", fails=1)
    assert script.asked == 1


def test_without_wait_a_change_that_is_not_applied_yet_is_no_failure(script: Script) -> None:
    script.answers = [BEHIND]
    script(*CHANGE)


def test_waiting_outlasts_a_server_that_is_away_for_a_moment(script: Script) -> None:
    script.answers = [BEHIND, DOWN, DOWN, THERE]
    script(*CHANGE, "--wait", "30")


def test_waiting_as_json_prints_the_last_answer_alone(script: Script) -> None:
    script.answers = [BEHIND, THERE]
    assert json.loads(script(*CHANGE, "--wait", "30", "--json").stdout) == THERE


def test_a_wait_that_fails_prints_the_last_answer_as_json_and_exits_1(script: Script) -> None:
    script.answers = [BEHIND]
    failed = script(*CHANGE, "--wait", "0", "--json", fails=1)
    assert json.loads(failed.stdout) == BEHIND


WATCH = ("watch", "support", "--until-done", "--every", "0.01")


def test_watching_off_a_terminal_prints_a_line_for_each_change(script: Script) -> None:
    later = rollout(replica("one"), step=BEHIND["step"] | {"requests": 99})
    script.answers = [BEHIND, THERE, THERE, later, ended("promoted", replica("one"))]
    lines = script(*WATCH).stdout.splitlines()
    assert [line.partition(" ")[2].partition(", v1")[0] for line in lines] == [
        "generation 12, progressing (step 2 of 3)",
        "generation 12, progressing (step 2 of 3)",
        "generation 12, promoted",
    ]
    assert "not applied: two" in lines[0]
    assert lines[1].endswith(", applied")


def test_watching_says_how_counts_grow_now_and_then(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_AT_LEAST_SECONDS", 0.0)
    script.answers = [THERE, THERE, ended("promoted", replica("one"))]
    assert len(script(*WATCH).stdout.splitlines()) == 3


@pytest.mark.parametrize("state", ["promoted", "static"])
def test_watching_until_done_ends_well(script: Script, state: str) -> None:
    script.answers = [THERE, ended(state, replica("one"))]
    script(*WATCH)


def test_watching_until_done_fails_where_it_was_rolled_back(script: Script) -> None:
    script.answers = [THERE, ended("rolled_back", replica("one"))]
    assert "rolled back" in script(*WATCH, fails=1).stdout


def test_watching_until_done_waits_until_the_end_is_applied(script: Script) -> None:
    script.answers = [ended("promoted", replica("one", 11)), ended("promoted", replica("one"))]
    lines = script(*WATCH).stdout.splitlines()
    assert ["not applied" in line for line in lines] == [True, False]


def test_watching_goes_on_while_the_server_is_away_and_says_so(script: Script) -> None:
    script.answers = [THERE, DOWN, DOWN, ended("promoted", replica("one"))]
    lines = script(*WATCH).stdout.splitlines()
    assert ["can't be used now" in line for line in lines] == [False, True, False]


def test_watching_what_is_refused_at_once_is_an_error(script: Script) -> None:
    script.answers = [404]
    assert "catalogue_unavailable" in script(*WATCH, fails=1).stderr


def test_watching_ends_where_the_prompt_is_gone(script: Script) -> None:
    script.answers = [THERE, 404]
    script(*WATCH, fails=1)


def test_watching_as_json_prints_a_document_a_line(script: Script) -> None:
    done = ended("promoted", replica("one"))
    script.answers = [BEHIND, DOWN, THERE, done]
    lines = script(*WATCH, "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [BEHIND, THERE, done]


def interrupted(_: float) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_ends_watching_without_a_failure(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answers = [THERE]
    monkeypatch.setattr(time, "sleep", interrupted)
    script("watch", "support")


def on_a_terminal() -> Callable[[], Console]:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    return lambda: console


def test_watching_on_a_terminal_keeps_one_table_up_to_date(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal: Any = on_a_terminal()
    monkeypatch.setattr(watching, "output", terminal)
    script.answers = [BEHIND, DOWN, ended("promoted", replica("one"))]
    script(*WATCH)
    shown = terminal().file.getvalue()
    before, _, after = shown.rpartition("support promoted")
    assert "2 now" in before
    assert "can't be used now" in before
    assert "Because." in after
