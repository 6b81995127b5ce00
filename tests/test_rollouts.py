"""Rollouts in the catalogue: what each change makes of a prompt's traffic, also under races."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt_serve.artifact import Content
from softprompt_serve.errors import Conflict, Invalid, NotFound, SoftpromptError, Stale
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.rollouts import Rollouts
from softprompt_serve.rollout.spec import MAX_WEIGHT, RolloutSpec
from softprompt_serve.router.ask import Labels
from softprompt_serve.router.choose import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from softprompt_serve.registry.snapshot import Rollout

LABELS = Labels(("regulated",), (), frozenset())
STEPS = [{"weight": 1, "min_requests": 10}, {"weight": 50}]
REGULATED = {"name": "regulated", "match": {"cohort": ["regulated"]}, "version": "v1"}


class Prompt:
    """One prompt, `p`, with v1 (production), v2, v3, and the alias `candidate` for v2."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database.open(url)
        self.catalogue = Catalogue(self.database)
        self.rollouts = Rollouts(self.database, LABELS)
        for text in ("one", "two", "three"):
            self.catalogue.add_version("p", None, Content("hard", text=text), {})
        self.catalogue.set_alias("p", "production", "v1")
        self.catalogue.set_alias("p", "candidate", "v2")

    def put(self, *, match: int | None = None, **document: Any) -> Rollout:
        spec = RolloutSpec.model_validate({"arms": arms(v1=90, v2=10)} | document)
        return self.rollouts.put("p", spec, if_match=match, actor="ada")[0]

    def weights(self, *, match: int | None = None, **weights: int) -> Rollout:
        return self.rollouts.put_weights("p", weights, if_match=match, actor="ada")[0]

    def promote(self, version: str | None = None) -> Rollout:
        return self.rollouts.promote("p", version, if_match=None, actor="ada")[0]

    def rollback(self) -> Rollout:
        return self.rollouts.rollback("p", if_match=None, actor="ada")[0]

    def pause(self) -> Rollout:
        return self.rollouts.pause("p", if_match=None, actor=None)[0]

    def resume(self) -> Rollout:
        return self.rollouts.resume("p", if_match=None, actor=None)[0]

    def advance(self, step: int = 0, base: int = 0) -> Rollout:
        now = self.rollouts.get("p")
        assert now is not None
        return self.rollouts.advance(
            "p", if_match=now.generation, step=step, base=base, reason="it held", actor="controller"
        )

    @property
    def production(self) -> str | None:
        return self.catalogue.snapshot().prompts["p"].aliases.get("production")

    def audited(self) -> list[str]:
        return [entry.action for entry in self.catalogue.audit()]


def arms(**weights: int) -> list[dict[str, Any]]:
    return [{"version": name, "weight": weight} for name, weight in weights.items()]


@pytest.fixture
def p(tmp_path: Path) -> Iterator[Prompt]:
    made = Prompt(f"sqlite:///{tmp_path}/catalogue.db")
    yield made
    made.catalogue.close()


@pytest.fixture
def anywhere(database_url: str) -> Iterator[Prompt]:
    """The same, on SQLite and on PostgreSQL."""
    made = Prompt(database_url)
    yield made
    made.catalogue.close()


def refused(call: Callable[[], Any], kind: type[SoftpromptError] = Conflict) -> str:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code


# --- the document


def test_a_prompt_begins_without_a_rollout(p: Prompt) -> None:
    assert p.rollouts.get("p") is None
    assert p.catalogue.snapshot().prompts["p"].rollout is None


def test_a_document_is_in_the_next_snapshot(p: Prompt) -> None:
    made = p.put()
    assert (made.generation, made.epoch, made.state) == (1, 1, "static")
    assert dict(made.weights) == {"v1": 90, "v2": 10}
    assert made.updated_by == "ada"
    seen = p.catalogue.snapshot().prompts["p"].rollout
    assert seen == made == p.rollouts.get("p")


def test_an_alias_is_resolved_when_it_is_written_and_stays_so(p: Prompt) -> None:
    made = p.put(arms=arms(v1=90, candidate=10))
    p.catalogue.set_alias("p", "candidate", "v3")
    assert dict(made.weights) == {"v1": 90, "v2": 10}
    assert p.rollouts.get("p") == made


def test_a_document_that_means_nothing_changes_nothing(p: Prompt) -> None:
    before = p.catalogue.revision()
    assert refused(lambda: p.put(arms=arms(v9=1)), Invalid) == "rollout_unknown_version"
    assert (p.rollouts.get("p"), p.catalogue.revision()) == (None, before)


