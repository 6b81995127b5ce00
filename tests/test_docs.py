"""The documentation is held against the code: routes, codes, commands, links, snippets."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main
from fastapi import FastAPI
from fastapi.routing import APIRoute

import softprompt_serve
from softprompt_serve.access.endpoints import table
from softprompt_serve.app import attach
from softprompt_serve.cli.app import app
from softprompt_serve.server.gate import PREFIX
from softprompt_serve.server.state import AppState
from softprompt_serve.settings import Settings

ROOT = Path(__file__).parent.parent
PACKAGE = Path(softprompt_serve.__file__).parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
API = (ROOT / "docs" / "api.md").read_text()
ERRORS = API.split("## Errors")[1]


def codes_in_source() -> set[str]:
    """Every literal that is given to an error as its stable code."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if {"cli", "demo", "evaluation"} & set(path.relative_to(PACKAGE).parts):
            continue  # what a person sees on a terminal, not what the API answers
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or _is_startup(node):
                continue
            for keyword in node.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    found.add(keyword.value.value)
    return {code for code in found if isinstance(code, str)}


def _is_startup(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "StartupRefused"


def test_every_code_that_the_api_answers_is_documented() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", ERRORS))
    undocumented = {
        code
        for code in codes_in_source() - documented
        if not code.startswith("artifact_") and code not in INTERNAL
    }
    assert not undocumented


# Never reach a caller of the API: between our own processes, at start, in a shadow of a request, or
# where a command reads bundles, keys and MLflow.
INTERNAL = {
    "bank_missing",
    "softprompt_mismatch",
    "invalid_setting",
    "shadow_needs_one_input",
    "shadow_too_long",
    "invalid_bundle",
    "bundle_not_signed",
    "bundle_signature",
    "invalid_key",
    "signing_unavailable",
    "mlflow_bad_address",
    "mlflow_failed",
    "mlflow_no_adapter",
    "mlflow_no_store",
    "mlflow_not_found",
    "mlflow_not_installed",
    "mlflow_several_adapters",
}


def test_every_documented_code_exists() -> None:
    table = ERRORS.split("## From NeMo")[0]
    documented = set(re.findall(r"`([a-z]+_[a-z_]+)`", table)) - {"version_unloaded"}
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert {code for code in documented if f'"{code}"' not in source} == set()


def test_every_route_of_the_admin_api_is_documented() -> None:
    web = FastAPI()
    attach(web, AppState(Settings(), vllm=""))
    routes = [r for r in web.routes if isinstance(r, APIRoute) and r.path.startswith(PREFIX)]
    assert len(routes) > 20
    for route in routes:
        (method,) = route.methods
        path = route.path.removeprefix(PREFIX)
        whole = API.replace("[/{version}]", "")
        if path == "/prompts/{name}/versions/{version}" and method == "GET":
            continue  # documented as versions[/{version}]
        assert f"{method} {path}" in whole, (method, path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_snippets_parse(page: Path) -> None:
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        ast.parse(snippet)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_shown_exist(page: Path) -> None:
    known = typer.main.get_command(app).commands
    for name, rest in re.findall(
        r"^softprompt-serve ([a-z][a-z-]*)(.*)", page.read_text(), re.MULTILINE
    ):
        assert name in known
        command = known[name]
        if isinstance(command, typer.core.TyperGroup):  # `rollout show`, not `serve MODEL`
            assert rest.split()[0] in command.commands, f"{name}{rest}"
            command = command.commands[rest.split()[0]]
        if name != "serve":
            options = {option for part in command.params for option in part.opts}
            assert set(re.findall(r" (--[a-z-]+)", rest.partition("#")[0])) <= options, rest


def test_make_targets_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


def test_files_named_in_the_architecture_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`([a-z_]+/[a-z_0-9]+\.py)`", page):
        assert (PACKAGE / name).is_file(), name


def test_the_page_about_security_has_the_table_of_scopes() -> None:
    assert table() in (ROOT / "docs" / "security.md").read_text()
