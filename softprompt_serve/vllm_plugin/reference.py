"""How a request refers to a soft version on its way to the worker, and the rules that guard it.

The API server puts a small reference into ``SamplingParams.extra_args`` and a salt into
``cache_salt``. Both or neither: every process that sees the request checks it.
"""

from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.registry.snapshot import Version

KEY = "softprompt"
"""Our key in ``extra_args``; refused in a client's ``vllm_xargs``."""

SALT_PREFIX = "sp:"
"""First characters of our cache salts; refused in a client's ``cache_salt``."""


Way = Literal["rows", "keys", "caught"]
"""How a version comes into a request: by rows before the first layer, by keys and values in every
layer, or by rows whose keys and values are caught on their way."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The version with ``digest`` stands before this request, as ``rows`` placeholder ids."""

    digest: str
    rows: int
    way: Way = "rows"

    @classmethod
    def to(cls, version: Version) -> Reference:
        """The reference to a soft version or a prefix."""
        way: Way = "keys" if version.kind == "prefix" else "rows"
        return cls(version.digest, version.virtual_tokens, way)

    @property
    def deep(self) -> bool:
        """Whether none of the first ``rows`` tokens may be computed."""
        return self.way == "keys"

    @property
    def caught(self) -> bool:
        """Whether the keys and values of the first ``rows`` tokens are to be kept."""
        return self.way == "caught"

    def to_extra_args(self) -> dict[str, str | int]:
        """What travels under :data:`KEY`."""
        return {"digest": self.digest, "rows": self.rows, "way": self.way}


def with_reference(sampling_params: Any, reference: Reference) -> Any:
    """A copy, because a handler may use its own object again, for a request's next turn."""
    params = copy(sampling_params)
    params.extra_args = {**(params.extra_args or {}), KEY: reference.to_extra_args()}
    return params


def salt_for(digest: str, users: str | None) -> str:
    """The cache salt of a request: ``sp:`` + digest[:32], + ``:`` + hash of the user's own.

    At most 128 characters. Versions never share KV blocks, a version's repeats do, and two users'
    salts keep their blocks apart within a version.
    """
    salt = SALT_PREFIX + digest[:32]
    if users is None:
        return salt
    own = hashlib.sha256(users.encode(errors="surrogatepass")).hexdigest()  # JSON may hold any
    return f"{salt}:{own[:32]}"


def is_reserved(salt: str | None) -> bool:
    """Whether a salt lies in our name space."""
    return salt is not None and salt.startswith(SALT_PREFIX)


def reference_in(extra_args: Mapping[str, Any] | None) -> Reference | None:
    """The reference that a request carries, or None.

    Raises:
        BadRequest: ``reserved_vllm_xargs`` if our key holds anything but a reference.
    """
    value = (extra_args or {}).get(KEY)
    if value is None:
        return None
    match value:
        case {"digest": str(digest), "rows": int(rows), "way": way} if (
            rows > 0 and way in get_args(Way) and len(value) == 3  # noqa: PLR2004
        ):
            return Reference(digest, rows, way)
    msg = f"`{KEY}` in extra_args is not a soft-prompt reference."
    raise BadRequest(msg, code="reserved_vllm_xargs", param="vllm_xargs")


def check_pair(
    reference: Reference | None,
    salt: str | None,
    token_ids: Sequence[int] | None,
    placeholder: int,
) -> None:
    """Check "reference present ⇔ matching salt", and that its placeholders lead the prompt.

    Raises:
        BadRequest: ``softprompt_mismatch`` if one is there without the other.
    """
    if reference is None:
        if is_reserved(salt):
            msg = "cache_salt lies in softprompt-serve's name space, but no soft prompt is referred to."
            raise BadRequest(msg, code="softprompt_mismatch", param="cache_salt")
        return
    expected = salt_for(reference.digest, None)
    if salt is None or not (salt == expected or salt.startswith(expected + ":")):
        msg = "The request refers to a soft prompt, but its cache_salt does not match it."
        raise BadRequest(msg, code="softprompt_mismatch", param="cache_salt")
    rows = reference.rows
    if token_ids is None or list(token_ids[:rows]) != [placeholder] * rows:
        msg = f"The request refers to {rows} virtual tokens, but they don't lead its prompt."
        raise BadRequest(msg, code="softprompt_mismatch", param="prompt")
