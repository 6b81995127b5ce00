"""Secrets are kept out of records, wherever they stand and whoever logs."""

from __future__ import annotations

import io
import logging
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn.logging
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.settings import Settings
from softprompt_serve.telemetry.lines import Line
from softprompt_serve.telemetry.redaction import MARK, Redactor, known

TOKEN = "s3cret-token"


@pytest.fixture
def record() -> Iterator[Callable[..., logging.LogRecord]]:
    """Makes records as any logger of this process does, while a redactor watches."""
    before = logging.getLogRecordFactory()
    Redactor(TOKEN).watch()

    def make(message: Any, *args: Any, exc_info: Any = None) -> logging.LogRecord:
        return logging.getLogger("any").makeRecord("any", 20, "file", 1, message, args, exc_info)

    yield make
    logging.setLogRecordFactory(before)


def fail() -> None:
    raise ValueError(TOKEN)


def shown(record: logging.LogRecord, formatter: logging.Formatter | None = None) -> str:
    return (formatter or logging.Formatter()).format(record)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (f"with {TOKEN} in it", ()),
        ("with %s in it", (TOKEN,)),
        ("with %s in it", (ValueError(TOKEN),)),
        ("with %(a)s in it", ({"a": TOKEN},)),
        ("with %s in it, 100%%", ([TOKEN],)),
        (Line(f"with {TOKEN}", {"a": 1}), ()),
        (Line("with", {"a": TOKEN}), ()),
    ],
)
def test_a_message_loses_its_secret(
    record: Callable[..., logging.LogRecord], message: Any, arguments: tuple[Any, ...]
) -> None:
    text = shown(record(message, *arguments))
    assert TOKEN not in text
    assert MARK in text
    assert text.startswith("with ")


def test_a_line_of_fields_stays_one(record: Callable[..., logging.LogRecord]) -> None:
    found = record(Line("with", {"a": TOKEN, "b": (TOKEN,), "c": 1}))
    assert found.msg == Line("with", {"a": MARK, "b": (MARK,), "c": 1})


def test_a_traceback_loses_its_secret(record: Callable[..., logging.LogRecord]) -> None:
    try:
        fail()
    except ValueError as error:
        found = record("failed", exc_info=(ValueError, error, error.__traceback__))
    text = shown(found)
    assert TOKEN not in text
    assert text.startswith("failed\nTraceback")
    assert text.endswith(f"ValueError: {MARK}")


def test_a_message_without_one_is_left_as_it_was(record: Callable[..., logging.LogRecord]) -> None:
    found = record("%d of %s", 3, "seven")
    assert (found.msg, found.args) == ("%d of %s", (3, "seven"))


