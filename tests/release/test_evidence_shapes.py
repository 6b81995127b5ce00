"""The JSON of a run: the same there and back, and nothing else gets in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from runs import EVALUATOR, published, scored

from softprompt_serve.errors import BadRequest
from softprompt_serve.release.evidence import Base, Run, Score
from softprompt_serve.release.evidence_shapes import RunIn, parse_run, to_document

DIGESTS = {"v1": "1" * 64, "v2": "2" * 64}

lines = some.text(
    some.characters(exclude_categories=["Cs"], min_codepoint=0x20, exclude_characters="\x7f"),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize(
    "run",
    [
        scored(DIGESTS),
        published(DIGESTS),
        scored(DIGESTS, base=Base(), actor=None, answers=(), sampling={}),
    ],
)
def test_a_run_survives_its_json(run: Run) -> None:
    assert parse_run(to_document(run)) == run
    assert RunIn.of(run).run() == run
    assert json.loads(to_document(run)) == RunIn.of(run).model_dump()


@given(item=lines, cohort=lines, value=some.floats(allow_nan=False, allow_infinity=False))
def test_any_readable_text_and_number_survive(item: str, cohort: str, value: float) -> None:
    score = Score(item, "v1", cohort, EVALUATOR, value, True)
    run = scored(DIGESTS, scores=(score,), answers=())
    assert parse_run(to_document(run)) == run


def test_field_names_are_those_of_the_plain_value() -> None:
    data = json.loads(to_document(scored(DIGESTS)))
    assert data.keys() == set(Run.__dataclass_fields__)
    assert data["scores"][0] == {
        "item": "item-0",
        "version": "v1",
        "cohort": "default",
        "evaluator": EVALUATOR,
        "value": 1.0,
        "passed": True,
    }


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(to_document(scored(DIGESTS)))
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("param", "change"),
    [
        ("id", lambda d: d.update(id="run-1")),
        ("prompt", lambda d: d.update(prompt="Support")),
        ("dataset", lambda d: d.update(dataset="a\nb")),
        ("dataset", lambda d: d.pop("dataset")),
        ("dataset_sha256", lambda d: d.update(dataset_sha256="A" * 64)),
        ("digests", lambda d: d.update(digests={})),
        ("digests.v1", lambda d: d["digests"].update(v1="short")),
        ("digests.V 1", lambda d: d["digests"].update({"V 1": "1" * 64})),
        ("at", lambda d: d.update(at="yesterday")),
        ("source", lambda d: d.update(source="hearsay")),
        ("verdict", lambda d: d.update(verdict=True)),
        ("base.color", lambda d: d["base"].update(color="red")),
        ("scores.0.value", lambda d: d["scores"][0].update(value=float("nan"))),
        ("scores.0.value", lambda d: d["scores"][0].update(value="1")),
        ("scores.0.passed", lambda d: d["scores"][0].update(passed=1)),
        ("scores.1.item", lambda d: d["scores"][1].update(item="a\u0000b")),
        ("scores.1.item", lambda d: d["scores"][1].update(item="")),
        ("scores.1.version", lambda d: d["scores"][1].update(version="v9")),
        ("scores.1.evaluator", lambda d: d["scores"][1].update(evaluator="guess")),
        ("scores.4.cohort", lambda d: d["scores"][4].update(cohort="elsewhere")),
        ("answers.0.cohort", lambda d: d["answers"][0].update(cohort="elsewhere")),
        ("answers.0.e2e_seconds", lambda d: d["answers"][0].update(e2e_seconds=-1.0)),
        ("answers.0.output_tokens", lambda d: d["answers"][0].update(output_tokens=1.5)),
        ("answers.0.output_tokens", lambda d: d["answers"][0].update(output_tokens=2**40)),
        ("scores.8", lambda d: d["scores"].append(d["scores"][0])),
        ("answers.8", lambda d: d["answers"].append(d["answers"][0])),
        ("scores.0", lambda d: d["answers"][0].update(error="engine_error")),
        ("totals.0.mean", lambda d: d.update(totals=[{**TOTAL, "mean": 37.5}])),
        ("totals.1", lambda d: d.update(totals=[TOTAL, TOTAL])),
        (None, lambda d: d.update(scores=[], answers=[], totals=[])),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    param: str | None, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(BadRequest) as error:
        parse_run(changed(change))
    assert (error.value.code, error.value.param) == ("invalid_run", param)


TOTAL = {"version": "v1", "evaluator": EVALUATOR, "mean": 0.5, "stderr": None, "items": 10}


@pytest.mark.parametrize("text", ["", "[]", "{", '"run"', "null", "[" * 100_000, b"\xff\xfe"])
def test_what_is_no_document_is_refused(text: str | bytes) -> None:
    with pytest.raises(BadRequest) as error:
        parse_run(text)
    assert error.value.code == "invalid_run"


def test_half_a_character_is_refused() -> None:
    text = changed(lambda d: d["sampling"].update(stop="X")).replace('"X"', '"\\ud800"')
    with pytest.raises(BadRequest) as error:
        parse_run(text)
    assert error.value.code == "invalid_run"


def test_sampling_that_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(BadRequest) as error:
        parse_run(changed(lambda d: d["sampling"].update(temperature=float("inf"))))
    assert error.value.code == "invalid_run"


def test_a_plain_value_that_no_server_would_take_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BadRequest) as error:
        RunIn.of(replace(scored(DIGESTS), id="run-1"))
    assert (error.value.code, error.value.param) == ("invalid_run", "id")


def test_too_many_cohorts_are_refused() -> None:
    many = tuple(Score(f"item-{n}", "v1", f"cohort-{n}", EVALUATOR, 1.0, True) for n in range(101))
    with pytest.raises(BadRequest, match="101 cohorts"):
        RunIn.of(scored(DIGESTS, scores=many, answers=()))


def test_a_message_names_the_first_few_problems_and_counts_the_rest() -> None:
    def spoil(data: dict[str, Any]) -> None:
        for score in data["scores"]:
            score["passed"] = "yes"

    with pytest.raises(BadRequest, match=r"scores\.0\.passed: .*; and 3 more\.$"):
        parse_run(changed(spoil))


def test_sampling_is_bounded() -> None:
    with pytest.raises(BadRequest, match="16384") as error:
        parse_run(changed(lambda d: d["sampling"].update(stop=["x" * 20_000])))
    assert error.value.param == "sampling"
