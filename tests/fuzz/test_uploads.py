"""Uploads of any make: refused with a code, or exactly a prompt; and never at any cost."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from fuzz.admin import PROMPT, V1, Admin, check_answer, furnish, running, tensor
from fuzz.amount import cases
from fuzz.uploads import NAMES, safetensors, tensors, zips
from hypothesis import given
from hypothesis import strategies as st
from runs import scored

from softprompt_serve.artifact import Content, KvShape, Limits, learned_from_bytes
from softprompt_serve.errors import MAX_CHARS, BadRequest, SoftpromptError
from softprompt_serve.release.bundle import Bundle, evaluation, pack, unpack
from softprompt_serve.release.members import join, split
from softprompt_serve.release.records import BaseModelIdentity, parse_record

LIMITS = Limits(8, "float16", 64, 128, 100, max_bytes=1024 * 1024, kv=KvShape(2, 2, 2))


def refusal(data: bytes) -> SoftpromptError | None:
    """Why an upload is refused; what is not can be served."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            content = learned_from_bytes(data, filename="x.safetensors", limits=LIMITS).content
        except SoftpromptError as error:
            return error
    rows = content.virtual_tokens
    assert 1 <= rows <= 64
    assert content.shape == ((rows, 8) if content.kind == "soft" else (2, 2, rows, 2, 2))
    assert torch.isfinite(content.tensor().to(torch.float16)).all()
    return None


def read(data: bytes) -> None:
    """Take an upload or refuse it, as documented."""
    if (error := refusal(data)) is None:
        return
    assert error.code.startswith("artifact_") or error.code == "upload_too_large"
    assert error.status in {400, 413}
    assert 0 < len(error.message) <= MAX_CHARS


@cases(400, 4)
@given(safetensors())
def test_any_safetensors_header_is_refused_or_one_prompt(data: bytes) -> None:
    read(data)


@cases(150, 1)
@given(tensors())
def test_any_tensor_is_refused_or_one_prompt(data: bytes) -> None:
    read(data)


@cases(250, 2)
@given(zips())
def test_any_zip_is_refused_or_one_prompt(data: bytes) -> None:
    read(data)


ROWS = torch.arange(16, dtype=torch.float32).reshape(2, 8)
CONTENT = Content("soft", dtype="float32", shape=(2, 8), data=ROWS.numpy().tobytes())
RUN = "ab" * 16
BUNDLE = pack(
    Bundle(
        "support",
        "v4",
        CONTENT,
        parse_record({"seed": 7}),
        BaseModelIdentity(name="acme/small"),
        {RUN: evaluation(scored({"v1": "0" * 64, "v4": CONTENT.digest}, id=RUN))},
    )
)
MEMBERS = split(BUNDLE)


@cases(150, 1)
@given(st.data())
def test_any_change_of_a_bundle_is_refused(data: st.DataObject) -> None:
    members = dict(MEMBERS)
    names = data.draw(st.lists(st.sampled_from(sorted(members)), min_size=1, max_size=3))
    for name in names:
        members[name] = data.draw(st.one_of(st.binary(max_size=200), safetensors(), zips()))
    if data.draw(st.booleans()):
        extra = data.draw(NAMES.filter(lambda text: text.isprintable() and text))
        members[extra] = data.draw(st.binary(max_size=50))
    if members == MEMBERS:
        return
    with pytest.raises(BadRequest) as refused:
        unpack(join(members))
    assert refused.value.code == "invalid_bundle"
    assert len(refused.value.message) <= MAX_CHARS


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with running(tmp_path_factory.mktemp("home"), max_upload_bytes=200_000) as server:
        furnish(server)
        yield server


FILENAMES = st.one_of(NAMES, st.sampled_from(["x.bin", "x.pt", "../x", "", "a" * 3000, '"', "\\"]))
TEXTS = st.one_of(
    st.text(max_size=50),
    st.sampled_from(
        ["\u00e9", "e\u0301", "\u202ea", "\x00", "x" * 70_000, " ", "\ufeff", "\ud800"]
    ),
)
RECORDS = st.one_of(
    st.sampled_from(
        [
            *("{}", "[]", "null", '{"seed":1e999}', '{"seed":NaN}', '{"metrics":{"a":NaN}}', "{"),
            *('{"seed":7,"seed":8}', '{"notes":"' + "x" * 70_000 + '"}', '{"unknown":1}'),
            *('{"seed":' + "9" * 5000 + "}", '{"metrics":' + '{"a":' * 3000 + "1" + "}" * 3001),
            '{"notes":"\\ud800"}',
        ]
    ),
    st.text(max_size=40),
)
VERSIONS = st.one_of(
    st.sampled_from(
        ["v1", "v9", "../v1", "V1", "v" * 63, "v" * 64, "\u00e9", "e\u0301", "", "production"]
    ),
    st.text(max_size=12),
)


@st.composite
def multipart(draw: st.DrawFn) -> tuple[bytes, str]:
    """A body and its content type: parts as they should be, and some that are not."""
    boundary = draw(st.sampled_from([b"x", b"x" * 70, b"----a"]))
    parts = []
    for name, values in (
        ("tensor", st.one_of(safetensors(), tensors(), zips(), st.just(tensor(2, 1)))),
        ("record", RECORDS.map(_encoded)),
        ("version", VERSIONS.map(_encoded)),
        ("text", TEXTS.map(_encoded)),
        ("kind", st.sampled_from([b"soft", b"prefix", b"hard", b"base", b"other", b""])),
        ("digest", st.sampled_from([b"0" * 64, b"x", b""])),
    ):
        if draw(st.integers(0, 2)) == 0 or (name == "tensor" and draw(st.booleans())):
            parts.append(_part(draw, name, draw(values)))
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    body += draw(st.sampled_from([b"--" + boundary + b"--\r\n", b"--" + boundary + b"--\r\n", b""]))
    said = draw(st.sampled_from([boundary, boundary, boundary, boundary, b"other", b"x" * 300]))
    return body, f"multipart/form-data; boundary={said.decode()}"


def _part(draw: st.DrawFn, name: str, data: bytes) -> bytes:
    head = f'content-disposition: form-data; name="{name}"'.encode()
    if name == "tensor" or draw(st.integers(0, 9)) == 0:
        head += b'; filename="' + _encoded(draw(FILENAMES)) + b'"'
    more = draw(
        st.sampled_from(
            [b"", b"", b"", b"\r\ncontent-type: a", b"\r\nx: " + b"y" * 5000, b"\r\na: b" * 9]
        )
    )
    return head + more + b"\r\n\r\n" + data


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@cases(150, 2)
@given(multipart())
def test_any_upload_is_answered_and_a_refused_one_changes_nothing(
    admin: Admin, sent: tuple[bytes, str]
) -> None:
    body, kind = sent
    before = admin.state()
    answer = admin.session.post(
        f"{admin.url}{V1}/prompts/{PROMPT}/versions", data=body, headers={"content-type": kind}
    )
    check_answer(answer.status_code, answer.json)
    if answer.status_code >= 400:
        assert admin.state() == before
        return
    version = answer.json()["version"]
    again = admin.session.get(f"{admin.url}{V1}/prompts/{PROMPT}/versions/{version}")
    assert again.json()["digest"] == answer.json()["digest"]
