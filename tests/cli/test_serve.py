from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from softprompt_serve.cli import app
from softprompt_serve.vllm_plugin import launch

if TYPE_CHECKING:
    pass


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
    assert "--kv-transfer-config" in shown
    for added in launch.serve_arguments([], deep=False):
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
