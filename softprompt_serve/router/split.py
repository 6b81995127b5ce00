"""A sticky weighted split: weighted rendezvous hashing.

Each arm draws, from the key and its own name, a number u that is uniform in (0, 1); the arm with
the largest ``ln(u) / weight`` wins. An arm wins in proportion to its weight, and since an arm's
draw depends on nothing but the key and its name, raising one arm's weight moves keys into it and
none out of it, nor between two others; taking an arm away moves its own keys alone. Nothing is
stored, so every process chooses alike.

Sources: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
Transactions on Networking 6(1), 1998 (rendezvous hashing); C. Schindelhauer, G. Schomaker,
"Weighted distributed hash tables", SPAA 2005 (the logarithmic method); G. Steele, D. Lea,
C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (splitmix64). The draw is
splitmix64's finalizer over the BLAKE2b of the key XOR that of the arm's name, so that many arms
cost one hash.

All arms are mixed at once, each in a lane of 128 bits of one large integer: a lane holds the whole
product of two 64-bit numbers, so that none spills into the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from math import inf, log
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNIT: Final = 2.0**-53
_LANE: Final = 128
_LANE_BYTES: Final = _LANE // 8


def hash64(text: str) -> int:
    """64 bits of BLAKE2b, the same in every process."""
    # JSON can carry half of a surrogate pair, and a key is anything that a client sends.
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")


def share(key: str) -> float:
    """A number in [0, 1) that is the key's own, for sampling."""
    return (hash64(key) >> 11) * _UNIT


class _Lanes(NamedTuple):
    """Constants for a number of lanes: a 1, 64 ones, 53 ones in each; and the way out."""

    ones: int
    low: int
    fraction: int
    values: Struct


@cache  # as many entries as there are numbers of arms, a hundred
def _lanes(count: int) -> _Lanes:
    ones = sum(1 << _LANE * lane for lane in range(count))
    return _Lanes(ones, ones * (2**64 - 1), ones * (2**53 - 1), Struct("<" + "Q8x" * count))


@dataclass(frozen=True, slots=True)
class Split:
    """Arms with weights; arms of weight 0 are left out.

    Attributes:
        arms: version names, with a seed and a weight each: ``(name, seed, weight)``.
    """

    arms: tuple[tuple[str, int, int], ...]
    _lanes: _Lanes = field(init=False, repr=False, compare=False)
    _seeds: int = field(init=False, repr=False, compare=False)
    _scales: tuple[tuple[str, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Pack the seeds into lanes."""
        object.__setattr__(self, "_lanes", _lanes(len(self.arms)))
        packed = b"".join(seed.to_bytes(_LANE_BYTES, "little") for _, seed, _ in self.arms)
        object.__setattr__(self, "_seeds", int.from_bytes(packed, "little"))
        scales = tuple((name, 1.0 / weight) for name, _, weight in self.arms)
        object.__setattr__(self, "_scales", scales)

    @classmethod
    def of(cls, prompt: str, weights: Iterable[tuple[str, int]]) -> Split:
        """The split of a prompt's traffic; seeds differ between prompts, so arms do not align."""
        return cls(tuple((name, hash64(f"{prompt}@{name}"), w) for name, w in weights if w > 0))

    def pick(self, key: str) -> str:
        """The arm of a key; raises ValueError if there is none."""
        if len(self.arms) == 1:
            return self.arms[0][0]
        ones, low, fraction, values = self._lanes
        x = hash64(key) * ones ^ self._seeds
        x = ((x ^ (x >> 30) & low) * 0xBF58476D1CE4E5B9) & low
        x = ((x ^ (x >> 27) & low) * 0x94D049BB133111EB) & low
        x = (x >> 11 ^ x >> 42) & fraction | ones  # odd, so that u is neither 0 nor 1
        best, chosen = -inf, ""
        draws = values.unpack(x.to_bytes(values.size, "little"))
        for (name, scale), drawn in zip(self._scales, draws, strict=True):
            u = drawn * _UNIT
            # ln(u) <= u - 1, which tells most arms that they have lost without a logarithm.
            if (u - 1.0) * scale >= best and (score := log(u) * scale) > best:
                best, chosen = score, name
        if not chosen:
            msg = "A split without a weight has no arm to pick."
            raise ValueError(msg)
        return chosen

    def without(self, names: Iterable[str]) -> Split:
        """The split of what remains when some arms can't take their share."""
        gone = frozenset(names)
        return Split(tuple(arm for arm in self.arms if arm[0] not in gone))
