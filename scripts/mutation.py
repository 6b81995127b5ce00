"""What a mutation is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defect.

    Attributes:
        name: what goes wrong.
        file: below ``softprompt_serve/``.
        before: text that stands there exactly once.
        after: what it is replaced with.
        caught_by: the test, below ``tests/``, that must fail by an assertion.
        probe: whether the start-up probe also refuses a server with it, on the runner that it is in. It
            sees what changes the answer to a lone version's first request.
    """

    name: str
    file: str
    before: str
    after: str
    caught_by: str
    probe: bool = False
