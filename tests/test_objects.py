"""Blobs in an S3-compatible store."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3 import S3, in_environment

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest, Unavailable
from softprompt_serve.registry.objects import ObjectBlobs, open_blobs
from softprompt_serve.registry.store import BlobStore
from softprompt_serve.testing import settings_for_tests

SOFT = Content("soft", dtype="float32", shape=(2, 3), data=b"\n" + bytes(range(23)))
KEY = f"some/prefix/{SOFT.digest[:2]}/{SOFT.digest}"
# What a caller waits at most for a store that is gone, on a busy machine.
SECONDS = 10


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    server = S3()
    with in_environment(server):
        yield server
    server.stop()


@pytest.fixture
def s3(server: S3) -> S3:
    server.forget()
    server.create("bucket")
    return server


@pytest.fixture
def blobs(s3: S3) -> ObjectBlobs:
    return ObjectBlobs("s3://bucket/some/prefix/")


def put(blobs: ObjectBlobs, content: Content = SOFT) -> None:
    blobs.put(content.digest, content.header, content.data)


def code_of(call: Callable[[], object]) -> str:
    started = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        call()
    assert time.monotonic() - started < SECONDS
    return refused.value.code


def test_what_was_put_comes_back(blobs: ObjectBlobs) -> None:
    put(blobs)
    assert blobs.get(SOFT.digest) == (SOFT.header, SOFT.data)


def test_another_process_finds_it(blobs: ObjectBlobs) -> None:
    put(blobs)
    assert ObjectBlobs("s3://bucket/some/prefix").get(SOFT.digest) == (SOFT.header, SOFT.data)


def test_an_object_s_name_is_the_sha256_of_its_bytes(blobs: ObjectBlobs, s3: S3) -> None:
    put(blobs)
    assert hashlib.sha256(s3.read("bucket", KEY)).hexdigest() == SOFT.digest


def test_a_bucket_needs_no_prefix(s3: S3) -> None:
    put(ObjectBlobs("s3://bucket"))
    assert s3.read("bucket", f"{SOFT.digest[:2]}/{SOFT.digest}")


def test_a_large_blob_goes_and_comes(blobs: ObjectBlobs) -> None:
    large = Content("soft", dtype="float32", shape=(3000, 1000), data=bytes(12_000_000))
    put(blobs, large)
    assert blobs.get(large.digest) == (large.header, large.data)


def test_a_blob_is_written_once(blobs: ObjectBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly:
        get = blobs._store.get

    put(blobs)
    monkeypatch.setattr(blobs, "_store", ReadOnly())
    put(blobs)


def test_putting_again_mends_a_damaged_blob(blobs: ObjectBlobs, s3: S3) -> None:
    s3.write("bucket", KEY, b"damaged")
    put(blobs)
    assert blobs.get(SOFT.digest) == (SOFT.header, SOFT.data)


@pytest.mark.parametrize("place", [0, 20, -1])
def test_one_changed_byte_is_noticed(blobs: ObjectBlobs, s3: S3, place: int) -> None:
    put(blobs)
    content = bytearray(s3.read("bucket", KEY))
    content[place] ^= 1
    s3.write("bucket", KEY, bytes(content))
    assert code_of(lambda: blobs.get(SOFT.digest)) == "blob_corrupt"


def test_a_blob_that_is_not_there_is_missing(blobs: ObjectBlobs) -> None:
    assert code_of(lambda: blobs.get(SOFT.digest)) == "blob_missing"
    assert not blobs.has(SOFT.digest)


def test_a_deleted_blob_is_gone_and_may_be_deleted_again(blobs: ObjectBlobs) -> None:
    put(blobs)
    assert blobs.has(SOFT.digest)
    blobs.delete(SOFT.digest)
    blobs.delete(SOFT.digest)
    assert not blobs.has(SOFT.digest)


def test_content_under_a_wrong_digest_is_refused(blobs: ObjectBlobs) -> None:
    with pytest.raises(ValueError, match="digest"):
        blobs.put("0" * 64, SOFT.header, SOFT.data)
    assert not blobs.has("0" * 64)


@pytest.mark.parametrize("digest", ["", "..", "../" * 22, "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest_is_refused(blobs: ObjectBlobs, digest: str) -> None:
    for call in (blobs.get, blobs.has, blobs.delete):
        with pytest.raises(ValueError, match="no digest"):
            call(digest)


def test_a_bucket_that_does_not_exist_is_no_missing_blob(s3: S3) -> None:
    blobs = ObjectBlobs("s3://elsewhere/x")
    for call in (lambda: blobs.get(SOFT.digest), lambda: put(blobs)):
        assert code_of(call) == "blob_store_unavailable"


def test_a_store_that_is_gone_is_unavailable_and_then_works_again(
    blobs: ObjectBlobs, s3: S3
) -> None:
    put(blobs)
    other = Content("hard", text="later")
    with s3.lost():
        assert code_of(lambda: blobs.get(SOFT.digest)) == "blob_store_unavailable"
        assert code_of(lambda: put(blobs, other)) == "blob_store_unavailable"
    assert blobs.get(SOFT.digest) == (SOFT.header, SOFT.data)
    assert not blobs.has(other.digest)
    put(blobs, other)
    assert blobs.has(other.digest)


def test_a_store_that_never_answers_is_unavailable_within_seconds(
    blobs: ObjectBlobs, s3: S3
) -> None:
    with s3.stalled():
        assert code_of(lambda: blobs.get(SOFT.digest)) == "blob_store_unavailable"


def test_a_store_that_is_gone_is_not_asked_at_the_start(s3: S3) -> None:
    with s3.lost():
        ObjectBlobs("s3://bucket/x")


def test_the_reason_is_in_the_message_and_no_credentials(blobs: ObjectBlobs, s3: S3) -> None:
    with s3.lost(), pytest.raises(Unavailable, match="bucket/some/prefix") as refused:
        blobs.get(SOFT.digest)
    assert "error sending request" in refused.value.message
    assert "a-secret" not in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "nonsense"])
def test_a_url_of_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        ObjectBlobs(url)
    assert refused.value.code == "invalid_setting"


def test_a_plain_http_endpoint_that_was_not_allowed_is_refused(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(BadRequest, match="AWS_ALLOW_HTTP"):
        ObjectBlobs("s3://bucket/x")


def test_without_a_setting_blobs_are_in_the_home(tmp_path: Path) -> None:
    blobs = open_blobs(settings_for_tests(tmp_path))
    assert isinstance(blobs, BlobStore)
    put(blobs)
    assert (tmp_path / "blobs" / SOFT.digest[:2] / SOFT.digest).exists()


def test_a_file_url_names_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    blobs = open_blobs(settings_for_tests(tmp_path, blob_url=folder.as_uri()))
    put(blobs)
    assert (folder / SOFT.digest[:2] / SOFT.digest).exists()


def test_an_s3_url_names_a_bucket(tmp_path: Path, s3: S3) -> None:
    put(open_blobs(settings_for_tests(tmp_path, blob_url="s3://bucket/some/prefix")))
    assert s3.read("bucket", KEY)
