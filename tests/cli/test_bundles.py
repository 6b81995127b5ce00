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


def moved(cli: Cli, other: str, *versions: str) -> list[dict[str, Any]]:
    for version in versions:
        cli("export", f"support@{version}")
    files = [filename("support", version) for version in versions]
    return cli.json("import-bundle", *files, "--url", other)["data"]


def made(cli: Cli, text: str = "Be brief.", version: str = "v9", **parts: Any) -> str:
    """A bundle that no server exported."""
    bundle = Bundle(
        prompt="support",
        version=version,
        content=Content("hard", text=text),
        record=parse_record(parts.pop("record", {})),
        base=BaseModelIdentity(),
        **parts,
    )
    path = cli.folder / f"{version}.spb"
    path.write_bytes(pack(bundle))
    return str(path)


def pair(folder: Path) -> tuple[str, str]:
    """Files with a private and a public key."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return str(private), str(public)


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
    source("export", f"support@{version}", "--url", other, "-o", "back.spb")
    assert Path("back.spb").read_bytes() == Path(f"support-{version}.spb").read_bytes()
    assert set(unpack(Path("back.spb").read_bytes()).runs) == {run_id(1), run_id(2)}


def test_evaluations_are_taken_where_all_versions_are_that_they_compare(
    source: Cli, other: str
) -> None:
    (alone,) = moved(source, other, "v4")
    assert set(alone["evaluations"]["left_out"]) == {run_id(1), run_id(2)}
    assert "version_not_found" in alone["evaluations"]["left_out"][run_id(1)]
    first, second = moved(source, other, "v1", "v4")
    assert sorted(first["evaluations"]["imported"]) == [run_id(1), run_id(2)]
    assert sorted(second["evaluations"]["known"]) == [run_id(1), run_id(2)]
    assert (first["created"], second["created"]) == (True, False)


def test_an_evaluation_of_other_content_under_that_name_is_refused(source: Cli, other: str) -> None:
    source("export", "support@v4")
    source("import", "-p", "support", "--text", "Other.", "--version", "v1", "--url", other)
    shown = source("import-bundle", "support-v4.spb", "--url", other, fails=1).stdout
    assert f"left out: {run_id(1)}" in shown
    assert "digest_mismatch" in shown


def test_a_server_that_takes_no_evaluations_gets_the_version_alone(source: Cli) -> None:
    older = app_for_tests(service_for_tests(source.folder / "older"))
    older.router.routes = [
        route for route in older.router.routes if not getattr(route, "path", "").endswith("/runs")
    ]
    with serving(older) as url:
        (found,) = moved(source, url, "v4")
    assert set(found["evaluations"]["left_out"].values()) == {"This server takes no evaluations."}
    assert found["version"]["state"] == "resident"


def test_an_export_may_leave_evaluations_out(source: Cli) -> None:
    source("export", "support@v4", "--no-evaluations")
    assert not unpack(Path("support-v4.spb").read_bytes()).runs


def test_an_alias_is_exported_as_the_version_that_it_stands_for(source: Cli) -> None:
    source("alias", "support", "candidate", "v4")
    assert "support@v4 written to support-v4.spb" in source("export", "support@candidate").stdout


def test_an_export_says_the_files_hash_and_writes_a_plain_file(source: Cli) -> None:
    answer = source.json("export", "support@v4", "-o", "a.spb")
    assert answer["sha256"] == hashlib.sha256(Path("a.spb").read_bytes()).hexdigest()
    assert (answer["file"], answer["signed_by"]) == ("a.spb", None)
    assert not Path("a.spb").stat().st_mode & 0o111
    assert [path.name for path in source.folder.glob("*a.spb*")] == ["a.spb"]


def test_an_export_to_where_nothing_can_be_written_leaves_nothing_behind(source: Cli) -> None:
    failed = source("export", "support@v4", "-o", "nowhere/a.spb", fails=1)
    assert "can't be written" in failed.stderr


def test_an_export_of_a_version_that_is_not_there_is_the_servers_error(source: Cli) -> None:
    assert "version_not_found" in source("export", "support@v7", fails=1).stderr
    assert not list(source.folder.glob("*.spb"))


def test_a_bundle_may_be_imported_under_another_prompt_without_its_evaluations(
    source: Cli, other: str
) -> None:
    source("export", "support@v4")
    shown = source("import-bundle", "support-v4.spb", "-p", "desk", "--url", other).stdout
    assert "desk@v4 imported" in shown
    assert "It is about the prompt support." in shown
    assert source.json("show", "desk@v4", "--url", other)["digest"] in shown


def test_a_tampered_bundle_is_refused_before_any_call(source: Cli, other: str) -> None:
    source("export", "support@v4")
    data = bytearray(Path("support-v4.spb").read_bytes())
    data[data.index(b"AdamW")] ^= 1
    Path("support-v4.spb").write_bytes(data)
    failed = source("import-bundle", "support-v4.spb", "--url", other, fails=1)
    assert "support-v4.spb: This is no sound bundle" in failed.stderr
    assert source.json("list", "--url", other)["data"] == []


def test_one_bad_file_keeps_all_of_them_out(source: Cli, other: str) -> None:
    source("export", "support@v1")
    Path("bad.spb").write_text("x")
    source("import-bundle", "support-v1.spb", "bad.spb", "--url", other, fails=1)
    assert source.json("list", "--url", other)["data"] == []


def test_other_content_under_that_name_is_refused(source: Cli, other: str) -> None:
    source("export", "support@v4")
    source("import", "-p", "support", "--text", "Other.", "--version", "v4", "--url", other)
    failed = source("import-bundle", "support-v4.spb", "--url", other, fails=1)
    assert "version_exists" in failed.stderr


def test_another_record_of_the_same_content_is_refused_by_field(cli: Cli) -> None:
    cli("import-bundle", made(cli, record={"seed": 1, "dataset": "tickets"}))
    failed = cli("import-bundle", made(cli, record={"seed": 2, "dataset": "tickets"}), fails=1)
    assert "They differ in: seed." in failed.stderr
    assert "record_differs" in failed.stderr
    assert cli.json("show", "support@v9")["record"]["seed"] == 1


def test_a_version_for_another_base_model_stays_out(cli: Cli) -> None:
    path = made(cli, record={"base_model": "acme/other"})
    assert "base_model_mismatch" in cli("import-bundle", path, fails=1).stderr


def test_a_signed_bundle_is_verified_with_the_public_key(source: Cli, other: str) -> None:
    private, public = pair(source.folder)
    source("export", "support@v1", "--sign", private)
    shown = source("import-bundle", "support-v1.spb", "--verify", public, "--url", other).stdout
    assert "(verified)" in shown


def test_a_signature_that_nobody_verified_is_shown_as_such(source: Cli, other: str) -> None:
    private, _ = pair(source.folder)
    source("export", "support@v1", "--sign", private)
    shown = source("import-bundle", "support-v1.spb", "--url", other).stdout
    assert "not verified: no key was given" in shown


@pytest.mark.parametrize("signed", [True, False])
def test_a_bundle_of_another_signer_or_none_stays_out(
    source: Cli, other: str, signed: bool
) -> None:
    private, _ = pair(source.folder)
    source("export", "support@v1", *(("--sign", private) if signed else ()))
    _, public = pair(source.folder)
    failed = source(
        *("import-bundle", "support-v1.spb", "--verify", public, "--url", other), fails=1
    )
    assert ("bundle_signature" if signed else "bundle_not_signed") in failed.stderr
    assert source.json("list", "--url", other)["data"] == []


def test_a_file_that_is_not_there_is_named(cli: Cli) -> None:
    assert "nowhere.spb can't be read" in cli("import-bundle", "nowhere.spb", fails=1).stderr


def test_any_reader_of_zip_and_json_can_read_a_bundle(source: Cli) -> None:
    source("export", "support@v4")
    with zipfile.ZipFile("support-v4.spb") as archive:
        assert json.loads(archive.read("record.json"))["trained_from"] == "support@v2"
        run = json.loads(archive.read(f"evaluations/{run_id(1)}.json"))
    assert {score["version"] for score in run["scores"]} == {"v1", "v4"}
