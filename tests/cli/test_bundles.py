"""Versions that move from one server to another, over HTTP; only the engines' workers are fake."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from runs import run_id, scored

from softprompt_serve.artifact import Content
from softprompt_serve.release.bundle import Bundle, filename, pack, unpack
from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.release.records import BaseModelIdentity, parse_record
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    BASE_MODEL,
    app_for_tests,
    service_for_tests,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Cli

RECORD = {
    "dataset": "tickets",
    "dataset_sha256": "d" * 64,
    "base_model": BASE_MODEL,
    "optimizer": {"name": "AdamW", "lr": 0.3, "schedule": None},
    "seed": 7,
    "training_curve": [{"step": 0, "loss": 4}, {"step": 50, "loss": 0.5, "eval_loss": 0.75}],
    "trained_from": "support@v2",
    "metrics": {"accuracy": 1},
    "notes": "für den Support — größer\r\nals v3",
}
TEXT = "Antworte kurz.\r\nSonst nichts: ü, 漢, 🙂.\n"


@pytest.fixture
def other(tmp_path: Path, clean_environment: None) -> Iterator[str]:
    """A second server, with a home of its own."""
    with serving(app_for_tests(service_for_tests(tmp_path / "other"))) as url:
        yield url


@pytest.fixture
def source(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The first server, with a hard v1, a mixed v4, a record and two runs of both."""
    monkeypatch.chdir(cli.folder)
    record, text = cli.folder / "record.json", cli.folder / "v1.txt"
    record.write_text(json.dumps(RECORD))
    text.write_text("Sort the ticket.")
    v1 = cli.json("import", str(text), "-p", "support", "--version", "v1")
    v4 = cli.json(
        *("import", cli.tensor(rows=5), "-p", "support", "--version", "v4"),
        *("--text", TEXT, "--record", str(record)),
    )
    digests = {"v4": v4["digest"], "v1": v1["digest"]}
    for number in (1, 2):
        add_run(cli.url, to_document(scored(digests, id=run_id(number))))
    return cli


def add_run(url: str, document: bytes) -> None:
    answer = httpx.post(
        f"{url}/softprompts/v1/prompts/support/runs",
        content=document,
        headers={"authorization": f"Bearer {ADMIN_TOKEN}", "content-type": "application/json"},
    )
    assert answer.status_code == 201, answer.text


def moved(cli: Cli, other: str, *versions: str) -> list[Any]:
    for version in versions:
        cli("export", f"support@{version}")
    return [
        cli.json("import-bundle", filename("support", version), "--url", other)
        for version in versions
    ]


def test_a_version_moves_unchanged(source: Cli, other: str) -> None:
    moved(source, other, "v1", "v4")
    here = source.json("show", "support@v4")
    there = source.json("show", "support@v4", "--url", other)
    for name in ("digest", "kind", "text", "dtype", "virtual_tokens", "hidden_size", "record"):
        assert there[name] == here[name], name
    assert there["text"] == TEXT
    assert there["record"]["notes"] == RECORD["notes"]
    assert there["state"] == "resident"


@pytest.mark.parametrize("version", ["v1", "v4"])
def test_exported_from_where_it_came_to_it_is_the_same_bytes(
    source: Cli, other: str, version: str
) -> None:
    moved(source, other, "v1", "v4")
    moved(source, other, "v1")  # now that v4 is there, so that the runs of both can be taken
    source("export", f"support@{version}", "--url", other, "-o", "back.spb")
    assert Path("back.spb").read_bytes() == Path(f"support-{version}.spb").read_bytes()


def test_evaluations_move_with_the_last_version_that_they_compare(source: Cli, other: str) -> None:
    source("export", "support@v1")
    source("export", "support@v4")
    alone = source("import-bundle", "support-v1.spb", "--url", other, "--json", fails=1)
    left_out = json.loads(alone.stdout)["evaluations"]["left_out"]
    assert set(left_out) == {run_id(1), run_id(2)}
    assert "version_not_found" in left_out[run_id(1)]
    both = source.json("import-bundle", "support-v4.spb", "--url", other)
    assert sorted(both["evaluations"]["imported"]) == [run_id(1), run_id(2)]
    again = source.json("import-bundle", "support-v1.spb", "--url", other)
    assert again["evaluations"] == {
        "imported": [],
        "known": [run_id(1), run_id(2)],
        "left_out": {},
    }
    assert again["created"] is False
