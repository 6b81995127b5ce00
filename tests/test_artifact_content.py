"""The canonical content and its digest."""

import hashlib
import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.artifact import Content, content_from_parts, digest_of
from softprompt_serve.errors import BadRequest

WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}


@st.composite
def contents(draw: st.DrawFn) -> Content:
    kind = draw(st.sampled_from(["soft", "prefix", "hard", "base"]))
    text = draw(st.text(min_size=1, max_size=20))
    if kind == "base":
        return Content("base")
    if kind == "hard":
        return Content("hard", text=text)
    dtype = draw(st.sampled_from(sorted(WIDTHS)))
    sides = draw(st.tuples(*[st.integers(1, 3)] * 4))
    shape = (sides[0], 2, *sides[1:]) if kind == "prefix" else sides[:2]
    size = math.prod(shape) * WIDTHS[dtype]
    data = draw(st.binary(min_size=size, max_size=size))
    return Content(kind, draw(st.none() | st.just(text)), dtype, shape, data)


@given(contents())
def test_the_digest_is_that_of_preamble_header_and_data(content: Content) -> None:
    header = json.dumps(
        {
            "kind": content.kind,
            "dtype": content.dtype,
            "shape": list(content.shape) if content.shape else None,
            "text": content.text,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    expected = hashlib.sha256(b"softprompt/1\n" + header + b"\n" + content.data).hexdigest()
    assert content.digest == expected == digest_of(content.header, content.data)


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (
            Content("soft", None, "float32", (1, 2), bytes(8)),
            "c820453ec2e37d865dcdf4b88b7bbbc9f599e4916b20ccd3ccd4824d60e38ef1",
        ),
        (
            Content("hard", "Be brief."),
            "842a778762d4f8a6ea7fc318b018b5b76855ad65fdbecf99701835f989d3c422",
        ),
        (Content("base"), "4ea4d062ea368396c3e96e7b6bb4ca4b461549bccbb71c94bea5b7260467b98d"),
        (
            Content("prefix", None, "float16", (1, 2, 1, 1, 1), bytes(4)),
            "5361b7eb261e3150a0a64fe0cd3d1d2f4a2f7d15fcd2480c29f138378810cdbe",
        ),
    ],
)
def test_a_version_keeps_its_digest_from_release_to_release(content: Content, digest: str) -> None:
    assert content.digest == digest


@given(contents())
def test_a_content_comes_back_from_its_parts(content: Content) -> None:
    again = content_from_parts(content.header, content.data)
    assert again == content
    assert again.digest == content.digest


@given(contents(), contents())
def test_contents_have_one_digest_exactly_when_they_are_equal(one: Content, other: Content) -> None:
    assert (one.digest == other.digest) == (one == other)


@given(contents(), st.data())
def test_any_flipped_bit_of_the_tensor_changes_the_digest(
    content: Content, data: st.DataObject
) -> None:
    if not content.learned:
        return
    place = data.draw(st.integers(0, len(content.data) * 8 - 1))
    changed = bytearray(content.data)
    changed[place // 8] ^= 1 << place % 8
    assert digest_of(content.header, bytes(changed)) != content.digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_tensor_has_the_stored_values_and_dtype(dtype: torch.dtype) -> None:
    rows = torch.randn(3, 5).to(dtype)
    data = rows.view(torch.uint8).numpy().tobytes()
    content = Content("soft", dtype=str(dtype).removeprefix("torch."), shape=(3, 5), data=data)
    tensor = content.tensor()
    assert tensor.dtype == dtype
    assert torch.equal(tensor, rows)


def test_each_tensor_is_a_copy_of_its_own() -> None:
    content = Content("soft", dtype="float32", shape=(1, 2), data=bytes(8))
    content.tensor().fill_(1.0)
    assert torch.equal(content.tensor(), torch.zeros(1, 2))


def test_a_text_changes_the_digest_of_a_soft_version() -> None:
    plain = Content("soft", dtype="float32", shape=(1, 2), data=bytes(8))
    with_text = Content("soft", text="Be brief.", dtype="float32", shape=(1, 2), data=bytes(8))
    assert plain.digest != with_text.digest


def test_only_learned_versions_have_a_tensor() -> None:
    with pytest.raises(ValueError, match="hard version has no tensor"):
        Content("hard", text="Be brief.").tensor()


@pytest.mark.parametrize(
    "parts",
    [
        {"kind": "deep"},
        {"kind": "hard"},
        {"kind": "base", "text": "x"},
        {"kind": "hard", "text": "x", "data": b"x"},
        {"kind": "soft"},
        {"kind": "soft", "dtype": "float64", "shape": (1, 1), "data": bytes(8)},
        {"kind": "soft", "dtype": "float32", "shape": (1, 0)},
        {"kind": "soft", "dtype": "float32", "shape": (1, 2, 3), "data": bytes(24)},
        {"kind": "soft", "dtype": "float32", "shape": (True, 2), "data": bytes(8)},
        {"kind": "soft", "dtype": "float32", "shape": (1, 2), "data": bytes(7)},
        {"kind": "hard", "text": 3},
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts: dict) -> None:
    with pytest.raises(BadRequest) as refused:
        Content(**parts)
    assert refused.value.code == "artifact_bad_content"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"kind":"base"}',
        b'{"dtype":null,"kind":"base","shape":null,"text":null,"layers":2}',
        b'{"kind":"base","dtype":null,"shape":null,"text":null}',
        b'{"dtype":null, "kind":"base","shape":null,"text":null}',
        b'{"dtype":null,"kind":["base"],"shape":null,"text":null}',
        b"\xff\xfe",
    ],
)
def test_a_header_that_is_not_canonical_is_refused(header: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        content_from_parts(header, b"")
    assert refused.value.code == "artifact_bad_content"


def test_importing_contents_and_the_registry_imports_neither_torch_nor_vllm() -> None:
    code = (
        "import sys\n"
        "import softprompt_serve.artifact, softprompt_serve.release.records\n"
        "import softprompt_serve.registry.catalog, softprompt_serve.registry.store\n"
        "import softprompt_serve.registry.feed\n"
        "print([n for n in ('torch', 'vllm', 'fastapi') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