def test_arguments_stay_apart_for_formatters_that_want_them_so(
    record: Callable[..., logging.LogRecord],
) -> None:
    line = record('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", f"/x?key={TOKEN}", "1.1", 200)
    formatter = uvicorn.logging.AccessFormatter('"%(request_line)s" %(status_code)s')
    assert shown(line, formatter) == f'"GET /x?key={MARK} HTTP/1.1" 200 OK'


def test_a_record_that_can_not_be_formatted_is_left_to_its_handler(
    record: Callable[..., logging.LogRecord],
) -> None:
    assert record("%d", "no").args == ("no",)


def test_a_factory_that_stood_before_goes_on(record: Callable[..., logging.LogRecord]) -> None:
    inner = logging.getLogRecordFactory()

    def named(*args: Any, **kwargs: Any) -> logging.LogRecord:
        found = inner(*args, **kwargs)
        found.vllm_process_name = "EngineCore"
        return found

    logging.setLogRecordFactory(named)
    Redactor("another-secret").watch()
    found = record(f"{TOKEN} another-secret")
    assert found.getMessage() == f"{MARK} {MARK}"
    assert vars(found)["vllm_process_name"] == "EngineCore"


def test_watching_twice_is_watching_once() -> None:
    before = logging.getLogRecordFactory()
    try:
        redactor = Redactor()
        redactor.watch()
        once = logging.getLogRecordFactory()
        redactor.watch()
        assert logging.getLogRecordFactory() is once
        assert once is not before
    finally:
        logging.setLogRecordFactory(before)


@given(
    secret=st.text(st.characters(exclude_categories=("Cs",)), min_size=8),
    encode=st.sampled_from(
        [str, repr, urllib.parse.quote_plus, lambda text: urllib.parse.quote(text, safe="")]
    ),
)
def test_a_secret_is_found_as_it_is_and_as_it_is_written_elsewhere(
    secret: str, encode: Callable[[str], str]
) -> None:
    assert encode(secret) not in Redactor(secret)(f"a{encode(secret)}b").replace(MARK, "")


def test_the_password_of_any_address_is_kept_out() -> None:
    redact = Redactor()
    assert redact("GET https://user:pw@host/x?a=1@b") == f"GET https://user:{MARK}@host/x?a=1@b"
    assert redact("on http://127.0.0.1:8000 (Press") == "on http://127.0.0.1:8000 (Press"


def test_a_secret_that_begins_like_another_goes_whole() -> None:
    redact = Redactor("s3cret-token", "s3cret-token-of-mine")
    assert redact("s3cret-token-of-mine, s3cret-token") == f"{MARK}, {MARK}"


def test_a_short_secret_counts_where_it_stands_alone() -> None:
    redact = Redactor("pass")
    assert redact("pass=pass, passport") == f"{MARK}={MARK}, passport"


def test_what_is_too_short_to_be_told_from_other_text_is_left() -> None:
    assert Redactor("abc", "")("abc") == "abc"


def secrets_of(environ: dict[str, str] | None = None, **given: Any) -> set[str]:
    return set(known(Settings(**given), environ or {}))


def test_every_secret_setting_is_known() -> None:
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field)}
    assert {"admin_token", "feedback_token"} <= secret
    given = {name: SecretStr(f"the-secret-of-{name}") for name in secret}
    assert {f"the-secret-of-{name}" for name in secret} <= secrets_of(**given)


@pytest.mark.parametrize("password", ["plain-password", "with/slash?and#more", "p%40ss%3Aword-1"])
def test_the_databases_password_is_known_as_sqlalchemy_reads_it(password: str) -> None:
    url = f"postgresql://user:{password}@host/db"
    assert make_url(url).password in secrets_of(database_url=url)


def test_a_password_among_the_parameters_is_known() -> None:
    url = "postgresql://host/db?user=u&password=plain%2Dpassword"
    assert "plain-password" in secrets_of(database_url=url)


def test_the_headers_of_exporters_are_known() -> None:
    found = secrets_of(
        {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=abcdefgh,authorization=Basic%20QUJDRA=="}
    )
    assert {"abcdefgh", "Basic QUJDRA==", "QUJDRA=="} <= found


def test_keys_of_the_object_store_and_of_vllm_are_known() -> None:
    environ = {"AWS_SECRET_ACCESS_KEY": "aws-secret-key", "VLLM_API_KEY": "vllms-key"}
    assert {"aws-secret-key", "vllms-key"} <= secrets_of(environ)


def test_what_a_catalogue_that_is_gone_says_has_no_password() -> None:
    url = "postgresql://user:plain-password@127.0.0.1:1/db?connect_timeout=1"
    redact = Redactor(*secrets_of(database_url=url))
    with pytest.raises(SoftpromptError) as caught:
        Catalogue.open(url)
    log, before = io.StringIO(), logging.getLogRecordFactory()
    redact.watch()
    try:
        logger = logging.Logger("any")  # noqa: LOG001 - outside of the tree that pytest hears
        logger.addHandler(logging.StreamHandler(log))
        logger.error("The catalogue: %s", caught.value, exc_info=caught.value)
        logger.error("The catalogue is at %s", url)
    finally:
        logging.setLogRecordFactory(before)
    assert "Traceback" in log.getvalue()
    assert "plain-password" not in log.getvalue()
