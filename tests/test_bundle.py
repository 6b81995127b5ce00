"""Bundles: the same version is the same bytes, and what was changed in any of them is refused."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import scored
from safetensors.torch import save

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest, Conflict
from softprompt_serve.release.bundle import Bundle, evaluation, filename, pack, unpack
from softprompt_serve.release.manifest import Manifest, Member, parse_manifest
from softprompt_serve.release.members import join, split
from softprompt_serve.release.records import BaseModelIdentity, parse_record

RUN = "ab" * 16
TENSOR = torch.arange(24, dtype=torch.float32).reshape(3, 8)
SOFT = Content(
    "soft", text="Be brief.\r\n", dtype="float32", shape=(3, 8), data=TENSOR.numpy().tobytes()
)
PREFIX = Content("prefix", dtype="float32", shape=(2, 2, 3, 1, 2), data=TENSOR.numpy().tobytes())
HARD = Content("hard", text="Antworte in einem Satz: ü.\n")
RECORD = parse_record({"dataset": "tickets", "seed": 7, "metrics": {"accuracy": 1}})
BASE = BaseModelIdentity(name="acme/small", fingerprint="f1")


def run(content: Content = SOFT, **about: Any) -> bytes:
    return evaluation(scored({"v1": "0" * 64, "v4": content.digest}, **{"id": RUN, **about}))


def bundle(content: Content = SOFT, **changes: Any) -> Bundle:
    made = Bundle("support", "v4", content, RECORD, BASE, {RUN: run(content)})
    return replace(made, **changes)


MADE = pack(bundle())


def refused(data: bytes) -> str:
    with pytest.raises(BadRequest) as error:
        unpack(data)
    assert error.value.code == "invalid_bundle"
    return error.value.message


def changed(name: str, data: bytes | None, *, stated: bool = True) -> bytes:
    """The bundle with another member (or without it), and a manifest that says so or doesn't."""
    members = split(MADE)
    if data is None:
        members.pop(name)
    else:
        members[name] = data
    if stated:
        counted = {n: Member.of(d) for n, d in members.items() if n != "manifest.json"}
        manifest = parse_manifest(members["manifest.json"]).model_copy(update={"members": counted})
        members["manifest.json"] = manifest.to_bytes()
    return join(members)


def restated(**changes: Any) -> bytes:
    """The bundle with another manifest."""
    members = split(MADE)
    manifest = json.loads(members["manifest.json"]) | changes
    return join(members | {"manifest.json": json.dumps(manifest).encode()})


@pytest.mark.parametrize("content", [SOFT, PREFIX, HARD, Content("base")], ids=lambda c: c.kind)
def test_what_is_packed_comes_back(content: Content) -> None:
    found = unpack(pack(bundle(content)))
    assert (found.label, found.content, found.record) == ("support@v4", content, RECORD)
    assert (found.base, dict(found.runs)) == (BASE, {RUN: run(content)})


@given(
    rows=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    text=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_a_bundle_of_a_bundle_is_the_same_bytes(rows: int, dtype: str, text: str | None) -> None:
    data = bytes(range(rows * 8)) * (4 if dtype == "float32" else 2)
    made = pack(bundle(Content("soft", text=text, dtype=dtype, shape=(rows, 8), data=data)))
    assert pack(unpack(made)) == made
    assert pack(replace(unpack(made), tensor=None)) == made


def test_the_order_in_which_runs_are_given_makes_no_difference() -> None:
    runs = {letter * 32: run(id=letter * 32) for letter in "abc"}
    backwards = dict(reversed(runs.items()))
    assert pack(bundle(runs=runs)) == pack(bundle(runs=backwards))


def test_the_form_of_a_bundle_is_the_same_in_every_release() -> None:
    data = pack(Bundle("support", "v4", HARD, RECORD, BASE))
    expected = "753f647fcf6c9777f3baed26671bdc1fda14a1ebf182a1ff0911769fdd1cad6e"
    assert hashlib.sha256(data).hexdigest() == expected


@pytest.mark.parametrize(("kind", "content"), [("soft", PREFIX), ("prefix", SOFT)])
def test_a_tensor_of_another_kind_than_stated_is_refused(kind: str, content: Content) -> None:
    members = split(pack(bundle(content)))
    manifest = json.loads(members["manifest.json"]) | {"kind": kind}
    assert "shape" in refused(join(members | {"manifest.json": json.dumps(manifest).encode()}))


def test_a_bundle_can_be_read_by_anyone_who_reads_zip_and_safetensors() -> None:
    with zipfile.ZipFile(io.BytesIO(MADE)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "manifest.json",
            "prompt.safetensors",
            "text.txt",
            "record.json",
            f"evaluations/{RUN}.json",
        ]
        assert archive.read("prompt.safetensors") == save({"prompt_embeddings": TENSOR})
        assert archive.read("text.txt") == b"Be brief.\r\n"
        assert json.loads(archive.read("record.json")) == RECORD.given()


def test_the_manifest_states_the_version_and_the_hash_of_each_member() -> None:
    members = split(MADE)
    manifest = json.loads(members.pop("manifest.json"))
    stated = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
    }
    assert manifest["members"] == stated
    assert (manifest["prompt"], manifest["version"], manifest["kind"]) == ("support", "v4", "soft")
    assert manifest["digest"] == SOFT.digest
    assert manifest["base_model"]["fingerprint"] == "f1"


