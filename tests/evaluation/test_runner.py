from __future__ import annotations

from collections import Counter

import pytest
from evaluation.conftest import Evaluation, item, items, lines, target
from evaluation.fake_endpoint import Fake, refusal

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.asking import Aborted
from softprompt_serve.evaluation.evaluators import NoVerdict, Options, Verdict, evaluators_of
from softprompt_serve.evaluation.runner import interleaved


class Says:
    """An evaluator that finds what it is told, and counts how often it is asked."""

    name, version, needs = "says", "1", ()

    def __init__(self, verdict: Verdict | Exception) -> None:
        self.verdict = verdict
        self.asked = 0

    async def score(self, item: object, reply: object) -> Verdict:
        self.asked += 1
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


EXACT = evaluators_of(["exact_match"], Options())


def test_every_item_is_asked_of_every_version_once(evaluate: Evaluation, fake: Fake) -> None:
    evaluate(items(20), ["v1", "v2", "base"])
    asked = {(v, f"question {n}") for v in ("v1", "v2", "base-model") for n in range(20)}
    assert fake.counts() == Counter(asked)


def test_an_item_goes_to_all_versions_before_the_next_item(
    evaluate: Evaluation, fake: Fake
) -> None:
    evaluate(items(10), ["v1", "v2"], concurrency=1)
    assert [text for _, text in fake.asked] == [f"question {n // 2}" for n in range(20)]


def test_versions_take_turns_at_going_first() -> None:
    order = interleaved(items(4), [target("v1"), target("v2")])
    assert [t.version for _, t in order][::2] == ["v1", "v2", "v1", "v2"]


def test_no_more_requests_than_allowed_are_under_way(evaluate: Evaluation, fake: Fake) -> None:
    fake.delay = 0.02
    evaluate(items(20), concurrency=3)
    assert fake.most == 3


def test_answers_are_scored_by_version(evaluate: Evaluation, fake: Fake) -> None:
    fake.rule = lambda version, body: "Yes." if version == "v2" else "no"
    run = evaluate(items(3, cohort="regulated"), evaluators=EXACT).run()
    passed = Counter((s.version, s.cohort, s.passed) for s in run.scores)
    assert passed == {("v1", "regulated", False): 3, ("v2", "regulated", True): 3}


def test_an_item_without_an_answer_has_no_score(evaluate: Evaluation, fake: Fake) -> None:
    fake.rule = lambda version, body: refusal(500) if version == "v1" else "yes"
    run = evaluate(items(2), evaluators=EXACT).run()
    assert {score.version for score in run.scores} == {"v2"}
    assert {a.error for a in run.answers if a.version == "v1"} == {"http_500"}


def test_a_verdict_that_cant_be_given_is_kept_apart(evaluate: Evaluation) -> None:
    says = Says(NoVerdict("can't say"))
    results = evaluate(items(1), ["v1"], [says])
    assert results.unscored == {("item-0", "v1", "says"): "can't say"}
    assert results.run().scores == ()


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), float("inf")])
def test_a_verdict_out_of_range_stops_the_run(evaluate: Evaluation, value: float) -> None:
    with pytest.raises(BadRequest, match="from 0 to 1"):
        evaluate(items(1), ["v1"], [Says(Verdict(value, passed=True))])


def test_a_run_that_was_stopped_asks_only_what_is_missing(evaluate: Evaluation, fake: Fake) -> None:
    fake.rule = lambda version, body: (
        refusal(401) if len(fake.asked) == 5 else f"{version} says yes"
    )
    with pytest.raises(Aborted):
        evaluate(items(6), concurrency=1)
    fake.rule = lambda version, body: f"{version} says yes"
    results = evaluate(items(6))
    assert set(fake.counts().values()) == {1}
    assert len(results.replies) == 12


def test_a_run_that_was_stopped_scores_only_what_is_missing(evaluate: Evaluation) -> None:
    broken = Says(BadRequest("broken"))
    with pytest.raises(BadRequest, match="broken"):
        evaluate(items(3), ["v1"], [broken], concurrency=1)
    works = Says(Verdict(1.0, passed=True))
    results = evaluate(items(3), ["v1"], [works])
    assert works.asked == 3
    assert len(results.scores) == 3
    again = Says(Verdict(1.0, passed=True))
    evaluate(items(3), ["v1"], [again])
    assert again.asked == 0


def test_what_was_answered_before_a_stop_is_kept(evaluate: Evaluation, fake: Fake) -> None:
    fake.rule = lambda version, body: refusal(401) if len(fake.asked) == 3 else "yes"
    with pytest.raises(Aborted):
        evaluate(items(6), concurrency=1)
    kinds = [line["type"] for line in lines(evaluate.path)]
    assert kinds == ["run", "answer", "answer", "answer"]


def test_a_run_ends_with_its_end(evaluate: Evaluation) -> None:
    evaluate([item()], ["v1"])
    assert lines(evaluate.path)[-1]["type"] == "end"
