"""Blobs on disk."""

import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.artifact import Content, content_from_parts
from softprompt_serve.errors import Unavailable
from softprompt_serve.registry import store
from softprompt_serve.registry.store import BlobStore

SOFT = Content("soft", dtype="float32", shape=(2, 3), data=b"\n" + bytes(range(23)))


def put(blobs: BlobStore, content: Content = SOFT) -> None:
    blobs.put(content.digest, content.header, content.data)


def path_of(blobs: BlobStore, content: Content = SOFT) -> Path:
    return blobs._directory / content.digest[:2] / content.digest


def code_of(blobs: BlobStore) -> str:
    with pytest.raises(Unavailable) as refused:
        blobs.get(SOFT.digest)
    return refused.value.code


@given(data=st.binary(min_size=8, max_size=8), text=st.none() | st.text(min_size=1))
def test_what_was_put_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, text: str | None
) -> None:
    content = Content("soft", text, "float16", (2, 2), data)
    blobs = BlobStore(tmp_path_factory.getbasetemp() / "shared-blobs")
    put(blobs, content)
    assert content_from_parts(*blobs.get(content.digest)) == content


def test_a_blob_s_name_is_the_sha256_of_its_file(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    put(blobs)
    assert hashlib.sha256(path_of(blobs).read_bytes()).hexdigest() == SOFT.digest


def test_a_blob_is_written_once(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    put(blobs)
    before = path_of(blobs).stat()
    put(blobs)
    after = path_of(blobs).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_putting_again_mends_a_damaged_blob(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    put(blobs)
    path_of(blobs).write_bytes(b"damaged")
    put(blobs)
    assert blobs.get(SOFT.digest) == (SOFT.header, SOFT.data)


@pytest.mark.parametrize("place", [0, 20, -1])
def test_one_changed_byte_is_noticed(tmp_path: Path, place: int) -> None:
    blobs = BlobStore(tmp_path)
    put(blobs)
    data = bytearray(path_of(blobs).read_bytes())
    data[place] ^= 1
    path_of(blobs).write_bytes(data)
    assert code_of(blobs) == "blob_corrupt"


def test_a_cut_blob_is_noticed(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    put(blobs)
    os.truncate(path_of(blobs), 10)
    assert code_of(blobs) == "blob_corrupt"


def test_a_blob_that_is_not_there_is_missing(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    assert code_of(blobs) == "blob_missing"
    assert not blobs.has(SOFT.digest)


def test_a_deleted_blob_is_gone_and_may_be_deleted_again(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    put(blobs)
    assert blobs.has(SOFT.digest)
    blobs.delete(SOFT.digest)
    blobs.delete(SOFT.digest)
    assert not blobs.has(SOFT.digest)


def test_content_under_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digest"):
        BlobStore(tmp_path).put("0" * 64, SOFT.header, SOFT.data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "..", "../" * 22, "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest_is_refused(tmp_path: Path, digest: str) -> None:
    blobs = BlobStore(tmp_path)
    for call in (blobs.get, blobs.has, blobs.delete):
        with pytest.raises(ValueError, match="no digest"):
            call(digest)


def test_a_file_is_synced_before_it_gets_its_name_and_its_folders_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = BlobStore(tmp_path)
    path, steps = path_of(blobs), []
    real = os.fsync

    def watched(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append(("folder" if is_folder else "file", path.exists()))
        real(descriptor)

    monkeypatch.setattr(store.os, "fsync", watched)
    put(blobs)
    assert steps == [("folder", False), ("file", False), ("folder", True)]


def test_a_failed_write_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = BlobStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store.os, "fsync", full)
        path_of(blobs).parent.mkdir()
        with pytest.raises(Unavailable, match="No space left") as refused:
            put(blobs)
    assert refused.value.code == "blob_store_unavailable"
    assert list(path_of(blobs).parent.iterdir()) == []
    put(blobs)


def test_a_store_whose_directory_went_away_says_so(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    (tmp_path / "blobs").rmdir()
    with pytest.raises(Unavailable) as refused:
        put(blobs)
    assert refused.value.code == "blob_store_unavailable"
    assert code_of(blobs) == "blob_missing"


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as refused:
        BlobStore(tmp_path / "file" / "blobs")
    assert refused.value.code == "blob_store_unavailable"


def test_what_a_killed_writer_left_is_swept_but_not_what_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / ".tmp-old", tmp_path / "ab" / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    BlobStore(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_many_writers_of_one_blob_agree(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: put(blobs), range(32)))
    assert [p.name for p in path_of(blobs).parent.iterdir()] == [SOFT.digest]
