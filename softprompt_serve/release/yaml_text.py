"""Reads YAML, where PyYAML is installed: it comes with vLLM, and the client alone does without."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def from_yaml(text: str) -> Any:
    """The plain data that a text stands for.

    Raises:
        ValueError: it is no YAML, or PyYAML is not installed.
    """
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        msg = "PyYAML is not installed; write JSON"
        raise ValueError(msg) from error
    load: Callable[[str], Any] = yaml.safe_load
    try:
        return load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
