from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from softprompt_serve import __version__
from softprompt_serve.cli import app
from softprompt_serve.testing import ADMIN_TOKEN, serving

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["list"], "prompts"),
        (["show", "support"], "prompts/support"),
        (["show", "support@v1"], "prompts/support/versions/v1"),
        (["residency"], "residency"),
        (["audit"], "audit?limit=100"),
    ],
)
def test_json_is_exactly_what_the_api_answers(cli: Cli, arguments: list[str], path: str) -> None:
    cli("import", cli.tensor(), "-p", "support")
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    answer = httpx.get(f"{cli.url}/softprompts/v1/{path}", headers=headers)
    assert cli(*arguments, "--json").stdout == answer.text + "\n"


def test_an_error_as_json_is_the_servers_body_on_stdout(cli: Cli) -> None:
    failed = cli("show", "nobody", "--json", fails=1)
    assert json.loads(failed.stdout)["error"]["code"] == "prompt_not_found"
    assert not failed.stderr


def test_an_error_of_ours_as_json_has_the_same_shape(cli: Cli) -> None:
    failed = cli("show", "UPPER", "--json", fails=1)
    assert json.loads(failed.stdout)["error"]["code"] == "invalid_name"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_without_a_server_the_exit_status_is_2_and_the_url_is_named(
    clean_environment: None, options: list[str]
) -> None:
    result = CliRunner().invoke(app, ["list", "--url", "http://127.0.0.1:9", *options])
    assert result.exit_code == 2
    assert "http://127.0.0.1:9" in result.output
    assert "softprompt-serve serve" in result.output


def test_an_address_that_is_none_is_an_error(clean_environment: None) -> None:
    result = CliRunner().invoke(app, ["list", "--url", "nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.stderr


def test_a_server_without_the_admin_api_is_told_from_a_missing_prompt(
    clean_environment: None,
) -> None:
    with serving(FastAPI()) as url:
        result = CliRunner().invoke(app, ["list", "--url", url])
    assert result.exit_code == 1
    assert "VLLM_PLUGINS=softprompt_serve" in result.stderr


def test_a_wrong_token_says_where_it_came_from(cli: Cli) -> None:
    assert "given with --token" in cli("list", "--token", "another", fails=1).stderr


def test_a_missing_token_says_where_it_was_looked_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOFTPROMPT_ADMIN_TOKEN")
    failed = cli("list", fails=1)
    assert "missing_admin_token" in failed.stderr
    assert str(cli.folder / "client" / "admin-token") in failed.stderr


def test_the_token_file_in_home_is_found(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTPROMPT_ADMIN_TOKEN")
    (cli.folder / "client").mkdir()
    (cli.folder / "client" / "admin-token").write_text(ADMIN_TOKEN + "\n")
    cli("list")


def test_an_unknown_setting_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_COLOUR", "blue")
    assert "SOFTPROMPT_COLOUR" in cli("list", fails=1).stderr


def test_version_is_the_packages() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout == f"softprompt-serve {__version__}\n"
