"""Flags of a command line that another program parses: what one of them is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def flag(flags: Sequence[str], *names: str) -> str | None:
    """The value of the last ``--name value`` or ``--name=value``; ``_`` counts as ``-``."""
    found = None
    for position, given in enumerate(flags):
        spelled, equals, value = given.partition("=")
        if spelled.replace("_", "-") not in names:
            continue
        if equals:
            found = value
        elif position + 1 < len(flags):
            found = flags[position + 1]
    return found
