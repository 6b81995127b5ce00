from __future__ import annotations

import asyncio
from importlib.util import find_spec

import pytest
from evaluation.conftest import item, reply

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators import NoVerdict, Options, evaluator_of
from softprompt_serve.evaluation.evaluators.overlap import token_f1

HAS_ROUGE = find_spec("rouge_score") is not None


@pytest.mark.parametrize(
    ("answer", "expected", "f1"),
    [
        ("The cat sat.", "a cat sat", 1.0),
        ("cat", "the cat sat", 2 / 3),
        ("dog", "cat", 0.0),
        ("cat cat", "cat", 2 / 3),
        ("", "cat", 0.0),
        ("the", "a", 1.0),
    ],
)
def test_f1_is_that_of_squad(answer: str, expected: str, f1: float) -> None:
    assert token_f1(answer, expected) == pytest.approx(f1)


def test_f1_takes_the_best_of_several_texts_and_passes_from_its_threshold() -> None:
    asked = item(expected=["dog", "the cat sat"])
    for spec, passed in (("f1", True), ("f1:0.6", True), ("f1:0.7", False)):
        verdict = asyncio.run(evaluator_of(spec, Options()).score(asked, reply("cat")))
        assert verdict.value == pytest.approx(2 / 3)
        assert verdict.passed is passed


def test_f1_of_what_is_no_text_is_no_verdict() -> None:
    with pytest.raises(NoVerdict):
        asyncio.run(evaluator_of("f1", Options()).score(item(expected={"a": 1}), reply("a")))


@pytest.mark.skipif(not HAS_ROUGE, reason="rouge-score is not installed")
def test_rouge_l_is_the_librarys() -> None:
    rouge = evaluator_of("rouge_l:0.9", Options())
    asked = item(expected=["something else", "the cats sat on the mat"])
    verdict = asyncio.run(rouge.score(asked, reply("the cat sat on a mat")))
    assert verdict.value == pytest.approx(10 / 12)
    assert not verdict.passed
    assert "rouge-score-0.1.2" in rouge.version


@pytest.mark.skipif(HAS_ROUGE, reason="rouge-score is installed")
def test_rouge_l_without_its_package_says_what_to_install() -> None:
    with pytest.raises(BadRequest, match=r"softprompt-serve\[eval\]"):
        evaluator_of("rouge_l", Options())


@pytest.mark.parametrize("spec", ["f1:high", "f1:2", "f1:-1", "f1:nan"])
def test_a_threshold_is_a_number_from_0_to_1(spec: str) -> None:
    with pytest.raises(BadRequest, match="0 to 1"):
        evaluator_of(spec, Options())


def test_a_version_changes_with_the_threshold() -> None:
    one, other = (evaluator_of(spec, Options()) for spec in ("f1", "f1:0.8"))
    assert one.name == other.name == "f1"
    assert one.version != other.version
