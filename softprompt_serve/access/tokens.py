"""Access tokens: made at random, kept as hashes, found by the hash of what a caller presents. Pure.

A token is ``spt_<id>_<secret>``. The id is no secret: it says which one was found in a place where
it should not be. The secret has 256 random bits, so a single SHA-256 is enough to keep it by: a
slow hash protects what people choose, which can be guessed; at 2^256 there is nothing to slow
down, and every request would pay for it. The same holds for the look-up: how long a dictionary
takes tells at most something of a hash, from which nobody gets back to a token.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from softprompt_serve.access.scopes import Grant, including

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from softprompt_serve.access.scopes import Scope

MARK: Final = "spt_"
"""How each begins, so that scanners of repositories find one."""

_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_MOST_CHARS: Final = 512


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token: ``text`` is shown once and kept nowhere."""

    id: str
    text: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """What is kept of it."""
        return sha256_of(self.text)


def mint(token_id: str | None = None) -> Minted:
    """A token from the system's randomness; with an id, one that takes over from another."""
    chosen = token_id or secrets.token_hex(_ID_BYTES)
    return Minted(chosen, f"{MARK}{chosen}_{secrets.token_urlsafe(_SECRET_BYTES)}")


def sha256_of(text: str) -> str:
    """SHA-256 of a token, in hex."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token as the catalogue keeps it.

    Attributes:
        id: 12 hex digits; stays through rotations.
        name: unique for ever, so that the audit's actor means one token.
        scopes: as they were given, without what they include.
        prompts: patterns; see :class:`~softprompt_serve.access.scopes.Grant`.
        sha256: of the token.
        previous_sha256: of the one before the last rotation, or None.
        previous_until: Unix time until which that one is accepted, too.
        expires_at: Unix time, or None for never.
        created_at: RFC 3339, UTC.
        created_by: who made it, or None.
        revoked_at: RFC 3339, UTC; None while it is accepted.
        last_used_at: RFC 3339, UTC, to the hour; None if it never was.
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    prompts: tuple[str, ...]
    sha256: str = field(repr=False)
    previous_sha256: str | None = field(repr=False, default=None)
    previous_until: float | None = None
    expires_at: float | None = None
    created_at: str = ""
    created_by: str | None = None
    revoked_at: str | None = None
    last_used_at: str | None = None

    @property
    def grant(self) -> Grant:
        """What its bearer may do."""
        return Grant(self.name, including(self.scopes), self.prompts, self.id)

    def holds(self, now: float) -> bool:
        """Whether it is accepted at a Unix time."""
        return self.revoked_at is None and now < (self.expires_at or math.inf)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A hash under which a token is accepted, until a Unix time."""

    sha256: str
    token: AccessToken
    grant: Grant
    until: float


class Keyring:
    """All tokens that are accepted, as of one catalogue revision. Immutable, so safe to share."""

    __slots__ = ("_by_id", "_entries")

    def __init__(self, tokens: Iterable[AccessToken] = ()) -> None:
        entries: dict[str, _Entry] = {}
        by_id: dict[str, AccessToken] = {}
        for token in tokens:
            if token.revoked_at is not None:
                continue
            by_id[token.id] = token
            grant = token.grant
            entries[token.sha256] = _Entry(token.sha256, token, grant, math.inf)
            if token.previous_sha256 is not None:
                until = token.previous_until or 0.0
                entries[token.previous_sha256] = _Entry(token.previous_sha256, token, grant, until)
        self._entries: Mapping[str, _Entry] = MappingProxyType(entries)
        self._by_id: Mapping[str, AccessToken] = MappingProxyType(by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyring) and self._by_id == other._by_id

    def __hash__(self) -> int:
        return hash(frozenset(self._by_id))

    def find(self, text: str, now: float) -> Grant | None:
        """What the bearer of a text may do at a Unix time; None if it is no token of ours."""
        if len(text) > _MOST_CHARS:
            return None
        presented = sha256_of(text)
        entry = self._entries.get(presented)
        if entry is None or not hmac.compare_digest(entry.sha256, presented):
            return None
        return entry.grant if now < entry.until and entry.token.holds(now) else None

    def by_mark(self, mark: str, now: float) -> Grant | None:
        """What :func:`mark_of` stood for, if that is accepted still and was not rotated since."""
        token = self._by_id.get(mark.partition("-")[0])
        if token is None or not hmac.compare_digest(mark_of(token), mark):
            return None
        return token.grant if token.holds(now) else None

    def mark(self, grant: Grant) -> str:
        """What a session keeps of the token that began it; "" for one that is not kept here."""
        token = self._by_id.get(grant.id)
        return "" if token is None else mark_of(token)


def mark_of(token: AccessToken) -> str:
    """Names a token as it is since its last rotation: its id and a hash of its hash."""
    return f"{token.id}-{hashlib.sha256(token.sha256.encode()).hexdigest()[:16]}"


NO_TOKENS: Final = Keyring()
