"""Names of prompts, versions and aliases."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NUMBERED: Final = re.compile(r"v([0-9]{1,18})")


def check_name(what: str, name: str) -> str:
    """The name itself, if it is one; ``what`` is ``prompt``, ``version`` or ``alias``.

    Raises:
        BadRequest: ``code="invalid_name"``.
    """
    if not NAME.fullmatch(name):
        msg = (
            f"{name!r} is no {what} name; expected 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or digit."
        )
        raise BadRequest(msg, code="invalid_name", param=what)
    return name


def next_version(taken: Iterable[str]) -> str:
    """``v<k+1>``, where k is the highest number among the taken names ``v<number>``."""
    numbers = [int(found[1]) for name in taken if (found := _NUMBERED.fullmatch(name))]
    return f"v{max(numbers, default=0) + 1}"
