"""Records as JSON: one line each, in a fixed order, whatever was logged."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.telemetry.lines import Line
from softprompt_serve.telemetry.logs import JsonLines
from softprompt_serve.telemetry.redaction import MARK, Redactor


class Log:
    """A real logger with a real handler, and what was written."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(formatter)
        # Outside of the tree of loggers, at which pytest listens, too.
        self.logger = logging.Logger("softprompt_serve.tested", logging.INFO)  # noqa: LOG001
        self.logger.addHandler(self.handler)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def only(self) -> dict[str, Any]:
        """The one line, parsed as strictly as JSON is defined."""
        line, rest = self.text.split("\n", 1)
        assert rest == ""
        assert line.isascii()
        found = json.loads(line, parse_constant=refuse)
        assert isinstance(found, dict)
        json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair
        return found


def refuse(constant: str) -> None:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


@pytest.fixture
def log() -> Log:
    return Log(JsonLines(redact=Redactor()))


def fail(message: str) -> None:
    raise ValueError(message)


def within(fields: dict[str, Any], redact: Callable[[str], str] = str) -> Log:
    return Log(JsonLines(context=lambda: fields, redact=redact))


HEAD = ["timestamp", "level", "logger", "message", "process", "pid"]


def test_a_line_says_when_how_grave_who_and_what_in_this_order(log: Log) -> None:
    log.logger.warning("%d of %s", 3, "seven")
    found = log.only()
    assert list(found) == HEAD
    assert found["level"] == "WARNING"
    assert found["logger"] == "softprompt_serve.tested"
    assert found["message"] == "3 of seven"


def test_time_is_utc_to_the_millisecond(log: Log) -> None:
    record = logging.makeLogRecord({"created": 1764028800.0426, "msg": "now"})
    log.handler.handle(record)
    assert log.only()["timestamp"] == "2025-11-25T00:00:00.042Z"
    parsed = datetime.fromisoformat(log.only()["timestamp"])
    assert parsed.tzinfo is UTC


def test_a_process_goes_by_the_name_that_vllm_gave_it(log: Log) -> None:
    log.logger.info("here", extra={"vllm_process_name": "EngineCore"})
    assert log.only()["process"] == "EngineCore"


def test_a_line_within_a_request_has_its_fields_after_the_head_in_their_order() -> None:
    log = within({"version": "v2", "prompt": "support", "request_id": "chatcmpl-1", "arm": None})
    log.logger.info("loading")
    found = log.only()
    assert list(found) == [*HEAD, "request_id", "prompt", "version"]
    assert (found["request_id"], found["prompt"], found["version"]) == (
        "chatcmpl-1",
        "support",
        "v2",
    )


def test_what_a_line_says_of_itself_counts_more_than_the_request_around_it() -> None:
    log = within({"prompt": "support", "version": "v2"})
    log.logger.info(Line("told", {"tokens": 3, "version": "v3"}))
    found = log.only()
    assert found["message"] == "told"
    assert list(found) == [*HEAD, "prompt", "version", "tokens"]
    assert (found["prompt"], found["version"], found["tokens"]) == ("support", "v3", 3)


def test_a_list_of_words_stays_one(log: Log) -> None:
    log.logger.info(Line("told", {"finish_reasons": ("stop", "length")}))
    assert log.only()["finish_reasons"] == ["stop", "length"]


def test_what_has_no_value_is_left_out(log: Log) -> None:
    log.logger.info(Line("told", {"a": None, "b": math.nan, "c": math.inf, "d": 0}))
    assert list(log.only()) == [*HEAD, "d"]


def test_a_traceback_is_one_field(log: Log) -> None:
    try:
        fail("this\nand that")
    except ValueError:
        log.logger.exception("failed")
    found = log.only()
    assert found["message"] == "failed"
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: this\nand that")


def test_a_stack_is_one_field(log: Log) -> None:
    log.logger.info("here", stack_info=True)
    assert "test_a_stack_is_one_field" in log.only()["stack"]


def test_what_others_attach_to_their_records_is_not_written(log: Log) -> None:
    log.logger.info("started", extra={"color_message": "\x1b[1mstarted", "body": "Dear shop"})
    assert list(log.only()) == HEAD


def test_a_message_that_is_a_mapping_is_text(log: Log) -> None:
    log.logger.info({"a": 1})
    assert log.only()["message"] == "{'a': 1}"