def test_an_unknown_prompt_has_no_rollout_to_change(p: Prompt) -> None:
    def put() -> Any:
        spec = RolloutSpec.model_validate({"arms": arms(v1=1)})
        return p.rollouts.put("q", spec, if_match=None, actor=None)

    assert refused(put, NotFound) == "prompt_not_found"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"rules": [REGULATED], "shadow": {"version": "v3", "sample": 0.1}},
        {"arms": arms(v1=100, v2=0), "steps": STEPS},
        {"arms": arms(v1=90, candidate=10)},
    ],
)
def test_the_same_document_again_changes_nothing(p: Prompt, document: dict[str, Any]) -> None:
    made = p.put(**document)
    revision = p.catalogue.revision()
    spec = RolloutSpec.model_validate({"arms": arms(v1=90, v2=10)} | document)
    assert p.rollouts.put("p", spec, if_match=made.generation, actor="bob") == (made, False)
    assert p.catalogue.revision() == revision


def test_what_was_shown_can_be_put_back_unchanged(p: Prompt) -> None:
    made = p.put(arms=arms(v1=90, candidate=10), rules=[REGULATED])
    assert made.spec is not None
    assert p.rollouts.put("p", made.spec, if_match=None, actor=None) == (made, False)


def test_each_change_is_one_generation_one_revision_and_one_audit_row(p: Prompt) -> None:
    before = p.catalogue.revision()
    p.put()
    p.weights(v1=80, v2=20)
    p.promote("v2")
    p.rollback()
    p.rollouts.remove("p", if_match=None, actor="ada")
    assert p.audited()[:5] == [
        "rollout.removed",
        "rollout.rolled_back",
        "rollout.promoted",
        "rollout.weights",
        "rollout.set",
    ]
    now = p.rollouts.get("p")
    assert now is not None
    assert (now.generation, p.catalogue.revision()) == (5, before + 5)


def test_the_audit_says_what_became_of_the_traffic(p: Prompt) -> None:
    p.put()
    p.promote("v2")
    entry = p.catalogue.audit()[0]
    assert (entry.actor, entry.prompt, entry.subject) == ("ada", "p", "rollout")
    assert entry.detail["weights"] == {"v1": 0, "v2": 100}
    assert (entry.detail["previous"], entry.detail["production"]) == ("v1", "v2")


def test_a_removed_rollout_leaves_the_traffic_to_production(p: Prompt) -> None:
    p.put()
    removed = p.rollouts.remove("p", if_match=1, actor=None)
    assert removed is not None
    assert (removed.generation, removed.spec, removed.plan) == (2, None, None)
    assert p.rollouts.remove("p", if_match=2, actor=None) == removed
    assert p.put().generation == 3


def test_there_may_be_nothing_to_remove(p: Prompt) -> None:
    assert p.rollouts.remove("p", if_match=0, actor=None) is None


# --- generations


def test_a_change_meant_for_another_generation_is_refused(p: Prompt) -> None:
    p.put(match=0)
    with pytest.raises(Stale) as caught:
        p.put(match=0, arms=arms(v1=1))
    assert (caught.value.status, caught.value.code) == (412, "stale_generation")
    assert "generation 1, not 0" in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.put_weights("p", {"v1": 1}, if_match=5, actor=None),
        lambda r: r.promote("p", "v2", if_match=5, actor=None),
        lambda r: r.rollback("p", if_match=5, actor=None),
        lambda r: r.pause("p", if_match=5, actor=None),
        lambda r: r.resume("p", if_match=5, actor=None),
        lambda r: r.remove("p", if_match=5, actor=None),
        lambda r: r.advance("p", if_match=5, step=0, base=0, reason="", actor=""),
    ],
)
def test_every_change_can_be_tied_to_a_generation(p: Prompt, change: Any) -> None:
    p.put(arms=arms(v1=100, v2=0), steps=STEPS)
    assert refused(lambda: change(p.rollouts), Stale) == "stale_generation"


def test_of_two_writers_with_the_same_generation_exactly_one_wins(anywhere: Prompt) -> None:
    other = Database.open(anywhere.url)
    writers = (anywhere.rollouts, Rollouts(other, LABELS))

    def write(writer: Rollouts, name: int, seen: int) -> str:
        try:
            weights = {"v1": seen + 1, "v2": name + 1}
            made, new = writer.put_weights("p", weights, if_match=seen, actor=str(name))
        except Stale:
            return "stale"
        assert new
        assert made.updated_by == str(name)
        return "won"

    with ThreadPoolExecutor(4) as threads:
        for seen in range(10):
            ends = threads.map(lambda i, s=seen: write(writers[i % 2], i, s), range(4))
            assert sorted(ends) == ["stale", "stale", "stale", "won"]
    other.close()
    generations = [entry["generation"] for entry in anywhere.rollouts.history("p")]
    assert generations == list(range(10, -1, -1))


