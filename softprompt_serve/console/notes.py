"""Why a page shows less than it could: where the catalogue is lost, what is in memory is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from softprompt_serve.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

Read = TypeVar("Read")


@dataclass(slots=True)
class Notes:
    """Why a page shows less than it could, each reason once."""

    said: list[str] = field(default_factory=list)

    def add(self, note: str | None) -> None:
        """Note something."""
        if note is not None and note not in self.said:
            self.said.append(note)

    async def or_none(self, reading: Awaitable[Read]) -> Read | None:
        """What is read, or None and a note where what it is read from is lost."""
        try:
            return await reading
        except Unavailable as error:
            self.add(error.message)
            return None
