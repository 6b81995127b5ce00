"""A package's names, found by reading its files: nothing of it is imported.

Follows re-exports (``from .x import y``, also lazy ones by a table of ``"name": ".module:name"``) and
base classes within the package. Names that are made while the program runs can't be seen.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

_TOP_LEVEL: Final = re.compile(r"^(?:(?:async )?def|class) (\w+)", re.MULTILINE)
_HOPS: Final = 8  # re-exports of re-exports; more is a circle


class NotFoundInSourcesError(LookupError):
    """A name is not where it was looked for."""


@dataclass(frozen=True)
class Module:
    """One file: ``name`` as it is imported, its ``text``, and whether it is a package's own."""

    name: str
    text: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """What the text says."""
        return ast.parse(self.text)

    @cached_property
    def names(self) -> dict[str, ast.stmt]:
        """Every name at the top → the statement that gives it, the last one where several do."""
        return names_in(self.tree.body)

    def absolute(self, statement: ast.ImportFrom) -> str:
        """The module that an import names."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - statement.level + self.is_package]
        return ".".join([*base, *([statement.module] if statement.module else [])])


def names_in(body: Sequence[ast.stmt]) -> dict[str, ast.stmt]:
    """Names that statements give, also inside ``if``, ``try`` and ``with``."""
    found: dict[str, ast.stmt] = {}
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found[statement.name] = statement
            case ast.Import() | ast.ImportFrom():
                for alias in statement.names:
                    found[alias.asname or alias.name.partition(".")[0]] = statement
            case ast.Assign(targets=targets):
                found |= {n.id: statement for t in targets for n in _stored(t)}
            case ast.AnnAssign(target=target):
                found |= {n.id: statement for n in _stored(target)}
            case ast.If() | ast.Try() | ast.With():
                found |= names_in(list(_inner(statement)))
            case _:
                pass
    return found


def _stored(target: ast.expr) -> Iterator[ast.Name]:
    return (node for node in ast.walk(target) if isinstance(node, ast.Name))


def _inner(statement: ast.If | ast.Try | ast.With) -> Iterator[ast.stmt]:
    yield from statement.body
    if isinstance(statement, ast.Try):
        for handler in statement.handlers:
            yield from handler.body
        yield from statement.finalbody
    if not isinstance(statement, ast.With):
        yield from statement.orelse


class Sources:
    """The Python files below ``root``, which holds the folder of the package ``package``."""

    def __init__(self, root: Path, package: str = "vllm") -> None:
        self.root = root
        self.package = package
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module:
        """The module, read once.

        Raises:
            NotFoundInSourcesError: there is no such file.
        """
        if name not in self._modules:
            self._modules[name] = self._read(name)
        module = self._modules[name]
        if module is None:
            msg = f"no module {name}"
            raise NotFoundInSourcesError(msg)
        return module

    def _read(self, name: str) -> Module | None:
        path = self.root.joinpath(*name.split("."))
        for file, is_package in ((path / "__init__.py", True), (path.with_suffix(".py"), False)):
            if file.is_file():
                return Module(name, file.read_text(encoding="utf-8"), is_package)
        return None

    def find(self, path: str) -> Found:
        """What stands at ``module:attribute.path``.

        Raises:
            NotFoundInSourcesError: naming the first part that isn't there.
        """
        module, _, attributes = path.partition(":")
        first, *rest = attributes.split(".")
        found = self.top(self.module(module), first)
        for name in rest:
            found = found.attribute(name)
        return found

    def top(self, module: Module, name: str, hops: int = _HOPS) -> Found:
        """A name of a module, wherever it comes from.

        Raises:
            NotFoundInSourcesError: the module doesn't have it, or has it from outside the package.
        """
        statement = module.names.get(name)
        if statement is None or not hops:
            return self._elsewhere(module, name, hops)
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            return Found(self, module, statement, name)
        alias = next(a for a in statement.names if name in {a.asname, a.name.partition(".")[0]})
        if isinstance(statement, ast.Import):
            msg = f"{module.name}.{name} is the module {alias.name}"
            raise NotFoundInSourcesError(msg)
        return self.top(self.module(module.absolute(statement)), alias.name, hops - 1)

    def _elsewhere(self, module: Module, name: str, hops: int) -> Found:
        """A lazy re-export: ``"name": ".module:name"`` in a module with ``__getattr__``."""
        lazy = re.search(rf'"{re.escape(name)}":\s*"([\w.]+):(\w+)"', module.text)
        if lazy is None or not hops:
            msg = f"no {name} in {module.name}"
            raise NotFoundInSourcesError(msg)
        target, own = lazy.groups()
        if target.startswith("."):
            target = (module.name if module.is_package else module.name.rpartition(".")[0]) + target
        return self.top(self.module(target), own, hops - 1)

    def holders(self, name: str) -> list[str]:
        """Modules that define a class or a function ``name`` at their top."""
        return self._holders.get(name, [])

    @cached_property
    def _holders(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file in sorted((self.root / self.package).rglob("*.py")):
            parts = file.relative_to(self.root).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__")
            text = file.read_text(encoding="utf-8", errors="replace")
            for name in set(_TOP_LEVEL.findall(text)):
                found.setdefault(name, []).append(module)
        return found


class Found:
    """One name of a package; a ``Place`` of ``softprompt_serve.vllm_plugin.seam``."""

    def __init__(self, sources: Sources, module: Module, node: ast.stmt, name: str) -> None:
        self.sources = sources
        self.module = module
        self.node = node
        self.name = name

    def attribute(self, name: str) -> Found:
        """A class's own attribute or that of its first base class that has it.

        Raises:
            NotFoundInSourcesError: no class of the package that it derives from has it.
        """
        for base in self.lineage():
            assert isinstance(base.node, ast.ClassDef)  # noqa: S101 - lineage() says so
            if (statement := names_in(base.node.body).get(name)) is not None:
                return Found(self.sources, base.module, statement, name)
        msg = f"no {name} in {self.module.name}.{self.name}"
        raise NotFoundInSourcesError(msg)

    def lineage(self) -> Iterator[Found]:
        """The class and its base classes within the package, nearest first."""
        if not isinstance(self.node, ast.ClassDef):
            return
        yield self
        for base in self.node.bases:
            named = base.value if isinstance(base, ast.Subscript) else base
            if not isinstance(named, ast.Name):
                continue
            try:
                parent = self.sources.top(self.module, named.id)
            except NotFoundInSourcesError:
                continue  # from another package
            yield from parent.lineage()

    def parameters(self) -> tuple[str, ...]:
        """Of a function, as ``inspect.signature`` names them; of a class none."""
        if not isinstance(self.node, Function):
            return ()
        given = self.node.args
        plain = [*given.posonlyargs, *given.args]
        if any(isinstance(d, ast.Name) and d.id == "classmethod" for d in self.node.decorator_list):
            plain = plain[1:]
        after = [given.vararg, *given.kwonlyargs, given.kwarg]
        return tuple(argument.arg for argument in [*plain, *after] if argument is not None)

    def source(self) -> str:
        """Its text, with decorators and the comments that end its body, as ``inspect`` has it."""
        first = min(
            [self.node.lineno, *(d.lineno for d in getattr(self.node, "decorator_list", ()))]
        )
        lines = self.module.text.splitlines(keepends=True)
        last = self.node.end_lineno or first
        while last < len(lines) and _ends_body(lines[last], self.node.col_offset):
            last += 1
        return "".join(lines[first - 1 : last])

    def has(self, attribute: str) -> bool:
        """Named in the class's body, or set on ``self`` by a method; bases included."""
        for base in self.lineage():
            assert isinstance(base.node, ast.ClassDef)  # noqa: S101 - lineage() says so
            if attribute in names_in(base.node.body) or attribute in _set_on_self(base.node):
                return True
        return False

    def takes(self, keyword: str) -> bool:
        """Whether a call may give ``keyword``; always where that is decided in another package."""
        if isinstance(self.node, Function):
            return keyword in self.parameters() or self.node.args.kwarg is not None
        if not isinstance(self.node, ast.ClassDef):
            return True
        if self.has("__init__"):
            return self.attribute("__init__").takes(keyword)
        return self.has(keyword)


def _ends_body(line: str, indent: int) -> bool:
    """Whether a line is a comment that stands deeper than ``indent``."""
    text = line.lstrip()
    return text.startswith("#") and len(line) - len(text) > indent


def _set_on_self(node: ast.ClassDef) -> set[str]:
    return {
        child.attr
        for child in ast.walk(node)
        if isinstance(child, ast.Attribute)
        and isinstance(child.ctx, ast.Store)
        and isinstance(child.value, ast.Name)
        and child.value.id == "self"
    }