def test_writers_who_tie_themselves_to_nothing_make_generations_without_gaps(
    anywhere: Prompt,
) -> None:
    other = Database.open(anywhere.url)
    writers = (anywhere.rollouts, Rollouts(other, LABELS))

    def write(i: int) -> int:
        weights = {"v1": 100, "v2": i + 1}
        return writers[i % 2].put_weights("p", weights, if_match=None, actor=None)[0].generation

    with ThreadPoolExecutor(6) as threads:
        made = sorted(threads.map(write, range(24)))
    other.close()
    assert made == list(range(1, 25))
    assert anywhere.catalogue.revision() == 5 + 24


def test_a_whole_life_is_the_same_on_every_database(anywhere: Prompt) -> None:
    p = anywhere
    p.put(arms=arms(v1=90, candidate=10), steps=STEPS, rules=[REGULATED])
    p.advance(base=3)
    p.pause()
    p.resume()
    p.rollouts.note("p", 1, {"requests": 4})
    assert p.rollouts.view("p").findings is not None
    p.promote()
    assert p.production == "v2"
    p.weights(v2=50, v3=50)
    assert (dict(p.rollback().weights), p.production) == ({"v2": 100}, "v2")
    p.rollouts.remove("p", if_match=7, actor=None)
    p.catalogue.remove_alias("p", "production")
    p.catalogue.remove_version("p", "v3")
    told = [entry["action"] for entry in p.rollouts.history("p")]
    assert told == [
        "removed",
        "rolled_back",
        "weights",
        "promoted",
        "resumed",
        "paused",
        "advanced",
        "set",
        "none",
    ]


# --- the comparison's epoch


def test_new_arms_begin_a_new_comparison(p: Prompt) -> None:
    assert p.put().epoch == 1
    assert p.put(arms=arms(v1=90, v3=10)).epoch == 2


@pytest.mark.parametrize(
    "change",
    [
        {"shadow": {"version": "v2", "sample": 0.1}},
        {"gates": [{"metric": "error_rate", "max": 0.1}]},
        {"alpha": 0.01},
    ],
)
def test_what_is_compared_and_how_begins_a_new_comparison(p: Prompt, change: Any) -> None:
    p.put()
    assert p.put(**change).epoch == 2


def test_a_rule_does_not_disturb_the_comparison(p: Prompt) -> None:
    p.put()
    assert p.put(rules=[REGULATED]).epoch == 1


def test_moving_weights_keeps_the_comparison_while_the_arms_are_the_same(p: Prompt) -> None:
    p.weights(v1=90, v2=10)
    assert p.weights(v2=50, v1=50).epoch == 1
    assert p.weights(v1=50, v3=50).epoch == 3


def test_putting_a_rollout_again_after_a_removal_begins_a_new_comparison(p: Prompt) -> None:
    p.put()
    p.rollouts.remove("p", if_match=None, actor=None)
    assert p.put().epoch == 3


# --- weights


def test_weights_alone_make_a_rollout(p: Prompt) -> None:
    made = p.weights(v1=90, candidate=10)
    assert (made.generation, made.state) == (1, "static")
    assert made.spec is not None
    assert [(a.version, a.weight, a.alias) for a in made.spec.arms] == [
        ("v1", 90, None),
        ("v2", 10, "candidate"),
    ]


def test_weights_leave_rules_shadow_and_gates_alone(p: Prompt) -> None:
    gates = [{"metric": "error_rate", "max": 0.1}]
    p.put(rules=[REGULATED], shadow={"version": "v3", "sample": 0.1}, gates=gates)
    made = p.weights(v1=1, v2=1).spec
    assert made is not None
    assert (made.rules[0].name, made.shadow is not None, len(made.gates)) == ("regulated", True, 1)


def test_the_same_weights_again_change_nothing(p: Prompt) -> None:
    made = p.weights(v1=90, v2=10)
    again = p.rollouts.put_weights("p", {"v2": 10, "v1": 90}, if_match=1, actor=None)
    assert again == (made, False)


