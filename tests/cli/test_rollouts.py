"""`rollout …` against the real admin API."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from softprompt_serve.registry.replicas import Serving
from softprompt_serve.testing import ADMIN_TOKEN, service_for_tests, settings_for_tests

if TYPE_CHECKING:
    from pathlib import Path

    from softprompt_serve.server.service import Service
    from tests.cli.conftest import Cli

ALL = ("v1", "v2", "v3")
STEPS = {
    "arms": [{"version": "v1", "weight": 99}, {"version": "v2", "weight": 1}],
    "steps": [{"weight": 10, "min_requests": 5, "min_duration_seconds": 0.0}],
}
RULES = {
    "arms": [{"version": "v1", "weight": 1}],
    "rules": [
        {"name": "lawyers", "match": {"cohort": ["regulated"]}, "version": "v2"},
        {"name": "plans", "match": {"route": ["planner"], "tools": True}, "version": "v3"},
        {"name": "gold", "match": {"headers": {"x-tier": ["gold"]}}, "version": "v2"},
        {"name": "long", "match": {"visible_tokens": {"min": 500}}, "version": "v3"},
    ],
}


@pytest.fixture
def service(tmp_path: Path, clean_environment: None) -> Service:
    labels: dict[str, Any] = {"cohorts": ["regulated"], "routes": ["planner"]}
    settings = settings_for_tests(tmp_path / "server", rule_headers=["x-tier"], **labels)
    return service_for_tests(tmp_path / "server", settings=settings)


@pytest.fixture
def support(cli: Cli) -> Cli:
    """`support` with three versions, the first in production."""
    prompt = f"{cli.url}/softprompts/v1/prompts/support"
    with httpx.Client(headers={"authorization": f"Bearer {ADMIN_TOKEN}"}) as admin:
        for text in ("Be brief.", "Be kind.", "Be both."):
            admin.post(f"{prompt}/versions", data={"text": text}).raise_for_status()
        admin.put(f"{prompt}/aliases/production", json={"version": "v1"}).raise_for_status()
    return cli


def document(cli: Cli, content: dict[str, Any]) -> str:
    file = cli.folder / "rollout.json"
    file.write_text(json.dumps(content))
    return str(file)


def state(cli: Cli) -> dict[str, Any]:
    found: dict[str, Any] = cli.json("rollout", "show", "support")
    return found


def weights(cli: Cli) -> dict[str, int]:
    found: dict[str, int] = state(cli)["weights"]
    return found


def test_show_of_a_prompt_without_a_rollout_says_so(support: Cli) -> None:
    shown = support("rollout", "show", "support").stdout
    assert "support has no rollout" in shown


def test_show_as_json_is_exactly_what_the_api_answers(support: Cli) -> None:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    url = f"{support.url}/softprompts/v1/prompts/support/rollout"
    answer = httpx.get(url, headers=headers).json()
    shown = state(support)
    assert shown.keys() == answer.keys()
    seen = {"observed": [], "applied": None}  # a replica's beat may lie between the two
    assert shown | seen == answer | seen


def test_show_of_an_unknown_prompt_is_an_error(cli: Cli) -> None:
    assert "prompt_not_found" in cli("rollout", "show", "nobody", fails=1).stderr


@pytest.mark.parametrize("command", [["show"], ["history"], ["explain"], ["pause"], ["remove"]])
def test_a_name_that_is_none_is_refused_before_any_call(cli: Cli, command: list[str]) -> None:
    assert "invalid_name" in cli("rollout", *command, "../server", fails=1).stderr


def test_set_takes_a_document_from_a_file(support: Cli) -> None:
    shown = support("rollout", "set", "support", document(support, RULES)).stdout
    assert "lawyers" in shown
    assert state(support)["generation"] == 1


def test_set_takes_a_document_from_standard_input(support: Cli) -> None:
    support("rollout", "set", "support", "-", stdin=json.dumps(RULES))
    assert state(support)["generation"] == 1


def test_a_document_as_shown_can_be_set_again_and_changes_nothing(support: Cli) -> None:
    support("rollout", "set", "support", document(support, RULES))
    spec = support("rollout", "show", "support", "--spec").stdout
    support("rollout", "set", "support", "-", stdin=spec)
    assert state(support)["generation"] == 1


def test_the_document_of_no_rollout_is_null(support: Cli) -> None:
    assert json.loads(support("rollout", "show", "support", "--spec").stdout) is None


def test_set_of_a_document_that_means_nothing_names_the_field(support: Cli) -> None:
    unknown = document(support, {"arms": [{"version": "v9", "weight": 1}]})
    failed = support("rollout", "set", "support", unknown, fails=1)
    assert "arms.0.version" in failed.stderr
    assert "rollout_unknown_version" in failed.stderr


def test_set_of_what_is_no_document_never_reaches_the_server(support: Cli) -> None:
    failed = support("rollout", "set", "support", "-", stdin="{", fails=1)
    assert "invalid_document" in failed.stderr


def test_weights_make_a_rollout_and_name_the_local_user(support: Cli) -> None:
    shown = support("rollout", "weights", "support", "v1=99", "v2=1").stdout
    assert "v2   1       1 %" in shown
    assert state(support)["updated_by"] == getpass.getuser()


def test_weights_take_aliases(support: Cli) -> None:
    support("alias", "support", "canary", "v2")
    support("rollout", "weights", "support", "production=3", "canary=1")
    assert weights(support) == {"v1": 3, "v2": 1}


def test_weights_without_a_pair_are_refused(support: Cli) -> None:
    assert "v2=90" in support("rollout", "weights", "support", "v2", fails=1).stderr


CHANGES = [
    ["weights", "support", "v1=2", "v2=1"],
    ["promote", "support", "v2"],
    ["rollback", "support"],
    ["remove", "support"],
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
def test_a_change_of_another_generation_than_the_present_is_refused(
    support: Cli, change: list[str]
) -> None:
    support("rollout", "weights", "support", "v1=1", "v2=1", "--if-match", "0")
    assert "stale_generation" in support("rollout", *change, "--if-match", "0", fails=1).stderr
    assert weights(support) == {"v1": 1, "v2": 1}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
def test_a_change_of_the_present_generation_is_made(support: Cli, change: list[str]) -> None:
    support("rollout", "weights", "support", "v1=1", "v2=1")
    support("rollout", *change, "--if-match", "1")
    assert state(support)["generation"] == 2


def test_promote_moves_all_traffic_and_production(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=99", "v2=1")
    assert "support promoted" in support("rollout", "promote", "support", "v2").stdout
    assert weights(support)["v1"] == 0
    assert support.json("show", "support")["aliases"] == {"production": "v2"}


def test_promote_without_a_version_takes_the_one_candidate(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=99", "v2=1")
    support("rollout", "promote", "support", "--reason", "It is better.")
    assert state(support)["production"] == "v2"
    assert "It is better." in state(support)["reason"]


def test_rollback_returns_to_what_was_before(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=99", "v2=1")
    shown = support("rollout", "rollback", "support", "--reason", "It is slow.").stdout
    assert "support rolled back: " in shown
    assert "It is slow." in shown
    assert {name for name, weight in weights(support).items() if weight} == {"v1"}


def test_rollback_twice_goes_back_once(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=99", "v2=1")
    support("rollout", "rollback", "support")
    support("rollout", "rollback", "support")
    assert state(support)["generation"] == 2


def test_a_rollout_with_steps_can_be_paused_and_resumed(support: Cli) -> None:
    support("rollout", "set", "support", document(support, STEPS))
    assert "support paused" in support("rollout", "pause", "support").stdout
    assert state(support)["state"] == "paused"
    support("rollout", "resume", "support")
    assert state(support)["state"] != "paused"


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_without_steps_there_is_nothing_to_pause(support: Cli, verb: str) -> None:
    support("rollout", "weights", "support", "v1=99", "v2=1")
    failed = support("rollout", verb, "support", "--reason", "Lunch.", fails=1)
    assert "rollout_has_no_steps" in failed.stderr


def test_remove_leaves_production_alone(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=1", "v2=1")
    assert "support has no rollout" in support("rollout", "remove", "support").stdout
    assert weights(support) == {"v1": 100}


def test_history_lists_what_was_done(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=99", "v2=1")
    support("rollout", "promote", "support", "v2")
    lines = support("rollout", "history", "support").stdout.splitlines()
    assert "promoted" in lines[1]
    assert "v1=99 v2=1" in lines[2]


def explained(cli: Cli, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = cli.json("rollout", "explain", "support", *options)
    return found


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--cohort", "regulated"], "lawyers"),
        (["--route", "planner", "--tools"], "plans"),
        (["--route", "planner"], None),
        (["--header", "X-Tier=gold"], "gold"),
        (["--visible-tokens", "500"], "long"),
        (["--visible-tokens", "499"], None),
        ([], None),
    ],
)
def test_explain_says_which_rule_decides(
    support: Cli, options: list[str], rule: str | None
) -> None:
    support("rollout", "set", "support", document(support, RULES))
    assert explained(support, *options)["rule"] == rule


def test_explain_keeps_a_sticky_key_on_its_arm(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=1", "v2=1")
    users = [f"user-{number}" for number in range(8)]
    first = [explained(support, "--sticky-key", user)["version"] for user in users]
    assert first == [explained(support, "--sticky-key", user)["version"] for user in users]
    assert set(first) == {"v1", "v2"}


def test_explain_of_a_pinned_version(support: Cli) -> None:
    support("rollout", "weights", "support", "v1=1", "v2=1")
    shown = support("rollout", "explain", "support", "--version", "v3").stdout
    assert "answered by  v3" in shown
    assert "because of   pinned" in shown


def test_explain_of_what_would_be_refused(support: Cli) -> None:
    shown = support("rollout", "explain", "support", "--version", "v9").stdout
    assert "refused     404 version_not_found" in shown
    assert "refused: there is no version or alias `v9`" in shown


def test_explain_numbers_how_it_came_about(support: Cli) -> None:
    support("rollout", "set", "support", document(support, RULES))
    shown = support("rollout", "explain", "support", "--cohort", "regulated").stdout
    assert "because of   rule lawyers" in shown
    assert "\n1. " in shown


def test_explain_of_a_pair_that_is_none_is_refused(support: Cli) -> None:
    failed = support("rollout", "explain", "support", "--header", "x-tier", fails=1)
    assert "invalid_header" in failed.stderr


def test_wait_returns_when_another_replica_serves_it_too(support: Cli, service: Service) -> None:
    service.replicas.beat("another-1", "another", 1, {"support": Serving(1, ALL)})
    shown = support("rollout", "weights", "support", "v1=1", "v2=1", "--wait", "30").stdout
    assert "applied     yes" in shown


def test_wait_names_the_replica_that_is_behind(support: Cli, service: Service) -> None:
    service.replicas.beat("another-1", "another", 1, {"support": Serving(0, ALL)})
    change = ["rollout", "weights", "support", "v1=1", "v2=1", "--wait", "0.1"]
    assert "another serves generation 0 of 1" in support(*change, fails=1).stderr


def test_wait_names_the_version_that_a_replica_lacks(support: Cli, service: Service) -> None:
    service.replicas.beat("another-1", "another", 1, {"support": Serving(1, ("v1",))})
    change = ["rollout", "weights", "support", "v1=1", "v2=1", "--wait", "0.1"]
    assert "another does not hold v2 yet" in support(*change, fails=1).stderr


def test_watch_of_a_prompt_without_a_rollout_is_done_at_once(support: Cli) -> None:
    shown = support("rollout", "watch", "support", "--until-done").stdout
    assert "has no rollout" in shown
