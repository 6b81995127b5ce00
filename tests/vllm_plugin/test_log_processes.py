"""What really comes out of a server's processes, as text and as JSON; and who decides."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import log_process
import pytest

from softprompt_serve.settings import Settings
from softprompt_serve.telemetry.redaction import SECRETS
from softprompt_serve.vllm_plugin import logs

PROCESS = Path(log_process.__file__)


@dataclass
class Written:
    """What a process has written."""

    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def where(self, **fields: Any) -> list[dict[str, Any]]:
        return [line for line in self.lines if fields.items() <= line.items()]

    def only(self, **fields: Any) -> dict[str, Any]:
        (found,) = self.where(**fields)
        return found


def run(home: Path, *flags: str, **variables: str) -> Written:
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SOFTPROMPT_", "VLLM_"))},
        "PYTHONPATH": str(PROCESS.parent),
        "SOFTPROMPT_HOME": str(home),
        "SOFTPROMPT_ADMIN_TOKEN": log_process.TOKEN,
        **variables,
    }
    done = subprocess.run(
        [sys.executable, str(PROCESS), "MODEL", *flags],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return Written(done.stdout, done.stderr)


@pytest.fixture(scope="module")
def as_json(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return run(
        tmp_path_factory.mktemp("json"),
        *("--log-level", "DEBUG", "--disable-access-log-for-endpoints", "/health,/v1/nothing"),
        SOFTPROMPT_LOG_FORMAT="json",
    )


@pytest.fixture(scope="module")
def as_text(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return run(tmp_path_factory.mktemp("text"))


def test_every_line_of_every_process_is_json(as_json: Written) -> None:
    assert {line["process"] for line in as_json.lines} == {"MainProcess", "EngineCore"}
    heads = {tuple(line)[:6] for line in as_json.lines}
    assert heads == {("timestamp", "level", "logger", "message", "process", "pid")}


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ("softprompt_serve.somewhere", "ours at info"),
        ("vllm.somewhere", "vLLM's at info,\nin two lines"),
        ("torch", "torch's warning"),
        ("transformers", "a warning of transformers"),
        ("third.party", "somebody's warning"),
        ("softprompt_serve.somewhere", "ours in the engine"),
        ("vllm.somewhere", "vLLM's in the engine"),
    ],
)
def test_whoever_logs_is_written_once(as_json: Written, logger: str, message: str) -> None:
    assert as_json.only(message=message)["logger"] == logger
    assert message not in as_json.err


def test_warnings_of_python_are_lines(as_json: Written) -> None:
    assert "Python's warning" in as_json.only(logger="py.warnings")["message"]


def test_uvicorn_writes_json_too(as_json: Written) -> None:
    assert as_json.where(logger="uvicorn.error", message="Shutting down")


def test_a_level_given_by_flag_holds_beside_the_file(as_json: Written) -> None:
    assert as_json.only(message="ours at debug")["level"] == "DEBUG"


def test_info_of_libraries_stays_out_as_it_does_without_us(as_json: Written) -> None:
    assert not as_json.where(message="somebody's info")


def test_a_failure_is_one_line_with_its_traceback(as_json: Written) -> None:
    found = as_json.only(message="vLLM's failure")
    assert found["exception"].endswith("RuntimeError: [redacted]")


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_requests_in_flight_at_once_have_their_own_fields(as_json: Written, version: str) -> None:
    ours = {"prompt": "support", "version": version, "request_id": f"chatcmpl-{version}"}
    assert as_json.only(message=f"within {version}").items() >= ours.items()
    assert as_json.only(message="request ended", version=version).items() >= ours.items()
    (access,) = (line for line in as_json.where(logger="uvicorn.access", version=version))
    assert access.items() >= ours.items()
    assert f'"GET /v1/{version} HTTP/1.1" 200' in access["message"]


def test_a_request_for_no_prompt_names_none(as_json: Written) -> None:
    assert "prompt" not in as_json.only(message="within nothing")


def test_an_endpoint_whose_access_is_not_to_be_logged_is_not(as_json: Written) -> None:
    assert "/v1/nothing" not in as_json.out


def test_as_text_our_lines_stand_where_vllms_do(as_text: Written) -> None:
    lines = as_text.out.splitlines()
    (ours,) = (line for line in lines if line.endswith("] ours at info"))
    (vllms,) = (line for line in lines if line.endswith("] vLLM's at info,"))
    assert ours.split("[")[0] == vllms.split("[")[0]
    assert "ours at info" not in as_text.err


def test_as_text_our_lines_of_the_engine_say_so(as_text: Written) -> None:
    (line,) = (line for line in as_text.out.splitlines() if line.endswith("ours in the engine"))
    assert line.startswith("(EngineCore pid=")


def test_as_text_our_level_is_vllms(as_text: Written) -> None:
    assert "ours at debug" not in as_text.out + as_text.err


def test_as_text_a_request_is_one_line_of_keys_and_values(as_text: Written) -> None:
    (line,) = (line for line in as_text.out.splitlines() if "request_id=chatcmpl-v3" in line)
    assert "] request ended request_id=chatcmpl-v3 prompt=support version=v3 arm=v3 " in line


@pytest.mark.parametrize("form", ["as_text", "as_json"])
def test_a_secret_is_in_no_line(form: str, request: pytest.FixtureRequest) -> None:
    written: Written = request.getfixturevalue(form)
    assert log_process.TOKEN not in written.out + written.err
    assert "the token is [redacted]" in written.out


JSON = Settings(log_format="json")
FILE = {"VLLM_LOGGING_CONFIG_PATH": str(logs.CONFIG)}


def test_the_file_is_named_to_vllm_only_if_it_is_wanted() -> None:
    assert logs.logging_environment(Settings(), ["M"], {}) == {}
    assert logs.logging_environment(JSON, ["M", "--port", "1"], {}) == FILE


@pytest.mark.parametrize(
    "flags",
    [
        ["--log-level", "DEBUG"],
        ["--log-level=DEBUG"],
        ["--log_level=DEBUG"],
        ["--logging-config.log_level", "DEBUG"],
    ],
)
def test_a_level_given_by_flag_becomes_the_variable_that_the_file_asks(flags: list[str]) -> None:
    given = logs.logging_environment(JSON, ["M", *flags], {})
    assert given == {**FILE, "VLLM_LOGGING_LEVEL": "DEBUG"}


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        (["--log-config-file", "mine.json"], {}),
        (["--log_config_file=mine.json"], {}),
        (["--logging-config.formatter", "json"], {}),
        (["--logging-config", "{}"], {}),
        ([], {"VLLM_LOGGING_CONFIG_PATH": "mine.json"}),
        ([], {"VLLM_CONFIGURE_LOGGING": "0"}),
    ],
)
def test_what_somebody_configured_himself_wins(flags: list[str], environ: dict[str, str]) -> None:
    assert logs.logging_environment(JSON, ["M", *flags], environ) == {}


ARGUMENTS = Namespace(api_key=None, hf_token=None, disable_access_log_for_endpoints=None)


def test_a_format_that_gives_way_is_said(caplog: pytest.LogCaptureFixture) -> None:
    logs.attend(JSON, ARGUMENTS)
    (record,) = caplog.records
    assert str(logs.CONFIG) in record.getMessage()


def test_text_gives_way_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    logs.attend(Settings(), ARGUMENTS)
    assert caplog.records == []


def test_vllms_own_keys_are_secrets_too() -> None:
    given = {"api_key": ["a-key-of-vllms"], "hf_token": "a-token-of-the-hub"}
    logs.attend(Settings(), Namespace(**{**vars(ARGUMENTS), **given}))
    assert SECRETS("a-key-of-vllms, a-token-of-the-hub") == "[redacted], [redacted]"


def test_a_logger_of_ours_that_has_a_handler_gets_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, mine = logging.getLogger("softprompt_serve"), logging.NullHandler()
    monkeypatch.setattr(ours, "handlers", [mine])
    monkeypatch.setattr(logging.getLogger("vllm"), "handlers", [logging.NullHandler()])
    logs.settle()
    assert ours.handlers == [mine]