@pytest.mark.parametrize(
    ("weights", "code", "param"),
    [
        ({"v1": 1, "v9": 1}, "rollout_unknown_version", "v9"),
        ({"v2": 1, "candidate": 1}, "rollout_duplicate_arm", "candidate"),
        ({"v1": 0}, "rollout_no_weight", None),
    ],
)
def test_a_bad_weight_is_named_by_its_key(
    p: Prompt, weights: dict[str, int], code: str, param: str | None
) -> None:
    with pytest.raises(Invalid) as caught:
        p.weights(**weights)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("state", ["pending", "progressing", "paused"])
def test_weights_can_not_be_moved_under_a_progression(p: Prompt, state: str) -> None:
    p.put(arms=arms(v1=100, v2=0), steps=STEPS)
    if state != "pending":
        p.advance()
    if state == "paused":
        p.pause()
    assert refused(lambda: p.weights(v1=1, v2=1)) == "rollout_progressing"


def test_weights_after_a_progression_end_it(p: Prompt) -> None:
    p.put(arms=arms(v1=100, v2=0), steps=STEPS)
    p.promote()
    made = p.weights(v1=10, v2=90)
    assert made.spec is not None
    assert (made.state, made.spec.steps) == ("static", ())


# --- the progression


def test_a_document_with_steps_waits_with_all_traffic_on_the_baseline(p: Prompt) -> None:
    made = p.put(steps=STEPS)
    assert (made.state, dict(made.weights), made.step) == ("pending", {"v1": 100, "v2": 0}, None)


def test_a_step_gives_the_candidate_its_weight_and_the_baseline_the_rest(p: Prompt) -> None:
    p.put(steps=STEPS)
    made = p.advance(1, base=7)
    assert (made.state, dict(made.weights)) == ("progressing", {"v1": 50, "v2": 50})
    assert (made.generation, made.epoch, made.step, made.step_base) == (2, 1, 1, 7)
    assert made.step_since is not None
    assert made.reason == "it held"
    assert p.audited()[0] == "rollout.advanced"


def test_a_pause_holds_weights_and_step(p: Prompt) -> None:
    p.put(steps=STEPS)
    before = p.advance()
    made = p.pause()
    assert (made.state, made.weights, made.step) == ("paused", before.weights, before.step)
    assert p.rollouts.pause("p", if_match=made.generation, actor=None) == (made, False)


def test_resuming_begins_the_steps_time_anew(p: Prompt) -> None:
    p.put(steps=STEPS)
    before = p.advance(base=3)
    p.pause()
    made = p.resume()
    assert (made.state, made.step, made.step_base) == ("progressing", 0, 3)
    assert made.step_since is not None
    assert before.step_since is not None
    assert made.step_since > before.step_since
    assert p.rollouts.resume("p", if_match=None, actor=None) == (made, False)


def test_what_was_paused_before_its_first_step_is_pending_again(p: Prompt) -> None:
    p.put(steps=STEPS)
    p.pause()
    assert (p.resume().state, p.resume().step_since) == ("pending", None)


@pytest.mark.parametrize("change", ["pause", "resume", "advance"])
def test_without_steps_there_is_nothing_to_pause(p: Prompt, change: str) -> None:
    p.put()
    assert refused(getattr(p, change)) == "rollout_has_no_steps"


@pytest.mark.parametrize("change", ["pause", "resume", "advance"])
def test_a_progression_that_has_ended_does_not_go_on(p: Prompt, change: str) -> None:
    p.put(steps=STEPS)
    p.promote()
    assert refused(getattr(p, change)) == "rollout_not_progressing"


def test_a_paused_progression_enters_no_step(p: Prompt) -> None:
    p.put(steps=STEPS)
    p.pause()
    assert refused(p.advance) == "rollout_not_progressing"


@pytest.mark.parametrize("step", [-1, 2])
def test_only_steps_that_exist_can_be_entered(p: Prompt, step: int) -> None:
    p.put(steps=STEPS)
    assert refused(lambda: p.advance(step)) == "rollout_not_progressing"


def test_a_rule_that_is_added_meanwhile_does_not_throw_the_progression_back(p: Prompt) -> None:
    p.put(steps=STEPS)
    before = p.advance(base=5)
    made = p.put(steps=STEPS, rules=[REGULATED])
    assert made.spec is not None
    assert len(made.spec.rules) == 1
    kept = (made.state, made.step, made.step_since, made.step_base, made.weights, made.epoch)
    assert kept == (
        "progressing",
        0,
        before.step_since,
        5,
        before.weights,
        before.epoch,
    )


def test_other_steps_begin_from_the_start(p: Prompt) -> None:
    p.put(steps=STEPS)
    p.advance()
    made = p.put(steps=STEPS[:1])
    assert (made.state, made.epoch, dict(made.weights)) == ("pending", 3, {"v1": 100, "v2": 0})


