"""Zips that must never be unpacked."""

import io
import json
import random
import stat
import struct
import zipfile
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from softprompt_serve.artifact import Limits, learned_from_bytes
from softprompt_serve.errors import BadRequest

LIMITS = Limits(8, "float32", 64, 128, 100)
CONFIG = json.dumps({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}).encode()
GOOD = {
    "adapter_config.json": CONFIG,
    "adapter_model.safetensors": save({"prompt_embeddings": torch.ones(2, 8)}),
}


def make(files: dict[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def code_of(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(BadRequest) as refused:
        learned_from_bytes(data, filename="a.zip", limits=limits)
    return refused.value.code


def test_a_good_zip_is_accepted() -> None:
    data = make({"README.md": b"x", "folder/": b"", "__MACOSX/adapter_config.json": b"x", **GOOD})
    assert learned_from_bytes(data, filename=None, limits=LIMITS).content.shape == (2, 8)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "a/..",
        "/etc/passwd",
        "C:/evil",
        "..\\evil",
        "\\\\host\\share",
        "nul\x00byte",
        "/",
        ".",
    ],
)
def test_a_path_that_leaves_the_archive_is_refused(name: str) -> None:
    # A stand-in of equal length is patched, because the writer normalizes some names.
    stand_in = "Z" * len(name)
    data = make({stand_in: b"x", **GOOD}).replace(stand_in.encode(), name.encode())
    assert code_of(data) == "artifact_bad_zip"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_device_is_refused(kind: int) -> None:
    entry = zipfile.ZipInfo("adapter_model.safetensors")
    entry.external_attr = (kind | 0o777) << 16
    data = make({"adapter_config.json": CONFIG, entry: b"/etc/passwd"})
    assert code_of(data) == "artifact_bad_zip"


def test_too_many_entries_are_refused() -> None:
    assert code_of(make({f"f{i}": b"" for i in range(65)} | GOOD)) == "artifact_bad_zip"


def test_a_bomb_is_refused_by_what_it_says_it_unpacks_to() -> None:
    data = make({"zeros": bytes(10_000_000), **GOOD})
    assert len(data) < 20_000
    assert code_of(data, replace(LIMITS, max_bytes=1_000_000)) == "artifact_bad_zip"


def test_a_large_entry_that_shrank_to_nothing_is_refused() -> None:
    data = make({"adapter_config.json": CONFIG, "adapter_model.safetensors": bytes(2_000_000)})
    with pytest.raises(BadRequest, match="at most 100 times") as refused:
        learned_from_bytes(data, filename="a.zip", limits=LIMITS)
    assert refused.value.code == "artifact_bad_zip"


def test_too_long_a_configuration_is_not_unpacked() -> None:
    noise = random.Random(1).randbytes(1_100_000).hex().encode()
    data = make(GOOD | {"adapter_config.json": noise})
    with pytest.raises(BadRequest, match="in the zip has 2200000 bytes") as refused:
        learned_from_bytes(data, filename="a.zip", limits=LIMITS)
    assert refused.value.code == "artifact_bad_zip"


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    real = 5_000_000
    data = make({"adapter_model.safetensors": bytes(real), "adapter_config.json": CONFIG})
    data = data.replace(struct.pack("<L", real), struct.pack("<L", 100))
    assert code_of(data, replace(LIMITS, max_bytes=1_000_000)) == "artifact_bad_zip"


def test_overlapping_entries_are_refused() -> None:
    data = make({"one_config": b"x" * 40, **GOOD})
    offset = data.index(b"PK\x01\x02")
    # Every entry of the directory points at the first file.
    spoilt = bytearray(data)
    while (offset := data.find(b"PK\x01\x02", offset)) >= 0:
        spoilt[offset + 42 : offset + 46] = bytes(4)
        offset += 4
    assert code_of(bytes(spoilt)) == "artifact_bad_zip"


def test_an_encrypted_entry_is_refused() -> None:
    data = bytearray(make(GOOD))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flags] |= 1
    assert code_of(bytes(data)) == "artifact_bad_zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compression_is_refused(method: int) -> None:
    assert code_of(make(GOOD, method)) == "artifact_bad_zip"


def test_the_same_name_twice_is_refused() -> None:
    data = make({"Zdapter_config.json": b"{}", **GOOD})
    data = data.replace(b"Zdapter_config.json", b"adapter_config.json")
    assert code_of(data) == "artifact_bad_zip"


def test_a_damaged_member_is_refused() -> None:
    data = make(GOOD, zipfile.ZIP_STORED).replace(b"prompt_embeddings", b"prompt_embeddingz")
    assert code_of(data) == "artifact_bad_zip"


def test_a_cut_zip_is_refused() -> None:
    assert code_of(make(GOOD)[:-30]) == "artifact_bad_zip"


@pytest.mark.parametrize("files", [{}, {"rows.safetensors": GOOD["adapter_model.safetensors"]}])
def test_a_zip_without_an_adapter_is_refused(files: dict) -> None:
    assert code_of(make(files)) == "artifact_bad_peft_config"


def test_two_adapters_in_one_zip_are_refused() -> None:
    files = {f"{folder}/{name}": data for folder in "ab" for name, data in GOOD.items()}
    assert code_of(make(files)) == "artifact_bad_peft_config"


def test_a_zip_without_weights_is_refused() -> None:
    assert code_of(make({"adapter_config.json": CONFIG})) == "artifact_not_safetensors"


@given(st.data())
def test_any_damage_is_refused_with_a_code_or_harmless(data: st.DataObject) -> None:
    blob = bytearray(make(GOOD))
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    code = "artifact_accepted"
    try:
        content = learned_from_bytes(bytes(blob), filename=None, limits=LIMITS).content
    except BadRequest as error:
        code = error.code
    else:
        assert torch.equal(content.tensor(), torch.ones(2, 8))
    assert code.startswith("artifact_")
