"""`token …` against the real admin API."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def test_a_new_token_is_all_that_goes_to_standard_output(cli: Cli) -> None:
    made = cli("token", "create", "ci", "-s", "publisher", "-p", "support*", "--days", "30")
    assert made.stdout.startswith("spt_")
    assert len(made.stdout.split()) == 1
    assert "ci: publisher; support*, until 2" in " ".join(made.stderr.split())
    token = made.stdout.strip()
    cli("import", "--prompt", "support", "--text", "Be brief.", "--token", token)
    refused = cli("alias", "support", "production", "v1", "--token", token, fails=1)
    assert "takes the scope operator" in refused.stderr
    refused = cli("show", "legal", "--token", token, fails=1)
    assert "code: token_prompts" in refused.stderr
    (entry,) = cli.json("audit", "--prompt", "support")["data"]
    assert entry["actor"] == f"ci/{getpass.getuser()}"


def test_a_list_says_what_there_is_and_no_token(cli: Cli) -> None:
    token = cli.json("token", "create", "ci", "--scope", "reader", "--scope", "feedback")["token"]
    shown = cli("token", "list").stdout
    assert "ci" in shown
    assert "reader, feedback" in shown
    assert token not in shown


def test_a_rotated_token_is_another_one(cli: Cli) -> None:
    before = cli("token", "create", "ci", "-s", "reader").stdout.strip()
    after = cli("token", "rotate", "ci", "--grace", "60").stdout.strip()
    assert before != after
    for token in (before, after):
        cli("list", "--token", token)


def test_a_revoked_token_opens_nothing(cli: Cli) -> None:
    token = cli("token", "create", "ci", "-s", "reader").stdout.strip()
    assert "is not accepted any more" in cli("token", "revoke", "ci").stdout
    assert "code: invalid_admin_token" in cli("list", "--token", token, fails=1).stderr
    assert "revoked 2" in cli("token", "list").stdout


def test_a_token_needs_a_scope(cli: Cli) -> None:
    assert "--scope" in cli("token", "create", "ci", fails=2).stderr
