"""What a request costs, by prices per million tokens: the one place where that is worked out.

Metrics, spans and tallies all say what is said here. Without a tariff a cost is absent, not zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    from softprompt_serve.settings import Settings
    from softprompt_serve.telemetry.events import RequestEvent

_PER: Final = 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens; None where there is no tariff.

    Attributes:
        input: visible prompt tokens that were not cached.
        cached_input: prompt tokens that the prefix cache had, virtual ones among them.
        virtual: virtual tokens that were not cached.
        output: generated tokens.
    """

    input: float | None = None
    cached_input: float | None = None
    virtual: float | None = None
    output: float | None = None

    @classmethod
    def of(cls, settings: Settings, base_models: Iterable[str] = ()) -> Self:
        """As the settings say for the first of the served base model's names that has a tariff."""
        for name in base_models:
            if (tariff := settings.prices.get(name)) is not None:
                return cls(tariff.input, tariff.cached_input, tariff.virtual, tariff.output)
        return cls(
            settings.price_input,
            settings.price_cached_input,
            settings.price_virtual,
            settings.price_output,
        )

    @property
    def complete(self) -> bool:
        """Whether every answer has a cost."""
        return None not in (self.input, self.cached_input, self.virtual, self.output)

    def cost(self, event: RequestEvent) -> float | None:
        """USD of one request, or None if it has tokens of a sort that has no price.

        Virtual tokens come first, so what the prefix cache had is theirs first. A request without
        any token costs 0 where every sort has a price; else nothing is known of its cost either.
        """
        cached_virtual = min(event.cached_tokens, event.virtual_tokens)
        parts = (
            (event.visible_tokens - (event.cached_tokens - cached_virtual), self.input),
            (event.cached_tokens, self.cached_input),
            (event.virtual_tokens - cached_virtual, self.virtual),
            (event.output_tokens, self.output),
        )
        used = [(tokens, price) for tokens, price in parts if tokens > 0]
        if not used and not self.complete:
            return None
        total = 0.0
        for tokens, price in used:
            if price is None:
                return None
            total += tokens * price
        return total / _PER
