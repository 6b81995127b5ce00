"""`policy …` against the real admin API."""

from __future__ import annotations

import getpass
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from runs import EVALUATOR, scored

from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.release.policy import parse_policy
from softprompt_serve.testing import ADMIN_TOKEN

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

WIN = {"evaluator": EVALUATOR, "dataset": "tickets", "margin": 0.05}
POLICY: dict[str, Any] = {
    "baseline": "v1",
    "win": [WIN],
    "cohorts": {"protected": []},
    "same_base": False,
}
YAML = """
baseline: v1
win: [{evaluator: exact_match, dataset: tickets, margin: 0.05}]
cohorts: {protected: []}
same_base: false
"""


@pytest.fixture
def support(cli: Cli) -> Cli:
    """`support` with v1, a text, and v2, a tensor."""
    cli("import", "--prompt", "support", "--text", "Be brief.")
    cli("import", cli.tensor(), "--prompt", "support")
    return cli


def written(cli: Cli, text: str = YAML, name: str = "policy.yaml") -> str:
    file = cli.folder / name
    file.write_text(text)
    return str(file)


def evaluate(cli: Cli, right: int) -> None:
    """v1 passes 40 of 80 items, v2 ``right`` of them."""
    versions = cli.json("show", "support")["versions"]
    passed = {
        "v1": [number % 2 == 0 for number in range(80)],
        "v2": [number < right for number in range(80)],
    }
    digests = {version["version"]: version["digest"] for version in versions}
    run = scored(digests, passed, cohorts=("default",), at=time.time())
    url = f"{cli.url}/softprompts/v1/prompts/support/runs"
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    httpx.post(url, content=to_document(run), headers=headers).raise_for_status()


def test_setting_shows_what_changes_and_what_is_set(support: Cli) -> None:
    shown = support("policy", "set", "support", written(support)).stdout
    assert "exact_match on tickets (confidence 0.95, margin 0.05)" in shown
    assert getpass.getuser() in shown
    changed = written(support, YAML.replace("0.05", "0.1").replace("false", "true"))
    lines = support("policy", "set", "support", changed).stdout.splitlines()
    table = lines[: next(at for at, line in enumerate(lines) if line.startswith("policy"))]
    assert [line.split()[0] for line in table] == ["field", "win", "same_base"]
    assert "margin 0.05" in table[1]
    assert "margin 0.1" in table[1]


def test_setting_the_same_again_says_so(support: Cli) -> None:
    support("policy", "set", "support", written(support))
    revision = support.json("list")["revision"]
    assert "asked already" in support("policy", "set", "support", written(support)).stdout
    assert support.json("list")["revision"] == revision


def test_json_and_standard_input_do_as_well(support: Cli) -> None:
    support("policy", "set", "support", "-", stdin=json.dumps(POLICY))
    assert parse_policy(support.json("policy", "show", "support")["policy"]) == parse_policy(POLICY)


def test_a_policy_that_is_wrong_is_refused_before_anything_is_sent(support: Cli) -> None:
    wrong = written(support, YAML + "colour: red\n")
    shown = support("policy", "set", "support", wrong, fails=1).stderr
    assert "colour" in shown
    assert "code: invalid_policy" in shown
    assert support.json("policy", "show", "support")["default"] is True


def test_a_file_that_holds_no_policy_is_refused(support: Cli) -> None:
    shown = support("policy", "set", "support", written(support, "- v1"), fails=1).stderr
    assert "expected a policy" in shown


def test_a_baseline_that_is_no_text_is_refused_by_the_server(support: Cli) -> None:
    wrong = written(support, YAML.replace("baseline: v1", "baseline: v2"))
    assert "hard version" in support("policy", "set", "support", wrong, fails=1).stderr


def test_what_is_shown_as_a_document_can_be_set_again(support: Cli) -> None:
    support("policy", "set", "support", written(support))
    document = support("policy", "show", "support", "--document").stdout
    again = written(support, document, "policy.json")
    assert "asked already" in support("policy", "set", "support", again).stdout


def test_show_says_whose_policy_it_is(support: Cli) -> None:
    shown = support("policy", "show", "support").stdout
    assert "by default, as nobody has set one" in shown
    assert "anything, and lose nothing" in shown
    support("policy", "set", "support", written(support))
    shown = support("policy", "show", "support").stdout
    assert f"by {getpass.getuser()}" in shown
    assert "by default" not in shown


def test_a_prompt_of_texts_alone_has_no_policy(cli: Cli) -> None:
    cli("import", "--prompt", "support", "--text", "Be brief.")
    assert "has no policy" in cli("policy", "show", "support").stdout
    assert "nothing is asked" in cli("policy", "check", "support", "v1").stdout


def test_a_removed_policy_gives_way_to_the_default(support: Cli) -> None:
    support("policy", "set", "support", written(support))
    assert "by default" in support("policy", "remove", "support").stdout
    (entry, *_) = support.json("audit")["data"]
    assert (entry["action"], entry["actor"]) == ("policy.remove", getpass.getuser())


def test_check_of_a_version_without_evidence_fails_with_what_to_do(support: Cli) -> None:
    support("policy", "set", "support", written(support))
    shown = support("policy", "check", "support", "v2", fails=1).stdout
    assert "win exact_match on tickets" in shown
    assert "FAIL" in shown
    assert "softprompt-serve eval run --prompt support" in shown
    assert "it can't be promoted" in shown


def test_check_of_a_version_that_wins_passes_with_its_numbers(support: Cli) -> None:
    support("policy", "set", "support", written(support))
    evaluate(support, right=70)
    shown = support("policy", "check", "support", "v2").stdout
    assert "support@v2 against v1: passes every gate" in shown
    assert "items 80" in shown
    assert "FAIL" not in shown


def test_check_as_json_is_what_the_api_answers_and_still_fails(support: Cli) -> None:
    support("policy", "set", "support", written(support))
    evaluate(support, right=20)
    answer = json.loads(support("policy", "check", "support", "v2", "--json", fails=1).stdout)
    assert (answer["promotable"], answer["candidate"]["version"]) == (False, "v2")


def test_check_of_a_text_says_that_nothing_is_asked(support: Cli) -> None:
    assert "can be promoted" in support("policy", "check", "support", "v1").stdout


def test_check_of_what_is_not_there_is_an_error(support: Cli) -> None:
    shown = support("policy", "check", "support", "v9", fails=1).stderr
    assert "code: version_not_found" in shown
