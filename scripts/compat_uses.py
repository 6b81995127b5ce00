"""Which names of a package our own files import, and what they do with them, read from the files."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from compat_sources import NotFoundInSourcesError, Sources


@dataclass(frozen=True, slots=True)
class Use:
    """``path`` (``module:attribute.path``) is named in files ``where`` and called with ``keywords``."""

    path: str
    where: tuple[str, ...]
    keywords: tuple[str, ...] = ()

    def difference(self, sources: Sources) -> str | None:
        """How ``sources`` differ from what is needed, or None.

        Raises:
            NotFoundInSourcesError: the name isn't there.
        """
        found = sources.find(self.path)
        refused = [keyword for keyword in self.keywords if not found.takes(keyword)]
        return f"takes no {', '.join(refused)}" if refused else None


def uses_of(package: str, files: Iterable[Path]) -> list[Use]:
    """Every name of ``package``'s that is imported, and every attribute of one; one use per path.

    Raises:
        ValueError: a module of it is imported whole, so that what is used of it can't be told.
    """
    where: dict[str, set[str]] = {}
    keywords: dict[str, set[str]] = {}
    for file in files:
        for path, given in _uses_in(package, file):
            where.setdefault(path, set()).add(file.name)
            keywords.setdefault(path, set()).update(given)
    return [
        Use(path, tuple(sorted(where[path])), tuple(sorted(keywords[path])))
        for path in sorted(where)
    ]


def _uses_in(package: str, file: Path) -> Iterator[tuple[str, list[str]]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _within(package, node.module):
            for alias in node.names:
                path = imported[alias.asname or alias.name] = f"{node.module}:{alias.name}"
                yield path, []
        elif isinstance(node, ast.Import) and any(_within(package, a.name) for a in node.names):
            msg = (
                f"{file.name}, line {node.lineno}: import names, not modules, so that they are seen"
            )
            raise ValueError(msg)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (named := _path(node, imported)):
            yield named, []
        elif isinstance(node, ast.Call) and (named := _path(node.func, imported)):
            yield named, [keyword.arg for keyword in node.keywords if keyword.arg is not None]


def _within(package: str, module: str | None) -> bool:
    return module is not None and (module == package or module.startswith(f"{package}."))


def _path(node: ast.expr, imported: Mapping[str, str]) -> str | None:
    match node:
        case ast.Name(id=name):
            return imported.get(name)
        case ast.Attribute(value=value, attr=attribute):
            base = _path(value, imported)
            return None if base is None else f"{base}.{attribute}"
        case _:
            return None


def missing(path: str, sources: Sources, error: NotFoundInSourcesError) -> str:
    """Why a path can't be found, and where its first name is now."""
    module, _, attributes = path.partition(":")
    name = attributes.partition(".")[0]
    elsewhere = [holder for holder in sources.holders(name) if holder != module]
    return f"gone: {error}" + (f"; there is one in {', '.join(elsewhere)}" if elsewhere else "")
