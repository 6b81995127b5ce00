from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from shadows import answer, job

from softprompt_serve.registry.database import Database
from softprompt_serve.registry.tallies import Tallies
from softprompt_serve.shadow.compare import Comparison, Likelihood, compare
from softprompt_serve.shadow.counts import Counts
from softprompt_serve.shadow.ledger import Ledger
from softprompt_serve.shadow.types import CAUSES

# Multiples of 1/8 add up exactly, in any order.
eighths = st.integers(-80, 80).map(lambda n: n / 8)
shares = st.integers(0, 8).map(lambda n: n / 8)
comparisons = st.builds(
    Comparison,
    exact=st.booleans(),
    similarity=shares,
    word_similarity=shares,
    length_delta=st.integers(-99, 99),
    token_delta=st.integers(-99, 99),
    ttft_delta=st.none() | eighths,
    e2e_delta=eighths,
    finish_equal=st.booleans(),
    tools_equal=st.none() | st.booleans(),
    json_valid=st.none() | st.tuples(st.booleans(), st.booleans()),
)
likelihoods = st.builds(Likelihood, eighths, eighths, st.integers(1, 500))
observations = st.one_of(comparisons, likelihoods, st.sampled_from(CAUSES))


def record(ledger: Ledger, seen: Comparison | Likelihood | str) -> None:
    ledger.offered(job())
    if isinstance(seen, Comparison):
        ledger.compared(job(), seen)
    elif isinstance(seen, Likelihood):
        ledger.scored(job(), seen)
    else:
        ledger.shed(job(), seen)


@given(st.lists(st.tuples(observations, st.booleans()), max_size=40))
def test_two_replicas_add_up_to_what_one_would_have_counted(
    seen: list[tuple[Comparison | Likelihood | str, bool]],
) -> None:
    one, left, right = Ledger(), Ledger(), Ledger()
    for observation, to_the_left in seen:
        record(one, observation)
        record(left if to_the_left else right, observation)
    rows = [*left.dirty("left"), *right.dirty("right")]
    merged = Counts.merged(json.loads(json.dumps(tally.data)) for tally in rows)
    whole = Counts.merged(tally.data for tally in one.dirty("one"))
    assert merged.to_json() == whole.to_json()


def test_rows_survive_the_database_and_add_up_over_replicas(tmp_path: Path) -> None:
    tallies = Tallies(Database.open(f"sqlite:///{tmp_path}/catalogue.db"))
    for replica in ("a", "b"):
        ledger = Ledger()
        for _ in range(2):  # the second flush replaces the first
            ledger.compared(job(), compare(answer("one"), answer("two"), wants_json=True))
            ledger.scored(job(), Likelihood(0.5, 1.5, 7))
            tallies.write(ledger.dirty(replica))
    found = tallies.read("support", "shadow", 3)
    assert [(t.replica, t.version, t.cohort) for t in found] == [
        ("a", "v2", "default"),
        ("b", "v2", "default"),
    ]
    counts = Counts.merged(tally.data for tally in found)
    assert (counts["pairs"], counts["mismatches"], counts["scored_tokens"]) == (4, 4, 28)
    assert counts.means["divergence"].mean == 0.5
    assert counts.divergence.count == 4


def test_the_rollouts_controller_finds_what_its_gates_need() -> None:
    ledger = Ledger()
    ledger.compared(job(), compare(answer("one"), answer("two"), wants_json=False))
    ledger.scored(job(), Likelihood(0.5, 1.5, 7))
    (tally,) = ledger.dirty("here")
    assert (tally.kind, tally.version) == ("shadow", "v2")
    assert (tally.data["pairs"], tally.data["mismatches"]) == (1, 1)
    assert sum(tally.data["divergence"].values()) == 1


def test_prompts_epochs_candidates_and_cohorts_are_counted_apart() -> None:
    ledger = Ledger()
    for different in (
        job(),
        job(cohort="regulated"),
        job(candidate="v3"),
        job(prompt="sales"),
        job(epoch=4),
    ):
        ledger.offered(different)
    assert len(ledger.dirty("here")) == 5


def test_only_what_changed_is_given_again() -> None:
    ledger = Ledger()
    ledger.offered(job())
    ledger.offered(job(cohort="regulated"))
    assert len(ledger.dirty("here")) == 2
    assert ledger.dirty("here") == []
    ledger.offered(job())
    (tally,) = ledger.dirty("here")
    assert (tally.cohort, tally.data["offered"]) == ("default", 2)


def test_what_was_given_does_not_change_afterwards() -> None:
    ledger = Ledger()
    ledger.shed(job(), "busy")
    (tally,) = ledger.dirty("here")
    ledger.shed(job(), "busy")
    assert tally.data["shed"] == {"busy": 1}


def test_what_could_not_be_written_is_given_again() -> None:
    ledger = Ledger()
    ledger.offered(job(epoch=3))
    lost = ledger.dirty("here")
    ledger.offered(job(epoch=4))
    ledger.unwritten(lost)
    assert [tally.epoch for tally in ledger.dirty("here")] == [3, 4]


def test_what_others_could_not_write_means_nothing_here() -> None:
    ledger = Ledger()
    ledger.offered(job())
    (tally,) = ledger.dirty("here")
    ledger.unwritten([replace(tally, kind="requests"), replace(tally, prompt="sales")])
    assert ledger.dirty("here") == []


def test_an_epoch_that_is_over_is_forgotten_and_not_begun_anew() -> None:
    ledger = Ledger()
    ledger.offered(job(epoch=3))
    ledger.dirty("here")
    ledger.offered(job(epoch=4))
    ledger.dirty("here")
    ledger.offered(job(epoch=3))  # it would replace the row that was written
    assert ledger.dirty("here") == []


def test_a_late_pair_of_an_epoch_that_is_still_known_counts() -> None:
    ledger = Ledger()
    ledger.offered(job(epoch=3))
    ledger.offered(job(epoch=4))
    ledger.shed(job(epoch=3), "timeout")
    (late, _) = ledger.dirty("here")
    assert late.data["shed"] == {"timeout": 1}


def test_what_another_release_counts_besides_is_left_out() -> None:
    counts = Counts.merged([{"pairs": 1, "new": {"x": 1}, "means": {"new": [1, 2.0, 4.0]}}])
    assert counts["pairs"] == 1
