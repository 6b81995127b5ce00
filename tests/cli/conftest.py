"""The command line against the real admin API over HTTP; only the engine's workers are fake."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from softprompt_serve.cli import app
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    HIDDEN_SIZE,
    KV,
    FakeWorkers,
    app_for_tests,
    service_for_tests,
    serving,
)

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

    def prefix(self, rows: int = 3) -> str:
        path = self.folder / "prefix.safetensors"
        save_file({"any": torch.zeros(KV.layers, 2, rows, KV.kv_heads, KV.head_dim)}, path)
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
