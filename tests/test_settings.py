from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from softprompt_serve import settings_docs
from softprompt_serve.errors import BadRequest
from softprompt_serve.settings import Settings, load_settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SOFTPROMPT_")]:
        monkeypatch.delenv(name)


def refused() -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        load_settings()
    assert caught.value.code == "invalid_setting"
    return caught.value


def test_defaults_need_no_environment() -> None:
    assert load_settings().url == "http://127.0.0.1:8000"


def test_a_variable_comes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_BANK_ROWS", "512")
    assert load_settings().bank_rows == 512


def test_what_kubernetes_sets_beside_a_service_of_our_name_is_no_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOFTPROMPT_SERVE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SOFTPROMPT_SERVE_PORT", "tcp://10.0.0.1:8000")
    assert load_settings().url == "http://127.0.0.1:8000"


def test_a_limit_can_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_SHADOW_BUSY_REQUESTS", "none")
    assert load_settings().shadow_busy_requests is None


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_BANKROWS", "512")
    error = refused()
    assert error.param == "SOFTPROMPT_BANKROWS"
    assert "SOFTPROMPT_BANK_ROWS" in error.message  # what it may have been meant to be


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOFTPROMPT_BANK_ROWS", "many"),
        ("SOFTPROMPT_BANK_ROWS", "0"),
        ("SOFTPROMPT_POLL_SECONDS", "-1"),
        ("SOFTPROMPT_POLL_SECONDS", "nan"),
        ("SOFTPROMPT_DRAIN_SECONDS", "0"),
        ("SOFTPROMPT_LIST_VERSIONS", "perhaps"),
        ("SOFTPROMPT_CONTROLLER_LEASE_SECONDS", "0.5"),
        ("SOFTPROMPT_PRICE_OUTPUT", "-1"),
        ("SOFTPROMPT_PRICE_OUTPUT", "inf"),
        ("SOFTPROMPT_ADMIN_TOKEN", "short"),
        ("SOFTPROMPT_URL", "127.0.0.1:8000"),
        ("SOFTPROMPT_DATABASE_URL", "mysql://somewhere"),
        ("SOFTPROMPT_BLOB_URL", "gs://bucket"),
        ("SOFTPROMPT_BLOB_URL", "s3://key:secret@bucket/prefix"),
        ("SOFTPROMPT_BLOB_URL", "file://relative"),
        ("SOFTPROMPT_REPLICA_TTL_SECONDS", "1"),
    ],
)
def test_a_bad_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    error = refused()
    assert error.param == name
    assert name in error.message


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_BANK_ROWS", "0")
    monkeypatch.setenv("SOFTPROMPT_URL", "nowhere")
    message = refused().message
    assert "SOFTPROMPT_BANK_ROWS" in message
    assert "SOFTPROMPT_URL" in message


def test_the_admin_token_is_not_shown_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", "very-secret-token")
    assert "very-secret-token" not in repr(load_settings())


def test_a_bad_admin_token_is_not_repeated_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", "s3cr3t")
    assert "s3cr3t" not in refused().message


def test_a_bad_url_is_not_repeated_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_DATABASE_URL", "mysql://me:s3cr3t@host/db")
    error = refused()
    assert "s3cr3t" not in f"{error} {error.__cause__}"


def test_a_database_url_is_not_shown_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_DATABASE_URL", "postgresql://me:s3cr3t@host/db")
    assert "s3cr3t" not in repr(load_settings())


def test_a_heartbeat_slower_than_the_default_lifetime_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOFTPROMPT_HEARTBEAT_SECONDS", "5")
    assert refused().param == "SOFTPROMPT_REPLICA_TTL_SECONDS"


def test_home_is_absolute_and_without_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    assert load_settings().home_dir == Path("/somebody/.softprompt")


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_docs.render()


def test_the_page_has_every_setting_with_a_meaning() -> None:
    lines = settings_docs.render().splitlines()
    rows = [line for line in lines if line.startswith("| `SOFTPROMPT_")]
    assert len(rows) == len(Settings.model_fields)
    assert not [row for row in rows if row.endswith("|  |")]


def test_check_fails_on_a_page_that_is_out_of_date(tmp_path: Path) -> None:
    page = tmp_path / "settings.md"
    page.write_text("old")
    assert CliRunner().invoke(_typer(), [str(page), "--check"]).exit_code == 1
    assert page.read_text() == "old"


def test_without_check_the_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "settings.md"
    assert CliRunner().invoke(_typer(), [str(page)]).exit_code == 0
    assert CliRunner().invoke(_typer(), [str(page), "--check"]).exit_code == 0


def _typer() -> typer.Typer:
    app = typer.Typer()
    app.command()(settings_docs.main)
    return app
