"""The command line against the real admin API over HTTP; only the engine's workers are fake."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from softprompt_serve import __version__
from softprompt_serve.cli import app
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    HIDDEN_SIZE,
    FakeWorkers,
    app_for_tests,
    service_for_tests,
    serving,
)
from softprompt_serve.vllm_plugin import launch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from softprompt_serve.server.service import Service


@dataclass
class Cli:
    """The command line, pointed at a server of tests."""

    url: str
    workers: FakeWorkers
    folder: Path

    def __call__(self, *arguments: str, fails: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, arguments, input=stdin)
        assert result.exit_code == fails, result.output
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def tensor(self, rows: int = 3, fill: float = 0.5) -> str:
        path = self.folder / f"{rows}-{fill}.safetensors"
        save_file({"rows": torch.full((rows, HIDDEN_SIZE), fill)}, path)
        return str(path)

    def adapter(self, rows: int = 4) -> Path:
        folder = self.folder / "adapter"
        folder.mkdir()
        tensors = {"prompt_embeddings": torch.zeros(rows, HIDDEN_SIZE)}
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": rows}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SOFTPROMPT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "client"))


@pytest.fixture
def service(tmp_path: Path, clean_environment: None) -> Service:
    return service_for_tests(tmp_path / "server")


@pytest.fixture
def cli(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    workers = service.residency.workers
    assert isinstance(workers, FakeWorkers)
    with serving(app_for_tests(service)) as url:
        monkeypatch.setenv("SOFTPROMPT_URL", url)
        monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", ADMIN_TOKEN)
        yield Cli(url, workers, tmp_path)


# --- import


def test_import_of_a_tensor_shows_its_tokens_digest_and_state(cli: Cli) -> None:
    shown = cli("import", cli.tensor(rows=3), "--prompt", "support").stdout
    digest = cli.json("show", "support@v1")["digest"]
    assert "support@v1 imported" in shown
    assert digest in shown
    assert "resident" in shown
    assert cli.json("show", "support@v1")["virtual_tokens"] == 3


def test_import_of_the_same_content_says_that_it_was_there(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support")
    assert "support@v1 was already there" in cli("import", cli.tensor(), "-p", "support").stdout


def test_import_of_other_content_under_the_same_name_is_an_error_with_its_code(cli: Cli) -> None:
    cli("import", cli.tensor(fill=0.1), "-p", "support", "--version", "a")
    failed = cli("import", cli.tensor(fill=0.2), "-p", "support", "--version", "a", fails=1)
    assert "immutable" in failed.stderr
    assert "version_exists" in failed.stderr
    assert not failed.stdout


def test_import_of_a_peft_folder_uploads_the_adapters_files_alone(cli: Cli) -> None:
    folder = cli.adapter(rows=4)
    (folder / "optimizer.pt").write_bytes(b"\x80pickle")
    assert cli.json("import", str(folder), "-p", "support")["virtual_tokens"] == 4


def test_import_of_a_folder_without_an_adapter_names_what_is_missing(cli: Cli) -> None:
    failed = cli("import", str(cli.folder), "-p", "support", fails=1)
    assert "adapter_config.json" in failed.stderr


def test_import_of_a_missing_file_is_an_error_before_any_call(cli: Cli) -> None:
    assert "can't be read" in cli("import", "nowhere.safetensors", "-p", "a", fails=1).stderr


def test_import_of_a_text_file_is_a_hard_version(cli: Cli) -> None:
    path = cli.folder / "text.txt"
    path.write_text("Answer in one word: ünïcode.\n")
    answer = cli.json("import", str(path), "-p", "support")
    assert (answer["kind"], answer["text"]) == ("hard", "Answer in one word: ünïcode.")


def test_import_of_a_tensor_with_a_text_is_a_soft_version_that_has_both(cli: Cli) -> None:
    answer = cli.json("import", cli.tensor(), "-p", "support", "--text", "And be brief.")
    assert (answer["kind"], answer["text"]) == ("soft", "And be brief.")


def test_import_of_the_base_needs_no_file(cli: Cli) -> None:
    assert cli.json("import", "-p", "support", "--kind", "base")["kind"] == "base"


def test_import_of_nothing_says_what_could_be_given(cli: Cli) -> None:
    assert ".safetensors" in cli("import", "-p", "support", fails=1).stderr


def test_import_takes_text_or_text_file_but_not_both(cli: Cli) -> None:
    failed = cli("import", "-p", "a", "--text", "x", "--text-file", "y", fails=1)
    assert "not both" in failed.stderr


def test_import_with_an_alias_points_it_at_the_new_version(cli: Cli) -> None:
    answer = cli.json("import", cli.tensor(), "-p", "support", "--alias", "production")
    assert answer["aliases"] == ["production"]


def test_import_stores_the_release_record(cli: Cli) -> None:
    record = cli.folder / "record.json"
    record.write_text(json.dumps({"dataset": "tickets", "seed": 7}))
    answer = cli.json("import", cli.tensor(), "-p", "support", "--record", str(record))
    assert (answer["record"]["dataset"], answer["record"]["seed"]) == ("tickets", 7)


def test_import_with_a_bad_record_names_the_field(cli: Cli) -> None:
    record = cli.folder / "record.json"
    record.write_text(json.dumps({"colour": "blue"}))
    failed = cli("import", cli.tensor(), "-p", "support", "--record", str(record), fails=1)
    assert "colour" in failed.stderr
    assert "invalid_record" in failed.stderr


def test_a_tensor_of_several_megabytes_is_uploaded_whole(cli: Cli) -> None:
    path = cli.tensor(rows=200_000)
    failed = cli("import", path, "-p", "support", fails=1)
    assert "artifact_too_many_rows" in failed.stderr  # so it was read to its end


# --- list, show


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


# --- alias, load, remove


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


def test_remove_of_a_version_in_use_is_an_error_that_says_so(cli: Cli) -> None:
    digest = cli.json("import", cli.tensor(), "-p", "support")["digest"]
    cli.workers.slots.hold(digest, "a running request")
    assert "version_in_use" in cli("remove", "support@v1", "--yes", fails=1).stderr


@pytest.mark.parametrize("command", ["load", "unload", "remove"])
def test_a_command_on_a_version_needs_its_name(cli: Cli, command: str) -> None:
    assert "PROMPT@VERSION" in cli(command, "support", fails=1).stderr


# --- residency, audit


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


# --- JSON, errors, options


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
    import httpx  # noqa: PLC0415

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
    from fastapi import FastAPI  # noqa: PLC0415

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


# --- serve


def served(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    got: list[str] = []
    monkeypatch.setattr(launch, "serve", got.extend)
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 0, result.output
    return got


@pytest.mark.parametrize(
    "arguments",
    [
        ["model", "--dtype", "float32", "-tp", "2", "--json", "--url=x", "--", "-y"],
        ["model", "--help=all", "-hx", "--version", "--no-enable-prefix-caching"],
        ["--model", "m", '--compilation-config={"mode": 0}', ""],
        [],
    ],
)
def test_serve_passes_every_argument_on_untouched(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    assert served(monkeypatch, *arguments) == arguments


def test_the_help_of_serve_names_the_flags_that_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "serve", pytest.fail)
    shown = CliRunner().invoke(app, ["serve", "model", "--help"]).stdout
    assert "vllm serve" in shown
    for added in launch.serve_arguments([]):
        assert added in shown


def test_serve_without_a_model_says_so(clean_environment: None) -> None:
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 1
    assert "Name a model" in result.stderr


def test_no_command_but_serve_imports_torch_or_vllm() -> None:
    code = (
        "import sys, softprompt_serve.cli\n"
        "print(*({'torch', 'vllm', 'fastapi', 'sqlalchemy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
