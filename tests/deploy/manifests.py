"""The manifests under ``deploy/``, parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


@dataclass(frozen=True)
class Manifest:
    """One document of one file."""

    file: str
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.data["kind"])

    @property
    def name(self) -> str:
        return str(self.data["metadata"]["name"])

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.data["spec"])

    def __str__(self) -> str:
        return f"{self.file}:{self.kind}/{self.name}"

    def objects(self) -> Iterator[dict[str, Any]]:
        """Every mapping in it, at any depth."""
        yield from _objects(self.data)


class Unique(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: the last one would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


def manifests(folder: str, kind: str | None = None) -> list[Manifest]:
    """The documents of one folder under ``deploy/``, in the order of its files."""
    return [
        Manifest(f"{folder}/{path.name}", document)
        for path in sorted((DEPLOY / folder).glob("*.yaml"))
        for document in yaml.load_all(path.read_text(), Loader=Unique)
        if kind is None or document["kind"] == kind
    ]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from _objects(inner)
