"""How many cases a fuzz test tries."""

from __future__ import annotations

import os

from hypothesis import settings


def cases(few: int, share: float = 1.0) -> settings:
    """``few`` in the tests, or a share of ``FUZZ_CASES`` where `make fuzz` gives a number."""
    asked = int(os.environ.get("FUZZ_CASES", "0"))
    return settings(
        settings.get_profile("fuzz"), max_examples=max(1, int(asked * share)) if asked else few
    )
