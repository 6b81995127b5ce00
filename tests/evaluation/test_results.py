from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from evaluation.conftest import heading, lines, reply

from softprompt_serve.errors import BadRequest, Conflict
from softprompt_serve.evaluation.replies import ToolCall
from softprompt_serve.evaluation.results import Results
from softprompt_serve.release.evidence import Base, Score

SCORE = Score("item-0", "v1", "default", "exact_match", 1.0, passed=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_what_was_found_is_there_when_the_file_is_opened_again(path: Path) -> None:
    said = reply("yes\n\u2028", tool_calls=(ToolCall("find", "{}"),))
    with Results.open(path, heading(["v1"])) as results:
        results.add_reply(said)
        results.add_score(SCORE, "because")
        results.add_unscored(("item-0", "v1"), "judge", "no verdict")
    with Results.open(path, heading(["v1"], id="f" * 32)) as again:
        assert again.replies == {("item-0", "v1"): said}
        assert again.scores == {("item-0", "v1", "exact_match"): SCORE}
        assert again.unscored == {("item-0", "v1", "judge"): "no verdict"}
        assert again.heading.id == "0" * 32


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_a_crash_cut_short_is_forgotten(path: Path, cut: int) -> None:
    with Results.open(path, heading(["v1"])) as results:
        results.add_reply(reply("yes"))
        kept = path.stat().st_size
        results.add_score(SCORE)
    os.truncate(path, path.stat().st_size - cut)
    with Results.open(path, heading(["v1"])) as again:
        assert not again.scores
        assert path.stat().st_size == kept
        again.add_score(SCORE)
    assert [line["type"] for line in lines(path)] == ["run", "answer", "score"]


def test_a_file_whose_first_line_a_crash_cut_short_begins_anew(path: Path) -> None:
    with Results.open(path, heading(["v1"])):
        pass
    os.truncate(path, 9)
    with Results.open(path, heading(["v1"], id="f" * 32)) as again:
        assert again.heading.id == "f" * 32
    assert len(lines(path)) == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dataset_sha256", "b" * 64),
        ("digests", {"v1": "b" * 64}),
        ("sampling", {"temperature": 0.7}),
        ("evaluators", {"exact_match": "2"}),
        ("base", Base("acme/other")),
        ("prompt", "sales"),
    ],
)
def test_another_run_is_not_mixed_in_and_the_difference_is_named(
    path: Path, name: str, change: Any
) -> None:
    with Results.open(path, heading(["v1"])):
        pass
    with pytest.raises(Conflict, match=f"{name} was") as refused:
        Results.open(path, heading(["v1"], **{name: change}))
    assert (refused.value.code, refused.value.param) == ("run_differs", name)


def test_of_two_mappings_only_what_differs_is_shown(path: Path) -> None:
    with Results.open(path, heading([], sampling={"seed": 0, "max_tokens": 8})):
        pass
    with pytest.raises(Conflict, match=r'was \{"max_tokens": 8\}, now .* \{"max_tokens": 9\}'):
        Results.open(path, heading([], sampling={"seed": 0, "max_tokens": 9}))


@pytest.mark.parametrize(
    "content", ["# Read me\nno newline", '{"type": "else"}\n', '{"type":"run",}\n']
)
def test_a_file_of_somebody_else_is_left_as_it_is(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(BadRequest, match="no results"):
        Results.open(path, heading(["v1"]))
    assert path.read_text() == content


def test_a_damaged_line_in_the_middle_is_named(path: Path) -> None:
    with Results.open(path, heading(["v1"])) as results:
        results.add_reply(reply("yes"))
    path.write_text(path.read_text().replace('"text"', '"txet"') + "{}\n")
    with pytest.raises(BadRequest, match=f"{path}:2 "):
        Results.open(path, heading(["v1"]))


def test_two_processes_do_not_write_the_same_file(path: Path) -> None:
    with Results.open(path, heading(["v1"])), pytest.raises(Conflict) as refused:
        Results.open(path, heading(["v1"]))
    assert refused.value.code == "run_in_use"


def test_nobody_else_can_read_the_answers(path: Path) -> None:
    with Results.open(path, heading(["v1"])):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_run_that_has_not_ended_is_no_evidence(path: Path) -> None:
    with Results.open(path, heading(["v1"])) as results, pytest.raises(Conflict, match="resume"):
        results.run()


def test_a_run_that_ended_stays_the_same_when_read_again(path: Path) -> None:
    with Results.open(path, heading(["v1"])) as results:
        results.add_reply(reply("yes"))
        results.end()
        run = results.run()
    with Results.open(path, heading(["v1"])) as again:
        again.end()
        assert again.run() == run


def test_half_a_surrogate_pair_is_kept_as_a_question_mark(path: Path) -> None:
    with Results.open(path, heading(["v1"])) as results:
        results.add_reply(reply("\ud800"))
    with Results.open(path, heading(["v1"])) as again:
        assert again.replies["item-0", "v1"].text == "?"


def test_a_folder_is_no_file_of_results(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        Results.open(tmp_path, heading(["v1"]))
    assert refused.value.code == "invalid_results"
