"""`report` against the real admin API: policy, evidence and audit are what a server has."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from runs import EVALUATOR, run_id, scored

from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.testing import ADMIN_TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli

ITEMS = 80
POLICY = {
    "baseline": "v1",
    "win": [{"evaluator": EVALUATOR, "dataset": "tickets"}],
    "cohorts": {"protected": ["regulated"]},
    "same_base": False,
}


@pytest.fixture
def support(cli: Cli) -> Cli:
    """`support` with a text and a tensor that beats it, and a policy."""
    record = cli.folder / "record.json"
    record.write_text(json.dumps({"method": "prompt_tuning", "notes": "<b>by hand</b>"}))
    cli("import", "-p", "support", "--text", "Be brief.")
    cli("import", cli.tensor(), "-p", "support", "--record", str(record), "--alias", "candidate")
    with httpx.Client(headers={"authorization": f"Bearer {ADMIN_TOKEN}"}) as admin:
        url = f"{cli.url}/softprompts/v1/prompts/support"
        admin.put(f"{url}/policy", json=POLICY).raise_for_status()
        versions = admin.get(url).json()["versions"]
        digests = {version["version"]: version["digest"] for version in versions}
        passed = {
            "v1": [number % 2 == 0 for number in range(ITEMS)],
            "v2": [number % 10 != 0 for number in range(ITEMS)],
        }
        for number in range(5):
            run = scored(digests, passed, id=run_id(number), at=time.time() - number * 60)
            admin.post(f"{url}/runs", content=to_document(run)).raise_for_status()
    return cli


def test_both_pages_are_written_and_named_by_the_version(support: Cli, tmp_path: Path) -> None:
    shown = support("report", "support@candidate", "-o", str(tmp_path / "out" / "here")).stdout
    written = sorted((tmp_path / "out" / "here").iterdir())
    assert [path.name for path in written] == ["support@v2.html", "support@v2.md"]
    assert [line for line in shown.splitlines() if line] == [str(path) for path in written]


def test_the_report_says_what_the_server_says(support: Cli, tmp_path: Path) -> None:
    support("report", "support@v2", "-o", str(tmp_path), "--format", "md")
    page = (tmp_path / "support@v2.md").read_text()
    assert "May be promoted: all 3 gates passed" in page
    assert f"| all items | {ITEMS} | 50.0 % | 90.0 % | +40.0 |" in page
    assert "regulated (protected)" in page
    assert "| v1 (baseline) | hard | 50.0 % |" in page
    assert "version.imported v2" in page
    assert "\\<b\\>by hand" not in page  # notes are a block of code, where nothing is markup
    assert "    <b>by hand</b>" in page


def test_a_version_without_evidence_may_not_be_promoted(support: Cli, tmp_path: Path) -> None:
    support("import", support.tensor(fill=0.25), "-p", "support")
    support("report", "support@v3", "-o", str(tmp_path))
    page = (tmp_path / "support@v3.html").read_text()
    assert "May not be promoted" in page
    assert "No evidence" in page


def test_a_hard_version_is_asked_nothing(support: Cli, tmp_path: Path) -> None:
    support("report", "support@v1", "-o", str(tmp_path), "--format", "md")
    page = (tmp_path / "support@v1.md").read_text()
    assert "no gate is asked of a hard version" in page
    assert "    Be brief." in page


def test_reporting_changes_nothing(support: Cli, tmp_path: Path) -> None:
    before = support.json("audit")
    support("report", "support@v2", "-o", str(tmp_path))
    assert support.json("audit") == before


def test_an_unknown_version_is_an_error_and_writes_nothing(support: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    failed = support("report", "support@v9", "-o", str(folder), fails=1)
    assert "version_not_found" in failed.stderr
    assert not folder.exists()


@pytest.mark.parametrize("formats", ["pdf", "html,pdf", "", ","])
def test_an_unknown_format_is_an_error(support: Cli, tmp_path: Path, formats: str) -> None:
    arguments = ("report", "support@v2", "-o", str(tmp_path), "--format", formats)
    assert "invalid_format" in support(*arguments, fails=1).stderr
    assert not list(tmp_path.glob("*.html"))


def test_a_place_that_can_not_be_written_is_an_error(support: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed = support("report", "support@v2", "-o", str(tmp_path / "file"), fails=1)
    assert "report_not_written" in failed.stderr
