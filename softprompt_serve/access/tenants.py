"""Cache salts by tenant: who shares cached prefixes with whom. Pure.

vLLM's prefix cache answers sooner what it has seen, so that who can send prompts and measure time
can ask whether somebody else has sent a text (Song et al., "The Early Bird Catches the Leak",
arXiv 2409.20002). With a salt of its own a tenant finds its own blocks alone.
"""

from __future__ import annotations

import hashlib
from typing import Final

PREFIX: Final = "t:"
_DIGITS: Final = 32
"""Of SHA-256, in hex: 128 bits."""


def tenant_salt(tenant: str, users: str | None) -> str:
    """The salt of a request: ``t:`` and a hash of its tenant and of the salt it brought.

    Two tenants never make the same salt, whatever they send along: the tenant's length goes first.
    """
    named = tenant.encode(errors="surrogatepass")
    own = b"" if users is None else b"\0" + users.encode(errors="surrogatepass")
    text = str(len(named)).encode() + b":" + named + own
    return PREFIX + hashlib.sha256(text).hexdigest()[:_DIGITS]
