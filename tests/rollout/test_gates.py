from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from rollout.arms import COHORTS, counts

from softprompt_serve.rollout.gates import OVERALL, Arm, Look, Slot, Trial, look, slots
from softprompt_serve.rollout.spec import Gate, RolloutSpec
from softprompt_serve.rollout.tally import Counts

ERRORS = Gate(metric="error_rate", max_increase=0.0)
SLOWER = Gate(metric="ttft", quantile=0.9, max_ratio=1.2)


def slot(gate: Gate, cohort: str = OVERALL, alpha: float = 0.01) -> Slot:
    return Slot(0, gate, cohort, alpha)


def spec(*gates: dict[str, Any], alpha: float = 0.05) -> RolloutSpec:
    arms = [{"version": "v1", "weight": 1}]
    return RolloutSpec.model_validate({"arms": arms, "gates": gates, "alpha": alpha})


def everyone(found: Counts) -> Arm:
    return {OVERALL: found}


def followed(gate: Gate, looks: list[tuple[Counts, Counts]]) -> Look:
    """Look again and again at what both arms have come to, candidate's first."""
    trial: Trial | None = None
    for candidate, baseline in looks:
        seen = look(slot(gate), everyone(candidate), everyone(baseline), trial)
        trial = seen.trial
    return seen


def test_alpha_is_split_over_gates_and_places() -> None:
    found = list(
        slots(
            spec({"metric": "error_rate", "max": 0.1}, {"metric": "error_rate", "max": 0.2}),
            ("default", "regulated", "other", "long_context"),
        )
    )
    assert len(found) == 2 * 5
    assert math.fsum(place.alpha for place in found) == pytest.approx(0.05)
    assert found[0] == (0, found[0].gate, OVERALL, pytest.approx(0.0125))
    assert found[1] == (0, found[0].gate, "default", pytest.approx(0.0125 / 4))


def test_a_gate_that_names_cohorts_is_held_there_alone() -> None:
    gate = {"metric": "error_rate", "max": 0.1, "cohorts": ["regulated", "other"]}
    found = list(slots(spec(gate), COHORTS))
    assert [(place.cohort, place.alpha) for place in found] == [
        ("regulated", pytest.approx(0.025)),
        ("other", pytest.approx(0.025)),
    ]


def test_slots_have_names_of_their_own() -> None:
    gate = {"metric": "error_rate", "max": 0.1}
    keys = [place.key for place in slots(spec(gate, gate), COHORTS)]
    assert keys == ["0/*", "0/default", "0/regulated", "1/*", "1/default", "1/regulated"]


def test_a_rate_above_its_bound_breaks_the_gate() -> None:
    gate = Gate(metric="error_rate", max=0.02)
    assert look(slot(gate), everyone(counts(200, 20)), {}, None).broken
    assert not look(slot(gate), everyone(counts(200, 6)), {}, None).broken


def test_a_quantile_above_its_bound_breaks_the_gate() -> None:
    gate = Gate(metric="e2e", quantile=0.5, max=2.0)
    assert look(slot(gate), everyone(counts(e2e=[2.5] * 40 + [1.0] * 5)), {}, None).broken
    assert not look(slot(gate), everyone(counts(e2e=[2.5] * 5 + [1.0] * 40)), {}, None).broken


def test_the_bound_itself_is_allowed() -> None:
    gate = Gate(metric="output_tokens", quantile=0.5, max=256)
    assert not look(slot(gate), everyone(counts(output_tokens=[256] * 500)), {}, None).broken


@pytest.mark.parametrize(
    ("gate", "data"),
    [
        (Gate(metric="shadow_mismatch", max=0.1), {"pairs": 100, "mismatches": 60}),
        (
            Gate(metric="shadow_divergence", quantile=0.5, max=0.5),
            {"divergence": counts(divergence=[2.0] * 60).histogram("divergence").to_json()},
        ),
    ],
)
def test_shadow_answers_break_a_gate(gate: Gate, data: dict[str, Any]) -> None:
    found = Counts()
    found.merge_json(data)
    assert look(slot(gate), everyone(found), {}, None).broken
    assert not look(slot(gate), everyone(Counts()), {}, None).broken


