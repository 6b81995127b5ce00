from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.rollout.spec import Shadow
from softprompt_serve.shadow.budget import BURST_SECONDS, Bucket, Budget, Budgets

steps = st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 5_000.0)), min_size=1, max_size=60)


def budget(rate: float = 100.0, concurrency: int = 2) -> Budget:
    return Budget(Bucket.full(rate, 0.0), concurrency)


@given(steps, st.floats(0.01, 10_000.0))
def test_no_more_flows_out_than_flowed_in_and_the_last_ones_amount(
    steps: list[tuple[float, float]], rate: float
) -> None:
    bucket, now, taken = Bucket.full(rate, 0.0), 0.0, 0.0
    burst = bucket.level
    for wait, amount in steps:
        now += wait
        if bucket.open(now):
            taken += amount
            bucket.take(amount)
            assert taken - amount <= (burst + rate * now) * (1 + 1e-9)


@given(steps, st.floats(0.01, 10_000.0))
def test_it_opens_again_when_the_debt_is_paid(
    steps: list[tuple[float, float]], rate: float
) -> None:
    bucket, now = Bucket.full(rate, 0.0), 0.0
    for wait, amount in steps:
        now += wait
        if bucket.open(now):
            bucket.take(amount)
    debt = max(0.0, -bucket.level)
    assert bucket.open(now + debt / rate * (1 + 1e-9) + 1e-6)


@given(steps)
def test_it_never_holds_more_than_a_burst(steps: list[tuple[float, float]]) -> None:
    bucket, now = Bucket.full(50.0, 0.0), 0.0
    for wait, amount in steps:
        now += wait
        bucket.open(now)
        assert bucket.level <= 50.0 * BURST_SECONDS
        bucket.take(-amount)
        assert bucket.level <= 50.0 * BURST_SECONDS


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    bucket = Bucket.full(10.0, 5.0)
    bucket.take(100.0)
    assert not bucket.open(5.0)
    assert not bucket.open(1.0)
    assert bucket.level == -90.0


def test_a_rate_below_one_token_a_second_still_lets_one_through_in_the_end() -> None:
    bucket = Bucket.full(0.001, 0.0)
    assert bucket.open(0.0)
    bucket.take(4.0)
    assert not bucket.open(2_999.0)
    assert bucket.open(3_001.0)


def test_as_many_run_as_may_at_once() -> None:
    found = budget(rate=1e6, concurrency=2)
    reserved = [found.start(0.0) for _ in range(3)]
    assert reserved[2] == "budget_concurrency"
    assert isinstance(reserved[0], float)
    found.end(reserved[0])
    assert found.start(0.0) != "budget_concurrency"


def test_what_a_copy_took_is_known_when_it_ends() -> None:
    found = budget(rate=100.0)
    reserved = found.start(0.0, 50.0)
    assert reserved == 50.0
    found.end(50.0, 400.0)  # 300 in debt
    assert found.start(2.0) == "budget_tokens"
    assert found.start(3.1) != "budget_tokens"


def test_what_was_not_used_is_given_back() -> None:
    found = budget(rate=100.0)
    found.start(0.0, 500.0)
    found.end(500.0, 10.0)
    assert found.bucket.level == 90.0


def test_a_copy_that_was_cut_off_costs_what_was_reserved() -> None:
    found = budget(rate=100.0)
    found.start(0.0, 500.0)
    found.end(500.0)
    assert found.bucket.level == -400.0


def test_what_copies_take_is_expected_of_the_next_one() -> None:
    found = budget(rate=1e6)
    for _ in range(100):
        reserved = found.start(0.0)
        assert isinstance(reserved, float)
        found.end(reserved, 40.0)
    assert abs(found.expected - 40.0) < 1.0


def shadow(rate: float = 100.0, concurrency: int = 1) -> Shadow:
    return Shadow(version="v2", sample=1.0, max_concurrency=concurrency, max_tokens_per_second=rate)


def test_each_prompt_has_its_own_budget() -> None:
    budgets = Budgets()
    assert budgets.of("support", shadow(), 0.0).start(0.0) != "budget_concurrency"
    assert budgets.of("sales", shadow(), 0.0).start(0.0) != "budget_concurrency"
    assert budgets.of("support", shadow(), 0.0).start(0.0) == "budget_concurrency"


def test_new_limits_hold_at_once_and_forgive_no_debt() -> None:
    budgets = Budgets()
    budgets.of("support", shadow(100.0), 0.0).start(0.0, 1_100.0)
    changed = budgets.of("support", shadow(10.0, concurrency=5), 1.0)
    assert (changed.concurrency, changed.running) == (5, 1)
    assert changed.bucket.level == -900.0
    assert changed.start(60.0) == "budget_tokens"
    assert changed.start(92.0) != "budget_tokens"


def test_a_lower_rate_also_lowers_what_is_saved() -> None:
    budgets = Budgets()
    budgets.of("support", shadow(1e6), 0.0)
    assert budgets.of("support", shadow(10.0), 1.0).bucket.level == 10.0
