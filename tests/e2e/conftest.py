"""One engine for most tests: the demo model, compiled, as `softprompt-serve serve` starts it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from e2e.harness import Admin, Server
from e2e.reference import Reference
from otlp_receiver import Receiver
from rich.console import Console
from safetensors.torch import load_file

from softprompt_serve.demo.prepare import prepare

PROMPTS = Path(str(files("softprompt_serve.demo"))) / "prompts"
FEEDBACK_TOKEN = "what-applications-have"
TICKET = "My parcel was due on Monday and the tracking page has not moved since."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's folder; made here unless DEMO_MODEL says where it is."""
    given = os.environ.get("DEMO_MODEL")
    folder = Path(given) if given else tmp_path_factory.mktemp("model") / "demo"
    prepare(folder, Console(stderr=True))
    return folder


@pytest.fixture(scope="session")
def reference(model: Path) -> Reference:
    torch.set_num_threads(2)
    return Reference(model)


@pytest.fixture(scope="session")
def spans() -> Iterator[Receiver]:
    """What the main server traces."""
    with Receiver("grpc") as receiver:
        yield receiver


@pytest.fixture(scope="session")
def server(
    model: Path, spans: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(
        model,
        tmp_path_factory.mktemp("home"),
        flags=(
            *("--max-model-len", "2048", "--max-num-seqs", "32"),
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
            "--no-log-error-stack",  # dev mode would turn it on, and tracebacks may quote texts
        ),
        environment={
            "SOFTPROMPT_ALLOW_RAW_PROMPT_EMBEDS": "true",  # to compare with native prompt_embeds
            "SOFTPROMPT_BANK_ROWS": "1024",  # small enough to force evictions
            "SOFTPROMPT_COHORTS": "regulated",
            "SOFTPROMPT_ROUTES": "planner,retriever,final_answer",
            "SOFTPROMPT_RULE_HEADERS": "x-tenant",
            "SOFTPROMPT_LONG_CONTEXT_TOKENS": "600",
            "SOFTPROMPT_CAPTURE_CONTENT": "true",
            "SOFTPROMPT_CONTROLLER_SECONDS": "0.1",
            "SOFTPROMPT_FEEDBACK_TOKEN": FEEDBACK_TOKEN,
            "SOFTPROMPT_LOG_FORMAT": "json",
            "SOFTPROMPT_LOG_REQUESTS": "true",
            **spans.environ,
            "VLLM_SERVER_DEV_MODE": "1",  # lets tests play the rogue at the workers
        },
    )
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def admin(server: Server) -> Admin:
    return server.admin()


@pytest.fixture(scope="session")
def support(admin: Admin) -> dict[str, dict[str, Any]]:
    """The demo's prompt: v1 hard, v2 and v3 soft, production on v2."""
    return import_support(admin)


@pytest.fixture(scope="session")
def rows() -> dict[str, torch.Tensor]:
    """The demo's trained rows, `[20, hidden_size]` each."""
    return {
        version: load_file(PROMPTS / f"support-{version}" / "adapter_model.safetensors")[
            "prompt_embeddings"
        ]
        for version in ("v2", "v3")
    }


@pytest.fixture(scope="session")
def hard_text() -> str:
    return (PROMPTS / "support-v1" / "text.txt").read_text().strip()


def import_support(admin: Admin) -> dict[str, dict[str, Any]]:
    versions = import_versions(admin)
    admin.alias("support", "production", "v2")
    return versions


def import_versions(admin: Admin) -> dict[str, dict[str, Any]]:
    text = (PROMPTS / "support-v1" / "text.txt").read_text().strip()
    versions = {"v1": admin.imported("support", version="v1", kind="hard", text=text)}
    for version in ("v2", "v3"):
        folder = PROMPTS / f"support-{version}"
        record = (folder / "record.json").read_text()
        archive = BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                zipped.write(folder / name, name)
        versions[version] = admin.imported(
            "support", archive.getvalue(), version=version, record=record
        )
    return versions