def test_arms_that_are_alike_break_nothing() -> None:
    looks = [(counts(n * 10, n), counts(n * 90, n * 9)) for n in range(60)]
    assert not followed(ERRORS, looks).broken


def test_a_candidate_that_fails_more_breaks_the_gate() -> None:
    looks = [(counts(n * 10, n), counts(n * 90, n)) for n in range(60)]
    assert followed(ERRORS, looks).broken


def test_what_the_margin_allows_breaks_nothing() -> None:
    looks = [(counts(n * 10, n), counts(n * 90, n)) for n in range(60)]
    assert not followed(Gate(metric="error_rate", max_increase=0.1), looks).broken


def test_a_slower_candidate_breaks_the_gate() -> None:
    values = np.exp(0.5 * np.random.default_rng(0).standard_normal(8000))
    slow, usual = values[:1000] * 1.6, values[1000:]
    looks = [(counts(ttft=slow[: n * 20]), counts(ttft=usual[: n * 140])) for n in range(0, 51, 2)]
    assert followed(SLOWER, looks).broken
    allowed = [
        (counts(ttft=slow[: n * 20] / 1.6), after)
        for n, (_, after) in zip(range(0, 51, 2), looks, strict=True)
    ]
    assert not followed(SLOWER, allowed).broken


def test_a_quantile_is_compared_once_the_baselines_is_known() -> None:
    few = followed(SLOWER, [(counts(ttft=[1.0] * 50), counts(ttft=[1.0] * 19))])
    assert few.trial is None
    assert followed(SLOWER, [(counts(ttft=[1.0] * 50), counts(ttft=[1.0] * 20))]).trial is not None


def test_without_answers_of_both_arms_nothing_is_learnt() -> None:
    looks = [(counts(n * 10, n * 10), counts()) for n in range(20)]
    assert followed(ERRORS, looks).log_evidence == 0.0


def test_looking_again_at_the_same_answers_teaches_nothing() -> None:
    once = [(counts(100, 10), counts(900, 9))]
    assert followed(ERRORS, once * 50) == followed(ERRORS, once)


def test_what_is_remembered_is_all_that_is_needed() -> None:
    first, then = (counts(100, 4), counts(900, 9)), (counts(200, 9), counts(1800, 17))
    trial = followed(ERRORS, [first]).trial
    assert trial is not None
    again = look(
        slot(ERRORS), everyone(then[0]), everyone(then[1]), Trial.from_json(trial.to_json())
    )
    assert again.log_evidence == pytest.approx(
        followed(ERRORS, [first, then]).log_evidence, abs=1e-4
    )


def test_counts_that_were_lost_are_no_evidence() -> None:
    before = [(counts(100, 10), counts(900, 9))]
    lost = [*before, (counts(10, 1), counts(90, 1))]
    assert followed(ERRORS, lost).log_evidence == followed(ERRORS, before).log_evidence


def test_an_outage_of_both_while_weights_move_blames_nobody() -> None:
    # At 1 %, all is well; at 50 % half of all answers fail, whoever gives them. Taken together the
    # candidate has failed far more often.
    calm = [(counts(n), counts(99 * n)) for n in range(100)]
    storm = [(counts(100 + 10 * n, 5 * n), counts(9900 + 10 * n, 5 * n)) for n in range(100)]
    assert not followed(ERRORS, [*calm, *storm]).broken


def test_feedback_that_comes_later_than_its_answer_is_counted() -> None:
    gate = Gate(metric="feedback_failures", max_increase=0.0)
    looks = [(counts(2 * n, feedback=n), counts(20 * n, feedback=n)) for n in range(40)]
    late = [*looks, (counts(79, feedback=79), counts(781, feedback=39))]
    seen = followed(gate, late)
    assert seen.broken
    assert seen.trial is not None
    assert seen.trial.seen.candidate_hits <= seen.trial.seen.candidate
