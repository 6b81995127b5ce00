"""The sticky weighted split: fair, monotone, and the same everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from math import log, sqrt

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from softprompt_serve.router.split import Split, hash64, share

KEYS = [f"user-{number}" for number in range(4000)]
MANY = [f"user-{number}" for number in range(40_000)]
FEW = KEYS[:400]
WEIGHTS = st.dictionaries(
    st.sampled_from([f"v{number}" for number in range(1, 30)]),
    st.integers(1, 1_000_000),
    min_size=2,
    max_size=12,
)
MILLION = 1_000_000


def split(weights: dict[str, int], prompt: str = "support") -> Split:
    return Split.of(prompt, weights.items())


def picks(weights: dict[str, int], keys: list[str] = KEYS) -> dict[str, str]:
    found = split(weights)
    return {key: found.pick(key) for key in keys}


def chi_square(counts: Counter[str], weights: dict[str, int]) -> float:
    scale = counts.total() / sum(weights.values())
    return sum((counts[name] - w * scale) ** 2 / (w * scale) for name, w in weights.items())


def limit(degrees: int) -> float:
    """The chi-square that chance exceeds once in 3.5 million (5 sigma).

    E. B. Wilson, M. M. Hilferty, "The distribution of chi-square", PNAS 17(12), 1931.
    """
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + 5 * sqrt(part)) ** 3)


# Fair


@pytest.mark.parametrize(
    "weights",
    [
        {"v1": 1, "v2": 1},
        {"v1": 99, "v2": 1},
        {"v1": 90, "v2": 10},
        {"v1": 500_000, "v2": 250_000, "v3": 250_000},
        {"v1": 1, "v2": 2, "v3": 3, "v4": 4, "v5": 5},
        {f"v{number}": 1 for number in range(100)},
        {f"v{number}": number + 10 for number in range(100)},
    ],
    ids=lambda weights: f"{len(weights)} arms of {sum(weights.values())}",
)
@pytest.mark.parametrize("keys", ["user-{}", "{}", "{:032x}", "a long common beginning, {}"])
def test_arms_are_chosen_in_proportion_to_their_weights(weights: dict[str, int], keys: str) -> None:
    found = split(weights)
    counts = Counter(found.pick(keys.format(number)) for number in range(10_000))
    assert chi_square(counts, weights) < limit(len(weights) - 1)


@settings(max_examples=30)
@given(st.lists(st.integers(10, 1000), min_size=2, max_size=10))
def test_any_weights_are_kept_to(given_weights: list[int]) -> None:
    weights = {f"v{number}": weight for number, weight in enumerate(given_weights)}
    assert chi_square(Counter(picks(weights).values()), weights) < limit(len(weights) - 1)


def test_prompts_are_divided_independently_of_each_other() -> None:
    weights = {"v1": 1, "v2": 1}
    one, other = split(weights, "support"), split(weights, "sales")
    both = Counter(f"{one.pick(key)} {other.pick(key)}" for key in KEYS)
    expected = dict.fromkeys(("v1 v1", "v1 v2", "v2 v1", "v2 v2"), 1)
    assert chi_square(both, expected) < limit(3)


def test_one_in_a_million_gets_about_that() -> None:
    found = split({"v1": MILLION - 100, "v2": 100})  # 1 in 10,000 of 40,000 keys: 4
    assert 0 < Counter(found.pick(key) for key in MANY)["v2"] < 16


def test_one_in_a_million_is_found_by_the_keys_that_it_draws_best_for() -> None:
    tiny, even = split({"v1": MILLION - 1, "v2": 1}), split({"v1": 1, "v2": 1})
    taken = [key for key in MANY if tiny.pick(key) == "v2"]
    assert len(taken) <= 2
    assert all(even.pick(key) == "v2" for key in taken)


@given(WEIGHTS, st.text())
def test_weight_0_gets_nothing(weights: dict[str, int], key: str) -> None:
    name = next(iter(weights))
    assert split(weights | {name: 0}).pick(key) != name


@given(st.integers(1, MILLION), st.text())
def test_one_arm_gets_everything(weight: int, key: str) -> None:
    assert split({"v1": weight, "v2": 0}).pick(key) == "v1"


@pytest.mark.parametrize("weights", [{}, {"v1": 0}, {"v1": 0, "v2": 0}])
def test_no_weight_at_all_is_an_error(weights: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no arm"):
        split(weights).pick("someone")


# Monotone


@settings(max_examples=40)
@given(WEIGHTS, st.data())
def test_raising_a_weight_moves_keys_into_that_arm_only(
    weights: dict[str, int], data: st.DataObject
) -> None:
    raised = data.draw(st.sampled_from(sorted(weights)))
    more = data.draw(st.integers(weights[raised], 2 * MILLION))
    before, after = picks(weights, FEW), picks(weights | {raised: more}, FEW)
    assert {after[key] for key in FEW if before[key] != after[key]} <= {raised}


@settings(max_examples=40)
@given(WEIGHTS, st.data())
def test_lowering_a_weight_moves_keys_out_of_that_arm_only(
    weights: dict[str, int], data: st.DataObject
) -> None:
    lowered = data.draw(st.sampled_from(sorted(weights)))
    less = data.draw(st.integers(0, weights[lowered]))
    before, after = picks(weights, FEW), picks(weights | {lowered: less}, FEW)
    assert {before[key] for key in FEW if before[key] != after[key]} <= {lowered}


@settings(max_examples=40)
@given(WEIGHTS, st.data())
def test_taking_an_arm_away_moves_its_own_keys_only(
    weights: dict[str, int], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(weights)))
    rest = split(weights).without([gone])
    before = picks(weights, FEW)
    assert all(rest.pick(key) == before[key] for key in FEW if before[key] != gone)
    assert all(rest.pick(key) != gone for key in FEW)


@settings(max_examples=40)
@given(WEIGHTS, st.integers(2, 1000))
@example({"v1": 1, "v2": 2, "v3": 4}, 3)
def test_scaling_all_weights_changes_nothing(weights: dict[str, int], factor: int) -> None:
    scaled = {name: weight * factor for name, weight in weights.items()}
    assert picks(weights, FEW) == picks(scaled, FEW)


@settings(max_examples=20)
@given(WEIGHTS)
def test_the_order_of_arms_does_not_matter(weights: dict[str, int]) -> None:
    backwards = dict(reversed(weights.items()))
    assert picks(weights, FEW) == picks(backwards, FEW)


def test_a_canarys_users_stay_on_it_through_all_of_its_steps() -> None:
    seen: set[str] = set()
    for weight in (1, 5, 10, 25, 50, 100):
        found = picks({"v1": 100 - weight, "v2": weight})
        on_it = {key for key, name in found.items() if name == "v2"}
        assert seen <= on_it
        seen = on_it
    assert seen == set(KEYS)


# The same everywhere


SCRIPT = """
import json, sys
from softprompt_serve.router.split import Split
weights, keys = json.load(sys.stdin)
split = Split.of("support", weights.items())
json.dump([split.pick(key) for key in keys], sys.stdout)
"""


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_other_processes_choose_alike(seed: str) -> None:
    weights = {"v1": 700, "v2": 200, "v3": 99, "v4": 1}
    keys = [*KEYS, "", "é", "用户", "\ud800", "a" * 10_000]
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([weights, keys]),
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(answer.stdout) == [split(weights).pick(key) for key in keys]


def reference(prompt: str, weights: dict[str, int], key: str) -> str:
    """The method as its sources write it down, an arm at a time."""
    scores = {}
    for name, weight in weights.items():
        x = hash64(key) ^ hash64(f"{prompt}@{name}")
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        x = x ^ x >> 31
        u = (x >> 11 | 1) / 2**53
        scores[name] = -log(u) / weight
    return min(scores, key=lambda name: scores[name])


@settings(max_examples=60)
@given(WEIGHTS, st.lists(st.text(), min_size=10, max_size=50))
def test_arms_mixed_at_once_draw_what_each_draws_alone(
    weights: dict[str, int], keys: list[str]
) -> None:
    found = split(weights)
    assert [found.pick(key) for key in keys] == [reference("support", weights, k) for k in keys]


def test_a_hundred_arms_mixed_at_once_draw_what_each_draws_alone() -> None:
    weights = {f"v{number}": number + 1 for number in range(100)}
    found = split(weights)
    assert all(found.pick(key) == reference("support", weights, key) for key in FEW)


def test_a_release_of_this_software_does_not_move_users() -> None:
    found = split({"v1": 60, "v2": 30, "v3": 10})
    assert "".join(found.pick(f"user-{number}")[1] for number in range(40)) == PINNED


PINNED = "1222123231311211331111112112212211112311"


def test_an_arm_that_draws_nothing_loses() -> None:
    worst = Split((("v1", hash64("someone"), 1), ("v2", 1, 1)))  # its draw is that of 0: 0
    assert worst.pick("someone") == "v2"


# Hashes


def test_the_hash_is_blake2b() -> None:
    # `printf abc | b2sum -l 64` says d8bb14d833d59559
    assert hash64("abc") == int.from_bytes(bytes.fromhex("d8bb14d833d59559"), "little")


@given(st.text())
def test_a_share_is_in_0_to_1(key: str) -> None:
    assert 0.0 <= share(key) < 1.0


def test_shares_are_uniform() -> None:
    tenths = Counter(str(int(share(key) * 10)) for key in KEYS)
    assert chi_square(tenths, {str(tenth): 1 for tenth in range(10)}) < limit(9)


def test_half_a_surrogate_pair_is_a_key_like_any_other() -> None:
    assert split({"v1": 1, "v2": 1}).pick("\ud83d") in {"v1", "v2"}
