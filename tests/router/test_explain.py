"""The steps of a choice in words end where the choice does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from router.catalogues import arms, rollout, rule, snapshot, split

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.router.ask import DERIVED, Ask
from softprompt_serve.router.choose import choose
from softprompt_serve.router.explain import trace
from softprompt_serve.router.plan import matches

if TYPE_CHECKING:
    from softprompt_serve.registry.snapshot import Snapshot

NAMES = st.sampled_from(["v1", "v2", "v3"])
COHORTS = st.sampled_from(["default", "other", "regulated", *DERIVED])
ROUTES = st.sampled_from(["default", "planner", "other"])
TIERS = st.sampled_from(["gold", "silver"])


def some(values: Any) -> Any:
    return st.lists(values, min_size=1, max_size=2, unique=True)


@st.composite
def weighted(draw: Any) -> list[dict[str, Any]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    weights = draw(st.lists(st.integers(0, 9), min_size=len(names), max_size=len(names)))
    return arms(**dict(zip(names, weights, strict=True)) | {names[0]: weights[0] + 1})


MATCHES = st.fixed_dictionaries(
    {"tools": st.booleans()},
    optional={
        "cohort": some(COHORTS),
        "route": some(ROUTES),
        "headers": st.fixed_dictionaries({"x-tier": some(TIERS)}),
        "visible_tokens": st.sampled_from([{"min": 10}, {"max": 20}, {"min": 5, "max": 50}]),
    },
)


@st.composite
def rules(draw: Any) -> list[dict[str, Any]]:
    return [
        {"name": f"r{i}", "match": draw(MATCHES)}
        | draw(
            st.one_of(NAMES.map(lambda v: {"version": v}), weighted().map(lambda s: {"split": s}))
        )
        for i in range(draw(st.integers(0, 3)))
    ]


@st.composite
def snapshots(draw: Any) -> Snapshot:
    aliases = draw(st.dictionaries(st.sampled_from(["production", "candidate"]), NAMES))
    unloaded = tuple(draw(st.sets(NAMES, max_size=2)))
    document = {"arms": draw(weighted()), "rules": draw(rules())}
    routed = draw(st.sampled_from([None, rollout(None), rollout(document)]))
    return snapshot(aliases, unloaded=unloaded, routed=routed)


ASKS = st.builds(
    Ask,
    key=st.text(max_size=5),
    pinned=st.sampled_from([None, None, "v1", "candidate", "v9"]),
    cohort=COHORTS,
    route=ROUTES,
    headers=st.one_of(st.just({}), TIERS.map(lambda tier: {"x-tier": tier})),
    tools=st.booleans(),
    visible_tokens=st.sampled_from([None, 0, 7, 15, 60]),
    long_context=st.booleans(),
)


@given(
    snapshots(),
    st.sampled_from(["support", "support", "support@v2", "support@candidate", "other"]),
    ASKS,
    st.sets(NAMES),
    st.sampled_from(["fallback", "unavailable"]),
)
def test_the_steps_end_at_the_version_that_is_chosen(
    seen: Snapshot, model: str, ask: Ask, held: set[str], absent: Any
) -> None:
    given = {"resident": lambda version: version.version in held, "absent": absent}
    try:
        chosen = choose(seen, model, ask, **given).version.version
    except SoftpromptError:
        chosen = None
    told = trace(seen, model, ask, **given)
    assert told.version == chosen
    assert ("answered by" in told.steps[-1]) is (chosen is not None)


@given(MATCHES, ASKS)
def test_a_rule_that_does_not_match_has_a_reason(match: dict[str, Any], ask: Ask) -> None:
    seen = split(rule(**match), v1=1)
    prompt = seen.prompts["support"]
    assert prompt.rollout is not None
    assert prompt.rollout.spec is not None
    told = trace(seen, "support", Ask(key=ask.key, **_known(ask))).steps
    said = "yes" if matches(prompt.rollout.spec.rules[0].match, ask) else "no, "
    assert any(step.startswith(f"rule `a-rule`: {said}") for step in told)


def _known(ask: Ask) -> dict[str, Any]:
    """All but the pin, which comes before any rule."""
    names = ("cohort", "route", "headers", "tools", "visible_tokens", "long_context")
    return {name: getattr(ask, name) for name in names}


def test_each_step_is_told_in_its_turn() -> None:
    seen = split(
        rule("beta", cohort=["beta"]),
        rule("tools", tools=True),
        rule("gold", headers={"x-tier": ["gold"]}),
        rule("long", visible_tokens={"min": 100}),
        v2=5,
        v3=0,
    )
    told = trace(seen, "support", Ask(key="k", visible_tokens=7, headers={"x-tier": "tin"}))
    assert told.steps == (
        "pinned: no",
        "rollout: generation 12, static",
        "rule `beta`: no, cohort is default, not beta",
        "rule `tools`: no, no tools are offered",
        "rule `gold`: no, x-tier is 'tin', not 'gold'",
        "rule `long`: no, visible tokens are 7, not at least 100",
        "split: v2 has all",
        "answered by v2",
    )


def test_an_arm_that_is_not_resident_is_said_to_be_passed_over() -> None:
    seen = split(v1=1, v2=1)
    drawn = choose(seen, "support").version.version
    (other,) = {"v1", "v2"} - {drawn}
    told = trace(seen, "support", Ask(), resident=lambda version: version.version == other)
    assert told.steps[-3:] == (
        f"residency: {drawn} is not resident here",
        f"fallback: {other} takes its share meanwhile",
        f"answered by {other}",
    )


def test_without_a_rollout_production_answers() -> None:
    told = trace(snapshot(), "support", Ask())
    assert told.steps == (
        "pinned: no",
        "rollout: none",
        "alias: `production` is v1",
        "answered by v1",
    )
