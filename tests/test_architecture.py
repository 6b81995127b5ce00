"""The rules of the house, read from the sources: who imports whom, sizes and names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import softprompt_serve

PACKAGE = Path(softprompt_serve.__file__).parent
MODULES = {str(p.relative_to(PACKAGE)): p for p in sorted(PACKAGE.rglob("*.py"))}
LINES = 300

DECIDING = ("access/", "bank/slots.py", "router/", "rollout/", "shadow/", "telemetry/", "release/")
PURE = ("artifact", "registry/", "evaluation/", *DECIDING)
WITHOUT_TORCH = ("registry/", "evaluation/", *DECIDING)


def within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(place) for place in places)


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside functions and for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found.add(node.module or "")
    return found


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_the_rules_see_the_package() -> None:
    assert {"errors.py", "bank/slots.py", "vllm_plugin/overlay.py"} <= MODULES.keys()


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("vllm_plugin/")])
def test_only_the_plugin_imports_vllm(name: str) -> None:
    assert "vllm" not in roots(MODULES[name])


@pytest.mark.parametrize("name", [n for n in MODULES if within(n, PURE)])
def test_the_pure_core_imports_no_web_framework(name: str) -> None:
    assert not roots(MODULES[name]) & {"fastapi", "starlette"}


@pytest.mark.parametrize("name", [n for n in MODULES if within(n, WITHOUT_TORCH)])
def test_what_decides_and_remembers_imports_no_torch(name: str) -> None:
    assert not roots(MODULES[name]) & {"torch", "safetensors", "transformers"}


@pytest.mark.parametrize("name", [n for n in MODULES if within(n, PURE)])
def test_the_pure_core_does_not_know_the_server_or_the_plugin(name: str) -> None:
    known = {m.split(".")[1] for m in imports(MODULES[name]) if m.startswith("softprompt_serve.")}
    assert not known & {"server", "vllm_plugin", "cli", "demo", "testing"}


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("server/")])
def test_the_server_does_not_know_what_is_made_on_top_of_it(name: str) -> None:
    known = {m.split(".")[1] for m in imports(MODULES[name]) if m.startswith("softprompt_serve.")}
    assert not known & {"app", "console", "vllm_plugin", "cli", "demo"}


@pytest.mark.parametrize("name", [n for n in MODULES if n != "testing.py"])
def test_nothing_imports_the_fakes(name: str) -> None:
    assert "softprompt_serve.testing" not in imports(MODULES[name])


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_at_most_300_lines(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= LINES


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_a_docstring(name: str) -> None:
    text = MODULES[name].read_text()
    assert not text or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("name", MODULES)
def test_a_modules_name_says_what_is_in_it(name: str) -> None:
    assert not {"utils", "helpers", "misc", "common"} & set(Path(name).with_suffix("").parts)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_knows_a_machine(name: str) -> None:
    strings = [
        node.value
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    roots = ("home", "root", "tmp", "work", "usr", "opt", "var", "Users")
    places = tuple(f"/{root}/" for root in roots)
    assert not [text for text in strings if any(place in text for place in places)]