# --- promote


def test_a_promoted_version_has_all_traffic_and_is_production(p: Prompt) -> None:
    p.put()
    made = p.promote("v2")
    assert (made.state, dict(made.weights), p.production) == (
        "promoted",
        {"v1": 0, "v2": 100},
        "v2",
    )
    assert made.epoch == 1


def test_the_one_candidate_needs_no_name(p: Prompt) -> None:
    p.put()
    assert dict(p.promote().weights) == {"v1": 0, "v2": 100}


def test_an_alias_can_be_promoted(p: Prompt) -> None:
    p.put()
    p.promote("candidate")
    assert p.production == "v2"


@pytest.mark.parametrize("again", [None, "v2", "candidate"])
def test_promoting_again_changes_nothing(p: Prompt, again: str | None) -> None:
    p.put()
    made = p.promote("v2")
    assert p.rollouts.promote("p", again, if_match=None, actor=None) == (made, False)


def test_without_one_candidate_the_version_must_be_named(p: Prompt) -> None:
    assert refused(p.promote) == "no_candidate"
    p.put(arms=arms(v1=1, v2=1, v3=1))
    assert refused(p.promote) == "no_candidate"


def test_an_unknown_version_is_not_promoted(p: Prompt) -> None:
    with pytest.raises(Invalid) as caught:
        p.promote("v9")
    assert (caught.value.code, caught.value.param) == ("rollout_unknown_version", "version")


def test_promoting_without_a_rollout_makes_one(p: Prompt) -> None:
    made = p.promote("v2")
    assert (made.generation, dict(made.weights), p.production) == (1, {"v2": 100}, "v2")


def test_what_was_no_arm_can_be_promoted(p: Prompt) -> None:
    p.put(steps=STEPS)
    made = p.promote("v3")
    assert made.spec is not None
    assert (dict(made.weights), made.spec.steps) == ({"v1": 0, "v2": 0, "v3": 100}, ())


def test_a_promotion_keeps_rules_and_says_so(p: Prompt) -> None:
    p.put(rules=[REGULATED])
    made = p.promote("v2")
    assert made.spec is not None
    assert len(made.spec.rules) == 1
    assert "regulated" in made.reason


def test_a_promoted_version_shadows_itself_no_longer(p: Prompt) -> None:
    gates = [{"metric": "shadow_mismatch", "max": 0.1}]
    document = {"steps": STEPS, "shadow": {"version": "v2", "sample": 1}, "gates": gates}
    p.put(**document)
    made = p.promote()
    assert made.spec is not None
    assert (made.spec.shadow, made.spec.gates) == (None, ())
    assert p.put(**document) == made


def test_a_rule_that_is_added_after_the_promotion_begins_nothing(p: Prompt) -> None:
    document = {"steps": STEPS, "shadow": {"version": "v2", "sample": 1}}
    p.put(**document)
    p.promote()
    made = p.put(**document, rules=[REGULATED])
    assert made.spec is not None
    assert (made.state, made.spec.shadow, len(made.spec.rules)) == ("promoted", None, 1)
    assert dict(made.weights) == {"v1": 0, "v2": 100}


def test_another_document_after_the_promotion_keeps_its_shadow(p: Prompt) -> None:
    p.put(steps=STEPS)
    p.promote()
    shadow = {"version": "v2", "sample": 1}
    made = p.put(arms=arms(v2=100, v3=0), steps=STEPS, shadow=shadow)
    assert made.spec is not None
    assert (made.state, made.spec.shadow is not None) == ("pending", True)


def test_a_document_whose_candidate_was_promoted_does_not_begin_again(p: Prompt) -> None:
    p.put(steps=STEPS)
    p.advance()
    made = p.promote()
    assert p.put(steps=STEPS) == made


def test_promoting_the_baseline_ends_the_progression(p: Prompt) -> None:
    p.put(steps=STEPS)
    p.advance()
    made = p.promote("v1")
    assert made.spec is not None
    assert (dict(made.weights), made.spec.steps) == ({"v1": 100, "v2": 0}, ())
    assert p.put(steps=STEPS).state == "pending"


def test_weights_at_their_limit_can_be_promoted_and_rolled_back(p: Prompt) -> None:
    p.weights(v1=MAX_WEIGHT, v2=MAX_WEIGHT)
    assert dict(p.promote("v2").weights) == {"v1": 0, "v2": MAX_WEIGHT}
    p.put(arms=arms(v2=MAX_WEIGHT, v3=MAX_WEIGHT), steps=STEPS)
    p.promote()
    p.weights(v1=1, v2=1)
    assert dict(p.rollback().weights) == {"v3": MAX_WEIGHT}


