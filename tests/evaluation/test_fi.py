"""FutureAGI's local metrics, for real where ai-evaluation is installed."""

from __future__ import annotations

import asyncio
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from evaluation.conftest import item, reply

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators import (
    Evaluator,
    NoVerdict,
    Options,
    Verdict,
    evaluator_of,
)
from softprompt_serve.evaluation.evaluators.verdict import check_items

INSTALLED = find_spec("fi") is not None and find_spec("fi.evals") is not None
with_package = pytest.mark.skipif(not INSTALLED, reason="ai-evaluation is not installed")

CONTEXT = ["Paris is the capital and largest city of France."]
QUESTION = "What is the capital of France?"


def evaluator(spec: str) -> Evaluator:
    return evaluator_of(spec, Options())


def verdict(spec: str, text: str, **parts: Any) -> Verdict:
    return asyncio.run(evaluator(spec).score(item(QUESTION, **parts), reply(text)))


@pytest.mark.skipif(INSTALLED, reason="ai-evaluation is installed")
def test_without_the_package_it_says_what_to_install() -> None:
    with pytest.raises(BadRequest, match=r"softprompt-serve\[fi\]"):
        evaluator("fi:Groundedness")


@with_package
@pytest.mark.parametrize("name", ["Faithfulness", "Groundedness"])
def test_a_local_metric_tells_an_answer_from_the_context_from_another(name: str) -> None:
    true = verdict(f"fi:{name}", "The capital of France is Paris.", context=CONTEXT)
    made_up = verdict(f"fi:{name}", "Berlin lies north of Munich in Bavaria.", context=CONTEXT)
    assert (true.value, true.passed) == (1.0, True)
    assert not made_up.passed
    assert true.note


@with_package
def test_a_contradiction_weighs_more_for_groundedness() -> None:
    years = ["The tower was finished in 1889 in Paris."]
    found = verdict("fi:Groundedness", "The tower was finished in 1999 in Paris.", context=years)
    assert found.value == 0.0


@with_package
@pytest.mark.parametrize(
    ("text", "value", "passed"), [("billing", 0.9, True), ("The topic is shipping", 0.4, False)]
)
def test_task_completion_is_passed_where_the_result_is_the_expected_one(
    text: str, value: float, passed: bool
) -> None:
    found = verdict("fi:TaskCompletion", text, expected="billing")
    assert (found.value, found.passed) == (pytest.approx(value), passed)


@with_package
@pytest.mark.parametrize(
    ("name", "field"),
    [("Faithfulness", "context"), ("Groundedness", "context"), ("TaskCompletion", "expected")],
)
def test_a_metric_that_would_guess_without_a_field_asks_for_it(name: str, field: str) -> None:
    with pytest.raises(BadRequest, match=f"needs `{field}`"):
        check_items([evaluator(f"fi:{name}")], [item()])


@with_package
def test_no_model_is_loaded_even_where_transformers_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faithfulness = evaluator("fi:Faithfulness")
    nli = sys.modules["fi.evals.metrics.hallucination.nli"]

    def load(*_: Any, **__: Any) -> None:
        pytest.fail("a model was asked for")

    monkeypatch.setattr(nli, "_NLI_AVAILABLE", True)
    monkeypatch.setattr(nli, "_hf_pipeline", load, raising=False)
    found = faithfulness.score(
        item(QUESTION, context=CONTEXT), reply("The capital of France is Paris.")
    )
    assert asyncio.run(found).passed


@with_package
def test_a_version_names_the_package_and_the_way() -> None:
    assert evaluator("fi:Faithfulness").version == "1+ai-evaluation-1.1.0+words,passed>=0.5"


@with_package
def test_a_template_of_the_cloud_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FI_API_KEY", raising=False)
    monkeypatch.setenv("FI_SECRET_KEY", "x")
    with pytest.raises(BadRequest, match="set FI_API_KEY") as refused:
        evaluator("fi:Groundedness@turing_flash")
    assert refused.value.code == "fi_key_missing"


@with_package
def test_a_cloud_that_does_not_answer_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FI_API_KEY", "x")
    monkeypatch.setenv("FI_SECRET_KEY", "x")
    monkeypatch.setenv("FI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("softprompt_serve.evaluation.evaluators.fi._CLOUD_ATTEMPTS", 1)
    cloud = evaluator("fi:TaskCompletion@turing_flash")
    with pytest.raises(NoVerdict):
        asyncio.run(cloud.score(item(QUESTION), reply("Paris")))
    assert cloud.version == "1+ai-evaluation-1.1.0+turing_flash"


@with_package
@pytest.mark.parametrize(
    "spec", ["fi:Nothing", "fi:Nothing@turing_flash", "fi:Faithfulness@turing_flash"]
)
def test_what_the_package_has_not_is_refused(spec: str) -> None:
    with pytest.raises(BadRequest) as refused:
        evaluator(spec)
    assert refused.value.code == "invalid_evaluator"