def test_a_bundle_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompt_serve.release.bundle.MAX_BYTES", 1_000)
    with pytest.raises(Conflict, match="evaluations out") as error:
        pack(bundle())
    assert error.value.code == "bundle_too_large"


def test_a_file_is_named_after_the_version() -> None:
    assert filename("support", "v4") == "support-v4.spb"


@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    made = bytearray(MADE)
    at = data.draw(st.integers(0, len(made) - 1))
    made[at] ^= data.draw(st.integers(1, 255))
    refused(bytes(made))


@given(st.integers(0, 3_000))
def test_a_cut_file_is_refused(length: int) -> None:
    refused(MADE[: min(length, len(MADE) - 1)])


@pytest.mark.parametrize("extra", [b"x", b"PK\x05\x06" + bytes(18)])
def test_nothing_may_stand_before_or_behind_the_zip(extra: bytes) -> None:
    refused(MADE + extra)
    refused(extra + MADE)


@pytest.mark.parametrize(
    "name", ["prompt.safetensors", "text.txt", "record.json", f"evaluations/{RUN}.json"]
)
def test_a_member_of_another_content_is_refused_by_name(name: str) -> None:
    assert f"{name} has not the size and SHA-256" in refused(changed(name, b"{}", stated=False))


def test_a_member_that_is_missing_is_refused_by_name() -> None:
    assert "text.txt is missing" in refused(changed("text.txt", None, stated=False))


def test_a_member_that_is_not_in_the_manifest_is_refused_by_name() -> None:
    assert "more.txt is not in the manifest" in refused(changed("more.txt", b"x", stated=False))


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("text.txt", b"Be long.", "has the digest"),
        ("text.txt", None, "has the digest"),
        ("text.txt", b"\xff", "not UTF-8"),
        ("prompt.safetensors", save({"rows": TENSOR + 1}), "has the digest"),
        ("prompt.safetensors", save({"rows": TENSOR, "more": TENSOR + 1}), "2 tensors"),
        ("prompt.safetensors", save({"rows": TENSOR[0]}), "shape"),
        ("prompt.safetensors", save({"rows": TENSOR.long()}), "I64"),
        ("prompt.safetensors", b"\x80\x04pickle", "pickle"),
        ("prompt.safetensors", None, "soft version has a prompt.safetensors"),
        ("record.json", b'{"datset": "x"}', "datset"),
        ("record.json", None, "no record.json"),
        ("more.txt", b"x", "none of a bundle's members"),
        ("../evil", b"x", "paths inside the archive"),
        (f"evaluations/{'c' * 32}.json", run(), "is the run abab"),
        (f"evaluations/{RUN}.json", b"[", "no run of an evaluation"),
        (f"evaluations/{RUN}.json", b"[" * 100_000, "no run of an evaluation"),
        (f"evaluations/{RUN}.json", b"{}", "no run of an evaluation"),
        (f"evaluations/{RUN}.json", run(prompt="other"), "not about support@v4"),
        (f"evaluations/{RUN}.json", run(HARD), "not about support@v4"),
        (f"evaluations/{RUN}.json", evaluation(scored({"v1": "0" * 64}, id=RUN)), "not about"),
    ],
)
def test_hashes_that_were_made_to_fit_do_not_help(name: str, data: bytes | None, why: str) -> None:
    assert why in refused(changed(name, data))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": "softprompt-bundle/2"}, "softprompt-bundle/1"),
        ({"kind": "hard"}, "hard version has no prompt.safetensors"),
        ({"version": "V4"}, "version"),
        ({"prompt": "other"}, "not about other@v4"),
        ({"digest": "0" * 64}, "has the digest"),
        ({"signed": True}, "signed"),
        ({"members": {}}, "is not in the manifest"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(changes: dict[str, Any], why: str) -> None:
    assert why in refused(restated(**changes))


def test_a_file_without_a_manifest_is_refused() -> None:
    members = split(MADE)
    members.pop("manifest.json")
    assert "manifest.json" in refused(join(members))


def test_a_bundle_packed_by_something_else_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in split(MADE).items():
            archive.writestr(name, data)
    assert "packed by something else" in refused(buffer.getvalue())


def test_a_link_among_the_members_is_refused() -> None:
    buffer = io.BytesIO()
    entry = zipfile.ZipInfo("manifest.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, "record.json")
    assert "link or device" in refused(buffer.getvalue())


def test_a_bomb_is_refused_by_what_it_says_it_unpacks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompt_serve.release.members.MAX_BYTES", 1_000_000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("prompt.safetensors", bytes(2_000_000))
    assert "unpacks to 2000000 bytes" in refused(buffer.getvalue())


def test_what_is_no_zip_is_refused() -> None:
    assert "can't be read" in refused(b"hello")


def test_a_manifest_is_written_for_people() -> None:
    text = split(MADE)["manifest.json"].decode()
    assert '\n  "version": "v4"\n' in text
    assert Manifest.model_validate_json(text).digest == SOFT.digest
