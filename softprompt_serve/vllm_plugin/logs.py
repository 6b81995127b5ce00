"""Ties our logs to vLLM's: one format for every process, by the switches that vLLM documents.

JSON is one ``dictConfig`` file, ``logging.json``, which ``VLLM_LOGGING_CONFIG_PATH`` names to vLLM in
each process and, through it, to uvicorn. As text, vLLM configures its own logger alone; ours writes
to the same place. What somebody has configured himself stays as it is.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from softprompt_serve.telemetry.logs import JsonLines
from softprompt_serve.telemetry.redaction import SECRETS

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from softprompt_serve.settings import Settings

logger = logging.getLogger(__name__)

CONFIG: Final = Path(__file__).with_name("logging.json")

_OURS: Final = "softprompt_serve"
_VLLM: Final = "vllm"
_LEVEL_FLAGS: Final = ("--log-level", "--logging-config.log-level")
_OTHER_FLAGS: Final = ("--log-config-file", "--logging-config")


def logging_environment(
    settings: Settings, arguments: Sequence[str], environ: Mapping[str, str]
) -> dict[str, str]:
    """What makes every process of vLLM's log as JSON; nothing if it shall not, or somebody chose.

    vLLM ignores its flags of the level beside a file, so the level becomes the variable, which the
    file asks.
    """
    if settings.log_format != "json" or environ.get("VLLM_LOGGING_CONFIG_PATH"):
        return {}
    if environ.get("VLLM_CONFIGURE_LOGGING", "1").strip() == "0":
        return {}
    found = {"VLLM_LOGGING_CONFIG_PATH": str(CONFIG)}
    for given, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, attached, value = given.partition("=")
        flag = name.replace("_", "-")
        if flag in _LEVEL_FLAGS:
            found["VLLM_LOGGING_LEVEL"] = value if attached else following
        elif flag.startswith(_OTHER_FLAGS):
            return {}
    return found


def output() -> logging.Handler:
    """Where ``logging.json`` writes to: the stream that ``VLLM_LOGGING_STREAM`` names.

    Python's own warnings go the same way from then on.
    """
    logging.captureWarnings(capture=True)
    named = os.environ.get("VLLM_LOGGING_STREAM", "ext://sys.stdout")
    stream: TextIO = pkgutil.resolve_name(named.removeprefix("ext://"))
    return logging.StreamHandler(stream)


def settle() -> None:
    """Make our lines appear where vLLM's do; call it once vLLM has configured this process.

    As JSON the root's handler writes all; libraries that gave themselves one, as torch and
    transformers do, lose it. As text, ours have vLLM's, unless somebody gave them others.
    """
    ours, vllm = logging.getLogger(_OURS), logging.getLogger(_VLLM)
    if writes_json():
        for log in list(logging.root.manager.loggerDict.values()):
            if isinstance(log, logging.Logger):
                _gather(log)
    elif vllm.handlers and not ours.hasHandlers():
        ours.addHandler(_AsVllm())
        ours.setLevel(vllm.level)
        ours.propagate = False


def attend(settings: Settings, args: Namespace) -> None:
    """What only the web server's process can do: its flags are at hand, uvicorn is still to come."""
    SECRETS.learn(*(args.api_key or ()))
    if isinstance(args.hf_token, str):
        SECRETS.learn(args.hf_token)
    if settings.log_format != "json":
        return
    if not writes_json():
        logger.warning(
            "SOFTPROMPT_LOG_FORMAT=json changes nothing here: logging was configured by a flag or "
            "variable of vLLM's, or vLLM was started without it. The file to name is %s.",
            CONFIG,
        )
    elif args.disable_access_log_for_endpoints:
        # vLLM leaves this flag to the file, if there is one. A filter survives uvicorn's own start.
        from vllm.logging_utils import UvicornAccessLogFilter  # noqa: PLC0415 - after VLLM_PLUGINS

        paths = [path.strip() for path in args.disable_access_log_for_endpoints.split(",")]
        logging.getLogger("uvicorn.access").addFilter(UvicornAccessLogFilter(paths))


def writes_json() -> bool:
    """Whether this process logs by ``logging.json``."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.root.handlers)


def _gather(log: logging.Logger) -> None:
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for handler in list(log.handlers):
        # Exactly this class: one that is derived, or writes to a file, was somebody's wish.
        if type(handler) is logging.StreamHandler and handler.stream in streams:
            log.removeHandler(handler)
            log.propagate = True


class _AsVllm(logging.Handler):
    """Hands on to the handlers of vLLM's logger, which it replaces when it configures it again."""

    def emit(self, record: logging.LogRecord) -> None:
        """Let each of them write it, if its level says so."""
        for handler in logging.getLogger(_VLLM).handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
