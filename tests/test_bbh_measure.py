"""`make bbh` against an endpoint that answers by rule: what is asked, kept and handed in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from evaluation.fake_endpoint import BASE, TOKEN, Fake, refusal
from rich.console import Console

from softprompt_serve.demo import bbh
from softprompt_serve.release.evidence_shapes import parse_run
from softprompt_serve.testing import serving


@pytest.fixture
def fake() -> Fake:
    return Fake(
        rule=lambda version, body: "(B)" if version == BASE else "billing",
        versions=("v1", "v2", "v3"),
    )


@pytest.fixture
def url(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", TOKEN)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with serving(fake.app()) as url:  # type: ignore[arg-type]
        yield url


@pytest.fixture
def items(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    path = tmp_path / "bbh.jsonl"
    rows: list[dict[str, Any]] = [
        {
            "id": f"made_up-{n:012x}",
            "messages": [{"role": "user", "content": f"a secret question, number {n}"}],
            "expected": "(B)",
        }
        for n in range(6)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def measure(url: str, items: Path, kept: Path | None = None, versions: str = bbh.VERSIONS) -> None:
    bbh.measure(url, items, kept, Console(quiet=True), versions)


def test_base_and_versions_are_asked_side_by_side_and_the_evidence_is_uploaded(
    fake: Fake, url: str, items: Path, tmp_path: Path
) -> None:
    measure(url, items, tmp_path / "kept")
    assert {body["model"] for body in fake.bodies} == {
        BASE,
        *(f"support@{version}" for version in ("v1", "v2", "v3")),
    }
    assert {body["max_tokens"] for body in fake.bodies} == {bbh.MAX_TOKENS}
    (uploaded,) = fake.runs.values()
    assert (uploaded["dataset"], list(uploaded["digests"])) == ("bbh", ["base", "v1", "v2", "v3"])
    passed = {(s["version"], s["evaluator"]) for s in uploaded["scores"] if s["passed"]}
    assert passed == {("base", "exact_match"), ("base", "is_option")}


def test_others_may_be_asked_later_and_are_kept_beside(
    fake: Fake, url: str, items: Path, tmp_path: Path
) -> None:
    measure(url, items, tmp_path / "kept")
    measure(url, items, tmp_path / "kept", "base,v2")
    kept = {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()}
    assert kept.keys() == {"bbh.json", "bbh-base-v2.json"}
    assert list(parse_run(kept["bbh-base-v2.json"]).digests) == ["base", "v2"]
    assert len(fake.runs) == 2


@pytest.mark.parametrize("answer", ["(C", "(C)", "No", "no", "valid.", "(a)", "12", "R"])
def test_an_option_is_one_whatever_its_dress(answer: str) -> None:
    assert re.search(bbh.OPTION, answer)


@pytest.mark.parametrize("answer", ["billing", "Account", "(L) black", "", "The answer is B"])
def test_anything_else_is_no_option(answer: str) -> None:
    assert not re.search(bbh.OPTION, answer)


def test_what_is_kept_says_no_text_no_answer_and_no_user(
    url: str, items: Path, tmp_path: Path
) -> None:
    measure(url, items, tmp_path / "kept")
    text = (tmp_path / "kept" / "bbh.json").read_text()
    assert "secret" not in text
    kept = parse_run(text)
    assert (kept.actor, kept.answers) == (bbh.ACTOR, ())


def test_what_is_kept_is_a_run_of_its_own(
    fake: Fake, url: str, items: Path, tmp_path: Path
) -> None:
    measure(url, items, tmp_path / "kept")
    assert parse_run((tmp_path / "kept" / "bbh.json").read_text()).id not in fake.runs


def test_a_run_that_was_stopped_asks_only_the_rest(
    fake: Fake, url: str, items: Path, tmp_path: Path
) -> None:
    rule, fake.rule = (
        fake.rule,
        lambda version, body: (
            refusal(403) if body["messages"][0]["content"].endswith("5") else rule(version, body)
        ),
    )
    with pytest.raises(typer.Exit):
        measure(url, items)
    before, fake.rule = len(fake.bodies), rule
    measure(url, items)
    assert before > 0
    assert 0 < len(fake.bodies) - before < 6 * 4
    assert len(set(fake.asked)) == 6 * 4


def test_a_run_that_is_complete_makes_room_for_the_next(fake: Fake, url: str, items: Path) -> None:
    measure(url, items)
    measure(url, items)
    assert len(fake.bodies) == 2 * 6 * 4
    assert len(fake.runs) == 2
