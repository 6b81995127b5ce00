"""Upper bounds of histograms' buckets: powers of √2 where arms are compared, of 2 elsewhere.

They are the bounds of Prometheus' native histograms of schema 1 and 0, so that a recording made
with either can be read beside the other. A quantile that is read between two bounds is wrong by less
than a factor of √2 (or 2). Each bound is one more series for each combination of labels, which is why
only latencies that people compare between arms have the finer ones.
"""

from __future__ import annotations

import math
from typing import Final

_FRACTIONS: Final = (0.5, 0.7071067811865475)
"""As Prometheus' own clients have them for schema 1, to the last bit."""


def roots(first: int, last: int) -> tuple[float, ...]:
    """Powers of √2: √2 ** ``first`` … √2 ** ``last``."""
    return tuple(math.ldexp(_FRACTIONS[i % 2], i // 2 + 1) for i in range(first, last + 1))


def doublings(first: int, last: int) -> tuple[float, ...]:
    """Powers of 2: 2 ** ``first`` … 2 ** ``last``."""
    return tuple(math.ldexp(1.0, i) for i in range(first, last + 1))


SECONDS: Final = roots(-16, 17)
"""34 bounds, 3.9 ms to 362 s: a first token as well as a long answer."""

TOKEN_SECONDS: Final = roots(-20, 5)
"""26 bounds, 0.98 ms to 5.7 s: the time between two tokens."""

WAIT_SECONDS: Final = doublings(-10, 8)
"""19 bounds, 0.98 ms to 256 s: parts of a request, loads and changes."""

USD: Final = doublings(-23, 0)
"""24 bounds, 0.12 µUSD to 1 USD: what one answer costs."""

NATS: Final = doublings(-10, 3)
"""14 bounds, 0.00098 to 8 nats per token: divergence."""
