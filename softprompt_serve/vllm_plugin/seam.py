"""What a seam is, and how one is compared with the vLLM at hand, loaded or only read.

The comparison is one function of what is found there. ``verify`` finds it in the running process,
``scripts/compat.py`` in the files of a release that isn't installed.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from softprompt_serve.errors import StartupRefused

if TYPE_CHECKING:
    from collections.abc import Iterable


class Place(Protocol):
    """What stands at a seam's path."""

    def parameters(self) -> tuple[str, ...]:
        """Names of a callable's parameters, in order."""

    def source(self) -> str:
        """Its text."""

    def has(self, attribute: str) -> bool:
        """Whether instances of a class have the attribute, by itself or through a base class."""


@dataclass(frozen=True, slots=True)
class Seam:
    """One name of vLLM that we patch, wrap, call or read.

    Attributes:
        path: ``module:attribute.path``.
        parameters: the names its signature must have, in order, or None if it isn't callable.
        mentions: text that its source must contain, because we depend on it.
        attributes: what instances of it must have, because we read it.
        why: what we do there.
        way_out: what upstream would need for it to go away.
    """

    path: str
    why: str
    way_out: str
    parameters: tuple[str, ...] | None = None
    mentions: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    def difference(self, place: Place) -> str | None:
        """How ``place`` differs from what is needed there, or None."""
        if self.parameters is not None:
            actual = place.parameters()
            if actual[: len(self.parameters)] != self.parameters:
                return f"takes other parameters ({actual}, expected {self.parameters})"
        if self.mentions:
            source = place.source()
            for text in self.mentions:
                if text not in source:
                    return f"does something else (no mention of `{text}`)"
        missing = [name for name in self.attributes if not place.has(name)]
        return f"has no attribute {', '.join(missing)}" if missing else None

    def verify(self) -> None:
        """Compare with what this process has loaded.

        Raises:
            StartupRefused: ``vllm_seam_moved``, naming the seam.
        """
        try:
            how = self.difference(_Loaded(resolve(self.path)))
        except (ImportError, AttributeError) as error:
            self._refuse(f"can't be found ({error})", error)
        if how is not None:
            self._refuse(how)

    def _refuse(self, how: str, cause: Exception | None = None) -> NoReturn:
        msg = f"vLLM's {self.path} {how}; it is needed to {self.why}."
        raise StartupRefused(msg, code="vllm_seam_moved") from cause


class _Loaded:
    """An object of this process, as a :class:`Place`."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def parameters(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self._found).parameters)

    def source(self) -> str:
        return inspect.getsource(self._found)

    def has(self, attribute: str) -> bool:
        """Named by the class, or by a method of it: reading sources would take seconds."""
        return hasattr(self._found, attribute) or any(
            attribute in vars(base).get("__annotations__", {}) or _uses(base, attribute)
            for base in inspect.getmro(self._found)
        )


def _uses(base: type[Any], attribute: str) -> bool:
    methods = (inspect.unwrap(value) for value in vars(base).values() if callable(value))
    return any(
        attribute in method.__code__.co_names for method in methods if inspect.isfunction(method)
    )


def resolve(path: str) -> Any:
    """The object at ``module:attribute.path``.

    Raises:
        ImportError, AttributeError: if it isn't there.
    """
    module, _, attributes = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in attributes.split("."):
        found = getattr(found, part)
    return found


def verify(seams: Iterable[Seam]) -> None:
    """Verify each seam.

    Raises:
        StartupRefused: ``vllm_seam_moved``, for the first that moved.
    """
    for seam in seams:
        seam.verify()