# --- rollback


def test_a_rollback_returns_to_production_as_it_was_before_the_first_rollout(p: Prompt) -> None:
    p.put()
    p.weights(v1=50, v2=50)
    made = p.rollback()
    assert (made.state, dict(made.weights), p.production) == ("rolled_back", {"v1": 100}, "v1")
    assert (made.generation, made.epoch) == (3, 1)


def test_a_promotion_can_be_rolled_back(p: Prompt) -> None:
    p.put()
    p.promote()
    p.rollback()
    assert p.production == "v1"


def test_a_rollback_skips_states_in_which_arms_were_compared(p: Prompt) -> None:
    p.promote("v2")
    p.put(arms=arms(v2=90, v3=10))
    p.weights(v2=50, v3=50)
    assert dict(p.rollback().weights) == {"v2": 100}


def test_a_rollback_goes_back_to_before_the_promoted_version_had_all_the_weight(
    p: Prompt,
) -> None:
    p.weights(v1=50, v2=50)
    p.weights(v1=0, v2=100)
    p.promote("v2")
    made = p.rollback()
    assert (dict(made.weights), p.production) == ({"v1": 100}, "v1")


def test_a_rule_alone_can_be_rolled_back(p: Prompt) -> None:
    p.promote("v2")
    p.put(arms=arms(v2=100))
    p.put(arms=arms(v2=100), rules=[REGULATED])
    made = p.rollback()
    assert made.spec is not None
    assert (dict(made.weights), made.spec.rules) == ({"v2": 100}, ())


def test_a_rollback_of_a_progression_returns_to_before_its_document(p: Prompt) -> None:
    to_v2 = {"name": "beta", "match": {"tools": True}, "version": "v2"}
    p.put(steps=STEPS, rules=[to_v2], shadow={"version": "v2", "sample": 1})
    p.advance()
    made = p.rollback()
    assert made.spec is not None
    assert made.spec.versions() == {"v1"}
    assert (made.spec.rules, made.spec.steps, made.spec.shadow) == ((), (), None)


def test_a_rollback_restores_the_rules_of_that_time(p: Prompt) -> None:
    p.put(arms=arms(v1=1), rules=[REGULATED])
    p.put(arms=arms(v1=1, v2=1))
    made = p.rollback()
    assert made.spec is not None
    assert [rule.name for rule in made.spec.rules] == ["regulated"]


def test_a_rollback_that_is_sent_twice_goes_back_once(p: Prompt) -> None:
    p.promote("v2")
    p.promote("v3")
    made = p.rollback()
    assert dict(made.weights) == {"v2": 100}
    assert p.rollouts.rollback("p", if_match=None, actor=None) == (made, False)


def test_after_a_rollback_the_next_one_returns_to_what_it_restored(p: Prompt) -> None:
    p.promote("v2")
    p.rollback()
    p.put(arms=arms(v1=50, v3=50))
    assert dict(p.rollback().weights) == {"v1": 100}


def test_a_document_can_be_put_again_after_its_rollback(p: Prompt) -> None:
    p.put(steps=STEPS)
    p.rollback()
    assert p.put(steps=STEPS).state == "pending"


def test_production_that_moved_while_there_was_no_rollout_is_what_is_returned_to(
    p: Prompt,
) -> None:
    p.put()
    p.rollouts.remove("p", if_match=None, actor=None)
    p.catalogue.set_alias("p", "production", "v3")
    p.put(arms=arms(v3=90, v2=10))
    assert (dict(p.rollback().weights), p.production) == ({"v3": 100}, "v3")


def test_weights_that_gave_one_version_everything_are_a_state_to_return_to(p: Prompt) -> None:
    p.weights(v1=0, v2=7)
    p.weights(v2=7, v3=3)
    assert (dict(p.rollback().weights), p.production) == ({"v2": 7}, "v1")


def test_without_a_state_before_there_is_nothing_to_roll_back(p: Prompt) -> None:
    assert refused(p.rollback) == "nothing_to_roll_back"
    p.catalogue.remove_alias("p", "production")
    p.put()
    assert refused(p.rollback) == "nothing_to_roll_back"


def test_a_version_that_was_removed_since_can_not_be_returned_to(p: Prompt) -> None:
    p.weights(v3=1)
    p.put(arms=arms(v1=1, v2=1))
    p.catalogue.remove_version("p", "v3")
    assert refused(p.rollback) == "rollback_target_gone"


