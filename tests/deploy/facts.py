"""What is true of us, for what deployments say: settings, vLLM's flags and variables, routes."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from softprompt_serve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
LIBRARIES = {"HF_TOKEN", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""Variables that others read: Hugging Face's client, and the store of objects."""


def vllm_source(path: str) -> str:
    """The text of one of vLLM's modules, without importing it."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / path).read_text()


def unknown_variables(names: Iterable[str]) -> set[str]:
    """Those that neither we nor vLLM nor the libraries beside us read."""
    settings = {f"SOFTPROMPT_{name.upper()}" for name in Settings.model_fields}
    telemetry = set(re.findall(r"`(OTEL_[A-Z_]+)", (ROOT / "docs" / "telemetry.md").read_text()))
    telemetry.add("OTEL_TRACES_EXPORTER")
    vllm = set(re.findall(r'^    "(VLLM_[A-Z_0-9]+)":', vllm_source("envs.py"), re.MULTILINE))
    return set(names) - settings - telemetry - vllm - LIBRARIES


def serve_flags(arguments: list[str]) -> Any:
    """vLLM's own parser takes the arguments; returns what it made of them.

    It loads plugins on the way. Ours would patch this process, in which others look at what is unpatched.
    """
    with mock.patch.dict(os.environ, {"VLLM_PLUGINS": ""}):
        return _parser().parse_args(arguments)


@functools.cache
def _parser() -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: PLC0415 - seconds
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    return make_arg_parser(FlexibleArgumentParser())


def env_file(path: Path) -> dict[str, str]:
    """``NAME=VALUE`` lines, without comments."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def substituted(text: str, given: Mapping[str, str]) -> str:
    """``${NAME:-default}`` as Compose replaces it; whatever else is there stays."""
    pattern = r"\$\{([A-Z_]+):-([^}]*)\}"
    return re.sub(pattern, lambda found: given.get(found[1]) or found[2], text)
