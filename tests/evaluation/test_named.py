from __future__ import annotations

import pytest
from evaluation.conftest import item

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators import Options, evaluators_of
from softprompt_serve.evaluation.evaluators.verdict import check_items


def names(*given: str) -> list[str]:
    return [evaluator.name for evaluator in evaluators_of(given, Options())]


def test_evaluators_come_in_lists_by_commas() -> None:
    assert names("exact_match, f1:0.6", "contains") == ["exact_match", "f1", "contains"]


def test_a_pattern_may_hold_commas_and_colons() -> None:
    assert names("regex:a{1,2}:b") == ["regex:a{1,2}:b"]


def test_an_evaluator_can_be_given_a_name() -> None:
    assert names("short=regex:x,y", "strict=f1:0.9") == ["short", "strict"]


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "exact",
        "regex",
        "regex:",
        "exact_match:x",
        "regex:(",
        "Bad=f1",
        "judge:x",
        "json_schema:",
    ],
)
def test_what_is_no_evaluator_is_refused(spec: str) -> None:
    with pytest.raises(BadRequest) as refused:
        names(spec)
    assert refused.value.code == "invalid_evaluator"


def test_a_name_that_evidence_cant_keep_needs_another() -> None:
    with pytest.raises(BadRequest, match="NAME="):
        names("regex:" + "x" * 300)
    with pytest.raises(BadRequest, match="NAME="):
        names("regex:a\nb")
    assert names("long=regex:" + "x" * 300) == ["long"]


def test_two_evaluators_of_one_name_are_refused() -> None:
    with pytest.raises(BadRequest, match="Two evaluators"):
        names("f1:0.5,f1:0.6")


def test_items_without_what_an_evaluator_needs_are_refused_before_anything_is_asked() -> None:
    evaluators = evaluators_of(["exact_match"], Options())
    check_items(evaluators, [item(expected="yes"), item(expected=0), item(expected=False)])
    with pytest.raises(BadRequest, match="needs `expected`, which item 'i' has not"):
        check_items(evaluators, [item(expected="yes"), item(id="i")])