def test_a_version_that_was_unloaded_since_can_not_be_returned_to(p: Prompt) -> None:
    p.weights(v3=1)
    p.put(arms=arms(v1=1, v2=1))
    p.catalogue.set_wanted("p", "v3", wanted=False)
    assert refused(p.rollback) == "version_unloaded"


def test_a_rule_whose_version_is_gone_does_not_hold_up_a_rollback(p: Prompt) -> None:
    p.put(arms=arms(v1=1), rules=[REGULATED | {"version": "v3"}])
    p.put(arms=arms(v1=1, v2=1))
    p.catalogue.remove_version("p", "v3")
    made = p.rollback()
    assert made.spec is not None
    assert (made.spec.rules, dict(made.weights)) == ((), {"v1": 1})
    assert "regulated" in made.reason


def test_a_removed_rollout_can_be_rolled_back_to(p: Prompt) -> None:
    p.put(arms=arms(v2=1))
    p.rollouts.remove("p", if_match=None, actor=None)
    assert dict(p.rollback().weights) == {"v2": 1}


# --- history and findings


def test_the_history_tells_every_state_newest_first(p: Prompt) -> None:
    p.put()
    p.promote()
    told = p.rollouts.history("p")
    assert [(h["generation"], h["action"], h["production"], h["settled"]) for h in told] == [
        (2, "promoted", "v2", True),
        (1, "set", "v1", False),
        (0, "none", "v1", True),
    ]
    assert told[1]["spec"]["arms"] == arms(v1=90, v2=10)
    assert [h["generation"] for h in p.rollouts.history("p", limit=1)] == [2]


def test_findings_are_kept_without_a_revision(p: Prompt) -> None:
    p.put()
    before = p.catalogue.revision()
    assert p.rollouts.findings("p") is None
    p.rollouts.note("p", 1, {"requests": 5})
    p.rollouts.note("p", 1, {"requests": 6})
    found = p.rollouts.findings("p")
    assert found is not None
    assert (found[0], found[2]) == (1, {"requests": 6})
    assert found[1] > 0
    assert p.catalogue.revision() == before


def test_the_view_shows_findings_of_the_present_comparison_only(p: Prompt) -> None:
    p.put()
    p.rollouts.note("p", 1, {"requests": 5})
    seen = p.rollouts.view("p").findings
    assert seen is not None
    assert seen[1] == {"requests": 5}
    p.put(arms=arms(v1=1, v3=1))
    view = p.rollouts.view("p")
    assert view.rollout is not None
    assert (view.findings, view.production, view.rollout.epoch) == (None, "v1", 2)


# --- whatever happens

SELECTORS = st.sampled_from(["v1", "v2", "v3", "production", "candidate"])
WEIGHTED = st.dictionaries(SELECTORS, st.integers(0, 3), min_size=1, max_size=3)
DOCUMENTS = st.fixed_dictionaries(
    {"arms": WEIGHTED.map(lambda w: arms(**w))},
    optional={
        "steps": st.just([{"weight": 1}]),
        "rules": SELECTORS.map(lambda v: [REGULATED | {"version": v}]),
        "shadow": SELECTORS.map(lambda v: {"version": v, "sample": 0.5}),
    },
)
CHANGES = st.one_of(
    st.tuples(st.just("put"), DOCUMENTS),
    st.tuples(st.just("weights"), WEIGHTED),
    st.tuples(st.just("promote"), st.one_of(st.none(), SELECTORS)),
    st.tuples(st.just("alias"), st.tuples(st.sampled_from(["production", "candidate"]), SELECTORS)),
    st.tuples(st.sampled_from(["rollback", "pause", "resume", "advance", "remove"]), st.none()),
)


def changed(p: Prompt, name: str, change: tuple[str, Any]) -> None:
    """Make a change, or have it refused."""
    verb, given = change
    rollouts, anyone = p.rollouts, {"if_match": None, "actor": None}
    now = rollouts.get(name)
    try:
        if verb == "put":
            rollouts.put(name, RolloutSpec.model_validate(given), **anyone)
        elif verb == "weights":
            rollouts.put_weights(name, given, **anyone)
        elif verb == "promote":
            rollouts.promote(name, given, **anyone)
        elif verb == "alias":
            p.catalogue.set_alias(name, *given)
        elif verb == "advance":
            generation = 0 if now is None else now.generation
            rollouts.advance(name, if_match=generation, step=0, base=0, reason="", actor="")
        else:
            getattr(rollouts, verb)(name, **anyone)
    except (Conflict, Invalid, NotFound):
        assert rollouts.get(name) == now


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prompt]:
    made = Prompt(f"sqlite:///{tmp_path_factory.mktemp('many')}/catalogue.db")
    yield made
    made.catalogue.close()


