"""Texts on spans: only if that is switched on, cut to a length, and past a hook that may redact."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Literal

from softprompt_serve.errors import StartupRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.settings import Settings

logger = logging.getLogger(__name__)

Kind = Literal["input", "output"]


class Content:
    """Decides what of a text may be told."""

    def __init__(self, chars: int, redact: Callable[[str, str], str | None] | None = None) -> None:
        """Keep ``chars`` characters of what ``redact`` leaves."""
        self._chars = chars
        self._redact = redact
        self._failed = False

    @classmethod
    def of(cls, settings: Settings) -> Content | None:
        """As the settings say; None while content stays off spans.

        Raises:
            StartupRefused: ``trace_redact_missing`` if there is no such function.
        """
        if not settings.trace_content:
            return None
        return cls(settings.trace_content_chars, _hook(settings.trace_redact))

    def told(self, kind: Kind, text: str) -> str | None:
        """What may go on a span, or None; a hook that fails lets nothing pass."""
        if self._redact is not None:
            try:
                redacted = self._redact(kind, text)
            except Exception as error:  # noqa: BLE001 - the hook is not ours
                if not self._failed:
                    self._failed = True
                    # Its kind alone: what it says may quote the text.
                    logger.error(  # noqa: TRY400
                        "SOFTPROMPT_TRACE_REDACT raised %s; such texts are not traced.",
                        type(error).__name__,
                    )
                return None
            if redacted is None:
                return None
            text = str(redacted)
        return text[: self._chars]


def _hook(named: str | None) -> Any:
    if named is None:
        return None
    module, _, name = named.partition(":")
    try:
        hook = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        msg = f"SOFTPROMPT_TRACE_REDACT is `{named}`, which can't be imported: {error}"
        raise StartupRefused(msg, code="trace_redact_missing") from error
    if not callable(hook):
        msg = f"SOFTPROMPT_TRACE_REDACT is `{named}`, which is no function."
        raise StartupRefused(msg, code="trace_redact_missing")
    return hook
