"""Keeps secrets out of whatever is logged, by their exact values.

No line is meant to name one. This stands behind that: a driver's message may repeat the address
that it was given, password included. One :class:`Redactor` serves the whole process, as logging
does; each process teaches it what its settings and environment hold.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from pydantic import SecretStr

from softprompt_serve.telemetry.lines import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from softprompt_serve.settings import Settings

MARK: Final = "[redacted]"

VARIABLES: Final = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "PGPASSWORD",
    "S3_SECRET_ACCESS_KEY",
    "VLLM_API_KEY",
)
"""Variables of others that hold a secret and nothing else."""

HEADERS: Final = (
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
)
"""Variables that hold `name=value` pairs, by commas, percent-encoded."""

_IN_ADDRESS: Final = re.compile(r"(://[^\s/@:]*):[^\s/@]+@")
_PASSWORD: Final = re.compile(r"://[^:/@]*:([^@]*)@")  # as SQLAlchemy reads it
# Shorter ones are ordinary words and numbers: they count only where they stand alone, or not at all.
_LONG: Final = 8
_SHORTEST: Final = 4


class Redactor:
    """Replaces secrets in text, as they are and as they look when encoded or quoted."""

    def __init__(self, *secrets: str) -> None:
        """Know ``secrets`` from the start."""
        self._found: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._at_work = False
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Replace these, too. Those of less than four characters can't be told from other text."""
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                self._found |= _looks(secret)
        longest_first = sorted(self._found, key=lambda look: (-len(look), look))
        self._pattern = re.compile("|".join(map(_where, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """``text`` without what is secret: known values, and the password of any address."""
        if "://" in text:
            text = _IN_ADDRESS.sub(rf"\1:{MARK}@", text)
        return text if self._pattern is None else self._pattern.sub(MARK, text)

    def watch(self) -> None:
        """Clean every record that this process makes from now on."""
        if not self._at_work:
            self._at_work = True
            logging.setLogRecordFactory(CleanRecords(logging.getLogRecordFactory(), self))


SECRETS: Final = Redactor()
"""This process's; :func:`protect` fills it and puts it to work."""


class CleanRecords:
    """A factory of log records whose message and traceback hold no secret, whoever writes them.

    A filter would have to be on every handler, also on those that uvicorn and vLLM make anew
    whenever they configure logging; the factory stays.
    """

    def __init__(self, make: Callable[..., logging.LogRecord], redact: Redactor) -> None:
        """Clean what ``make`` makes."""
        self._make = make
        self._redact = redact

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """A record; one that can't be formatted is left to its handler."""
        record = self._make(*args, **kwargs)
        with contextlib.suppress(Exception):  # logging must not fail whoever logs
            self._clean(record)
        return record

    def _clean(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if self._redact(said) != said:
            if isinstance(record.args, tuple):  # uvicorn's formatter takes them one by one
                record.args = tuple(
                    self._redact(part) if isinstance(part, str) else part for part in record.args
                )
            if isinstance(record.msg, Line):
                record.msg = record.msg.mapped(self._redact)
            if self._redact(said := record.getMessage()) != said:
                record.msg, record.args = self._redact(said), ()
        if record.exc_info:
            raised = logging.Formatter().formatException(record.exc_info)
            if self._redact(raised) != raised:
                record.exc_info, record.exc_text = None, self._redact(raised)


def protect(settings: Settings, environ: Mapping[str, str]) -> None:
    """Keep the secrets of ``settings`` and ``environ`` out of this process's log from now on."""
    SECRETS.learn(*known(settings, environ))
    SECRETS.watch()


def known(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Every secret that the settings and the environment name."""
    for name in type(settings).model_fields:
        if isinstance(value := getattr(settings, name), SecretStr):
            yield value.get_secret_value()
    yield from _of_address(settings.database_url or "")
    yield from (environ[name] for name in VARIABLES if environ.get(name))
    for name in HEADERS:
        for pair in environ.get(name, "").split(","):
            value = unquote(pair.partition("=")[2]).strip()
            yield from (value, value.rpartition(" ")[2])  # `Bearer TOKEN`


def _of_address(url: str) -> Iterator[str]:
    """The password of a database's URL, in its place or among the parameters."""
    if found := _PASSWORD.search(url):
        yield from (found[1], unquote(found[1]))
    for name, value in parse_qsl(url.partition("?")[2]):
        if name in {"password", "sslpassword"}:
            yield value


def _looks(secret: str) -> set[str]:
    """How a secret may stand in a text."""
    quoted = {json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    return {secret, quote(secret, safe=""), quote_plus(secret), *quoted}


def _where(look: str) -> str:
    escaped = re.escape(look)
    return escaped if len(look) >= _LONG else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"