@settings(max_examples=60)
@given(st.lists(CHANGES, min_size=1, max_size=8), st.integers(0, 10**9))
def test_whatever_is_done_somebody_answers_and_nothing_is_forgotten(
    many: Prompt, changes: list[tuple[str, Any]], number: int
) -> None:
    name = f"p{number}-{uuid4().hex[:8]}"
    for text in ("one", "two", "three"):
        many.catalogue.add_version(name, None, Content("hard", text=text), {})
    many.catalogue.set_alias(name, "production", "v1")
    many.catalogue.set_alias(name, "candidate", "v2")
    seen: list[Rollout] = []
    for change in changes:
        changed(many, name, change)
        now = many.rollouts.get(name)
        if now is not None and (not seen or now != seen[-1]):
            seen.append(now)
        choose(many.catalogue.snapshot(), name)
        if now is None or now.spec is None:
            continue
        assert sum(now.weights.values()) > 0
        assert now.weights.keys() == {arm.version for arm in now.spec.arms}
        if not now.spec.steps:
            assert dict(now.weights) == {arm.version: arm.weight for arm in now.spec.arms}
        if now.state in {"promoted", "rolled_back"}:
            assert len([weight for weight in now.weights.values() if weight]) == 1
    assert [rollout.generation for rollout in seen] == list(range(1, len(seen) + 1))
    told = many.rollouts.history(name)
    assert [h["generation"] for h in told] == list(range(len(seen), -1 if seen else 0, -1))


# --- what the catalogue guards


@pytest.mark.parametrize(
    "document",
    [
        {"arms": arms(v1=100, v3=0)},
        {"rules": [REGULATED | {"version": "v3"}]},
        {"shadow": {"version": "v3", "sample": 0.1}},
    ],
)
def test_a_version_that_the_rollout_names_stays(p: Prompt, document: dict[str, Any]) -> None:
    p.put(**document)
    remove = lambda: p.catalogue.remove_version("p", "v3")  # noqa: E731
    unload = lambda: p.catalogue.set_wanted("p", "v3", wanted=False)  # noqa: E731
    assert refused(remove) == refused(unload) == "version_in_rollout"
    p.rollouts.remove("p", if_match=None, actor=None)
    unload()
    remove()


def test_production_stays_while_arms_are_compared(p: Prompt) -> None:
    p.put()
    assert refused(lambda: p.catalogue.set_alias("p", "production", "v2")) == "rollout_active"
    assert refused(lambda: p.catalogue.remove_alias("p", "production")) == "rollout_active"
    p.catalogue.set_alias("p", "candidate", "v3")
    p.catalogue.remove_alias("p", "candidate")


def test_production_stays_while_a_progression_waits(p: Prompt) -> None:
    p.put(steps=STEPS)
    assert refused(lambda: p.catalogue.set_alias("p", "production", "v2")) == "rollout_active"


def test_pointing_production_at_what_it_is_disturbs_no_comparison(p: Prompt) -> None:
    made = p.put()
    p.catalogue.set_alias("p", "production", "v1")
    assert p.rollouts.get("p") == made


def test_moving_production_of_a_settled_rollout_promotes(p: Prompt) -> None:
    p.promote("v2")
    version, previous = p.catalogue.set_alias("p", "production", "v3", "bob")
    now = p.rollouts.get("p")
    assert now is not None
    assert (version.version, previous, p.production) == ("v3", "v2", "v3")
    assert (now.generation, now.state, dict(now.weights)) == (2, "promoted", {"v2": 0, "v3": 100})
    assert p.audited()[0] == "rollout.promoted"
    p.rollback()
    assert p.production == "v2"


def test_moving_production_to_the_version_that_has_everything_leaves_the_rollout(
    p: Prompt,
) -> None:
    made = p.weights(v1=0, v2=100)
    p.catalogue.set_alias("p", "production", "v2")
    assert (p.rollouts.get("p"), p.production) == (made, "v2")
    p.put(arms=arms(v2=1, v3=1))
    p.rollback()
    assert p.production == "v2"


def test_without_a_rollout_production_moves_as_ever(p: Prompt) -> None:
    p.put()
    p.rollouts.remove("p", if_match=None, actor=None)
    p.catalogue.set_alias("p", "production", "v2")
    now = p.rollouts.get("p")
    assert now is not None
    assert (now.generation, p.production) == (2, "v2")
