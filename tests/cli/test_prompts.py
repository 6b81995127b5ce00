from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def test_list_without_prompts_says_how_to_add_one(cli: Cli) -> None:
    assert "softprompt-serve import" in cli("list").stdout


def test_list_has_a_line_per_version_with_its_aliases(cli: Cli) -> None:
    cli("import", cli.tensor(fill=0.1), "-p", "support", "--alias", "production")
    cli("import", cli.tensor(fill=0.2), "-p", "support")
    lines = cli("list").stdout.splitlines()
    assert ["v1" in lines[1], "production" in lines[1], "v2" in lines[2]] == [True, True, True]


def test_show_of_a_prompt_lists_aliases_and_versions(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support", "--alias", "production")
    shown = cli("show", "support").stdout
    assert "production → v1" in shown


def test_show_of_a_version_shows_missing_record_fields_as_missing(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support")
    lines = cli("show", "support@v1").stdout.splitlines()
    assert next(line for line in lines if line.startswith("dataset_version")).split() == [
        "dataset_version",
        "missing",
    ]


def test_show_takes_an_alias_for_a_version(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support", "--alias", "production")
    assert cli.json("show", "support@production")["version"] == "v1"


def test_show_prints_a_text_as_it_is_though_it_looks_like_markup(cli: Cli) -> None:
    text = "Say [bold]hi[/bold] and [/] :smile:"
    cli("import", "-p", "support", "--text", text)
    assert text in cli("show", "support@v1").stdout


@pytest.mark.parametrize("name", ["../server", "UPPER", "", "support@../../x", "support@"])
def test_a_name_that_is_none_is_refused_before_any_call(cli: Cli, name: str) -> None:
    assert "invalid_name" in cli("show", name, fails=1).stderr


def test_an_unknown_prompt_is_an_error_with_the_servers_code(cli: Cli) -> None:
    assert "prompt_not_found" in cli("show", "nobody", fails=1).stderr


def test_alias_says_where_it_pointed_before(cli: Cli) -> None:
    cli("import", cli.tensor(fill=0.1), "-p", "support", "--alias", "production")
    cli("import", cli.tensor(fill=0.2), "-p", "support")
    assert "→ v2 (before: v1)" in cli("alias", "support", "production", "v2").stdout


def test_unalias_forgets_an_alias(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support", "--alias", "candidate")
    cli("unalias", "support", "candidate")
    assert cli.json("show", "support")["aliases"] == {}


def test_unload_and_load_change_what_the_workers_hold(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support")
    cli("unload", "support@v1")
    assert not cli.workers.slots.resident()
    assert "support@v1 is resident" in cli("load", "support@v1").stdout
    assert len(cli.workers.slots.resident()) == 1


def test_unload_of_production_is_refused(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support", "--alias", "production")
    assert "version_aliased" in cli("unload", "support@v1", fails=1).stderr


def test_remove_needs_yes_where_nobody_can_be_asked(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support")
    assert "--yes" in cli("remove", "support@v1", stdin="y\n", fails=1).stderr
    assert cli.json("show", "support@v1")["version"] == "v1"


def test_remove_with_yes_removes_the_version(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support")
    cli("remove", "support@v1", "--yes")
    assert cli.json("list")["data"] == []


@pytest.mark.parametrize(("reply", "left"), [("y\n", 0), ("n\n", 1)])
def test_remove_asks_a_person(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, reply: str, left: int
) -> None:
    cli("import", cli.tensor(), "-p", "support")
    monkeypatch.setattr("softprompt_serve.cli.prompts.can_ask", lambda: True)
    asked = cli("remove", "support@v1", stdin=reply, fails=left)
    assert "Remove support@v1 for good?" in asked.stderr
    assert len(cli.json("list")["data"]) == left


def test_remove_of_a_version_in_use_says_that_it_drains(cli: Cli) -> None:
    digest = cli.json("import", cli.tensor(), "-p", "support")["digest"]
    cli.workers.slots.hold(digest, "a running request")
    assert "freed when the requests in flight end" in cli("remove", "support@v1", "--yes").stdout
    cli.workers.slots.release("a running request")


@pytest.mark.parametrize("command", ["load", "unload", "remove"])
def test_a_command_on_a_version_needs_its_name(cli: Cli, command: str) -> None:
    assert "PROMPT@VERSION" in cli(command, "support", fails=1).stderr


def test_residency_shows_each_workers_bank(cli: Cli) -> None:
    digest = cli.json("import", cli.tensor(rows=3), "-p", "support")["digest"]
    shown = cli("residency").stdout
    assert "3 of 1024" in shown
    assert digest[:12] in shown


def test_audit_names_the_local_user_as_actor(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support")
    assert cli.json("audit", "--limit", "1")["data"][0]["actor"] == getpass.getuser()


def test_audit_can_be_narrowed_to_a_prompt_and_a_number(cli: Cli) -> None:
    cli("import", cli.tensor(fill=0.1), "-p", "one")
    cli("import", cli.tensor(fill=0.2), "-p", "two")
    cli("import", cli.tensor(fill=0.3), "-p", "one")
    assert [entry["prompt"] for entry in cli.json("audit", "--prompt", "one")["data"]] == [
        "one",
        "one",
    ]
    assert len(cli.json("audit", "--limit", "1")["data"]) == 1


def test_show_says_who_approved_a_version(cli: Cli) -> None:
    cli("import", "-p", "support", "--text", "Be brief.", "--alias", "candidate")
    cli("alias", "support", "production", "v1")
    shown = cli("show", "support@v1").stdout
    assert "approved" in shown
    assert "as production, 20" in shown
    assert "as candidate, 20" in shown
