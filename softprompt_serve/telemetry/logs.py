"""Log records as JSON: one line each, whatever was logged, in the same order of fields.

``vllm_plugin/logging.json`` names :class:`JsonLines` to vLLM and uvicorn.
"""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pythonjsonlogger.json import JsonFormatter

from softprompt_serve.telemetry.lines import Line
from softprompt_serve.telemetry.redaction import SECRETS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from softprompt_serve.telemetry.lines import Field

OF_A_REQUEST: Final = (
    "request_id",
    "trace_id",
    "span_id",
    "prompt",
    "version",
    "arm",
    "cohort",
    "route",
)
"""Fields that every line has which is written within a request, as far as they are known."""


class JsonLines(JsonFormatter):
    """Writes a record as one line of ASCII that is a JSON object; never raises.

    Only what is documented is written: what other libraries attach to their records
    (``extra=``) may be anything, and is not.
    """

    def __init__(
        self,
        *,
        context: Callable[[], Mapping[str, Field]] = dict,
        redact: Callable[[str], str] = SECRETS,
    ) -> None:
        """Ask ``context`` what is known of the running request, for each line."""
        super().__init__()
        self._context = context
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The line, or one that says why it can't be written."""
        try:
            return super().format(_printable(record))
        except Exception as error:  # noqa: BLE001 - logging must not fail whoever logs
            said = f"A line could not be written ({type(error).__name__})."
            return json.dumps(self._head(record, said))

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill ``log_data``: head, request, whatever else the line says, traceback."""
        line = record.msg if isinstance(record.msg, Line) else None
        log_data.update(self._head(record, line.said if line else record.getMessage()))
        told = Line("", {**self._context(), **(line.known() if line else {})})
        found = told.mapped(lambda text: _whole(self._redact(text))).known()
        first = {name: found[name] for name in OF_A_REQUEST if name in found}
        log_data.update(first | found)
        for name, given in (("exception", "exc_info"), ("stack", "stack_info")):
            if text := message_dict.get(given):
                log_data[name] = _whole(self._redact(str(text)))

    def _head(self, record: logging.LogRecord, said: str) -> dict[str, Any]:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return {
            "timestamp": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _whole(self._redact(said)),
            # vLLM's name of the process, such as EngineCore or Worker_TP1
            "process": getattr(record, "vllm_process_name", record.processName),
            "pid": record.process,
        }


def _printable(record: logging.LogRecord) -> logging.LogRecord:
    """``record``, or a copy that says what can be said, if message and arguments don't fit."""
    try:
        record.getMessage()
    except Exception as error:  # noqa: BLE001 - whatever an argument's own method raises
        record = copy.copy(record)
        why = f"its arguments can't be formatted: {type(error).__name__}"
        record.msg = f"{record.msg} ({why})" if isinstance(record.msg, str) else f"({why})"
        record.args = ()
    return record


def _whole(text: str) -> str:
    """``text`` in which half of a surrogate pair is U+FFFD: JSON allows it, few parsers do."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