def test_arguments_that_do_not_fit_are_no_reason_to_fail(log: Log) -> None:
    log.logger.info("%d apples", "no")
    assert log.only()["message"] == "%d apples (its arguments can't be formatted: TypeError)"


def test_half_of_a_surrogate_pair_is_replaced_and_a_whole_one_is_not(log: Log) -> None:
    log.logger.info("half \ud83d, whole \U0001f600")
    assert log.only()["message"] == "half \ufffd, whole \U0001f600"


def test_a_secret_is_not_written_in_any_field() -> None:
    log = within({"request_id": "chatcmpl-s3cret-token"}, Redactor("s3cret-token"))
    try:
        fail("s3cret-token")
    except ValueError:
        log.logger.exception(
            Line("with s3cret-token", {"a": "s3cret-token", "b": ("s3cret-token",)})
        )
    found = log.only()
    assert "s3cret" not in log.text
    assert found["request_id"] == f"chatcmpl-{MARK}"
    assert (found["message"], found["a"], found["b"]) == (f"with {MARK}", MARK, [MARK])
    assert found["exception"].endswith(f"ValueError: {MARK}")


def test_a_level_that_is_off_asks_for_nothing() -> None:
    asked: list[str] = []

    class Costly:
        def __str__(self) -> str:
            asked.append("text")
            return "costly"

    log = Log(JsonLines(context=lambda: {"a": asked.append("context")}, redact=str))
    log.logger.debug("%s", Costly())
    assert (asked, log.text) == ([], "")


class Refusing:
    """An object that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


# `st.text` has no halves of surrogate pairs, Python's strings may.
TEXTS = st.lists(
    st.one_of(st.characters(), st.sampled_from(["\ud83d", "\ude00", "\u2028", "\r", "\n", "\x00"]))
).map("".join)
VALUES = st.one_of(
    TEXTS,
    st.integers(),
    st.sampled_from([10**5000, math.nan, -math.inf, None, {}, b"\xff", object()]),
    st.builds(Refusing),
    st.dictionaries(TEXTS, st.floats()),
)


@given(
    message=st.one_of(TEXTS, VALUES, st.sampled_from(["%s", "%d", "%s %s", "%(a)s", "100%"])),
    arguments=st.lists(VALUES, max_size=2),
    fields=st.dictionaries(
        st.sampled_from(["prompt", "tokens"]),
        st.one_of(TEXTS, st.integers(), st.floats(), st.none()),
    ),
    level=st.sampled_from([logging.INFO, logging.CRITICAL, 77]),
)
def test_whatever_is_logged_is_one_line(
    message: Any, arguments: list[Any], fields: dict[str, Any], level: int
) -> None:
    log = within(fields, Redactor("s3cret-token"))
    errors, sys.stderr = sys.stderr, io.StringIO()  # where logging complains of a handler
    try:
        log.logger.log(level, message, *arguments, extra={"attached": arguments})
        complaint = sys.stderr.getvalue()
    finally:
        sys.stderr = errors
    assert complaint == ""
    assert set(HEAD) <= log.only().keys()


@given(fields=st.dictionaries(st.sampled_from("abc"), st.one_of(TEXTS, st.floats())))
def test_fields_are_one_line_of_text_whatever_they_hold(fields: dict[str, Any]) -> None:
    text = str(Line("told", fields))
    assert text.splitlines() == [text]
    assert text.isascii()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("support", "a=support"),
        ("two words", 'a="two words"'),
        ('a"b', 'a="a\\"b"'),
        ("x=y", 'a="x=y"'),
        ("one\ntwo", 'a="one\\ntwo"'),
        ("", 'a=""'),
        (("stop", "length"), "a=stop,length"),
        (0.25, "a=0.25"),
        (7, "a=7"),
    ],
)
def test_as_text_a_field_is_key_and_value(value: Any, text: str) -> None:
    assert str(Line("told", {"a": value})) == f"told {text}"


def test_a_text_formatter_writes_a_line_of_fields_as_it_does_any_other() -> None:
    log = Log(logging.Formatter("%(levelname)s %(message)s"))
    log.logger.info(Line("request ended", {"prompt": "support", "status": 200, "error": None}))
    assert log.text == "INFO request ended prompt=support status=200\n"
