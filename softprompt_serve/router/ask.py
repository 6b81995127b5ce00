"""What is known of a request when its version is chosen, and the bounded labels it gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.settings import Settings

DEFAULT = "default"
OTHER = "other"
LONG_CONTEXT = "long_context"
TOOL_CALLING = "tool_calling"
DERIVED = (LONG_CONTEXT, TOOL_CALLING)


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels that exist; whatever a client sends, no other label value comes into being.

    Attributes:
        cohorts: declared cohorts, in the settings' order.
        routes: declared routes.
        headers: lower-case names of headers that rules may look at.
        long_context_tokens: visible tokens from which a request is ``long_context``.
    """

    cohorts: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    headers: frozenset[str] = frozenset()
    long_context_tokens: int = 4096

    @classmethod
    def of(cls, settings: Settings) -> Labels:
        """As the settings declare them."""
        return cls(
            settings.cohorts,
            settings.routes,
            frozenset(settings.rule_headers),
            settings.long_context_tokens,
        )

    @property
    def all_cohorts(self) -> tuple[str, ...]:
        """Every value that the label ``cohort`` can have."""
        return (*self.cohorts, *DERIVED, DEFAULT, OTHER)

    @property
    def all_routes(self) -> tuple[str, ...]:
        """Every value that the label ``route`` can have."""
        return (*self.routes, DEFAULT, OTHER)

    def cohort(self, declared: str | None, *, tools: bool, visible_tokens: int | None) -> str:
        """The one label of a request: what it declares comes before what is derived."""
        if declared is not None:
            return declared if declared in self.cohorts else OTHER
        if visible_tokens is not None and visible_tokens >= self.long_context_tokens:
            return LONG_CONTEXT
        return TOOL_CALLING if tools else DEFAULT

    def route(self, declared: str | None) -> str:
        """The route's label."""
        if declared is None:
            return DEFAULT
        return declared if declared in self.routes else OTHER


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as far as choosing its version is concerned.

    Attributes:
        key: the sticky key; requests with the same one stay on the same arm.
        pinned: a selector from the ``x-softprompt-version`` header, or None.
        cohort: the cohort's label.
        route: the route's label.
        headers: allow-listed request headers, lower-case names.
        tools: whether tools are offered to the model.
        visible_tokens: tokens of the rendered request without the prompt; None if not counted.
        long_context: whether they are as many as make a long context.
    """

    key: str = ""
    pinned: str | None = None
    cohort: str = DEFAULT
    route: str = DEFAULT
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tools: bool = False
    visible_tokens: int | None = None
    long_context: bool = False

    def in_cohort(self, name: str) -> bool:
        """Whether the request belongs to a cohort; it may be in a declared and a derived one."""
        if name == self.cohort:
            return True
        return (name == LONG_CONTEXT and self.long_context) or (name == TOOL_CALLING and self.tools)
