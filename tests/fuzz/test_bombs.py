"""Small files that would be large: what refusing one costs, in bytes of memory."""

from __future__ import annotations

import io
import json
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import torch
from fuzz.admin import PROMPT, V1, running
from safetensors.torch import save

from softprompt_serve.artifact import Limits, learned_from_bytes
from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.release.bundle import unpack
from softprompt_serve.release.records import parse_record
from softprompt_serve.testing import ADMIN_TOKEN

MIB = 1024 * 1024
LIMITS = Limits(8, "float32", 64, 128, 100, max_bytes=64 * MIB)
CONFIG = json.dumps({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}).encode()
GOOD = save({"prompt_embeddings": torch.ones(2, 8)})


@contextmanager
def at_most(allowed: int) -> Iterator[None]:
    """The peak of what is allocated inside."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < allowed, f"{peak / MIB:.1f} MiB"


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_header(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def weights_of_zeros() -> bytes:
    header = (
        b'{"prompt_embeddings":{"dtype":"F32","shape":[1638400,8],"data_offsets":[0,52428800]}}'
    )
    weights = with_header(header, bytes(50 * MIB))
    return packed({"adapter_config.json": CONFIG, "adapter_model.safetensors": weights})


def configuration_of_zeros() -> bytes:
    return packed({"adapter_config.json": bytes(50 * MIB), "adapter_model.safetensors": GOOD})


def configuration_below_the_ratio() -> bytes:
    # Deflated to a twentieth, so that nothing but its own limit stands in its way.
    some = random.Random(1).randbytes(6 * MIB // 16)
    text = b"".join(some[at : at + 2] * 20 for at in range(0, len(some), 2))
    return packed({"adapter_config.json": text, "adapter_model.safetensors": GOOD})


def bombs_inside() -> bytes:
    inner = packed({"zeros": bytes(10 * MIB)})
    return packed({"adapter_config.json": CONFIG, "adapter_model.safetensors": inner})


def many_entries() -> bytes:
    """A directory of 200,000 entries, which its end says are one."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"x"
    directory = entry * 200_000
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, len(directory), 4, 0)
    return b"PK\x03\x04" + directory + end


def many_tensors() -> bytes:
    nothing = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    entries = ",".join(f'"{n}":{nothing}' for n in range(200_000))
    return with_header(f"{{{entries}}}".encode())


def much_metadata() -> bytes:
    entries = ",".join(f'"{n}":"x"' for n in range(1_000_000))
    return with_header(f'{{"__metadata__":{{{entries}}}}}'.encode())


def deep_json() -> bytes:
    return with_header(b"[" * (20 * MIB))


BOMBS = [
    weights_of_zeros,
    configuration_of_zeros,
    configuration_below_the_ratio,
    bombs_inside,
    many_entries,
    many_tensors,
    much_metadata,
    deep_json,
]


@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_a_bomb_is_refused_for_less_than_two_mebibytes(make: Callable[[], bytes]) -> None:
    data = make()
    with at_most(2 * MIB), pytest.raises(BadRequest) as refused:
        learned_from_bytes(data, filename="a", limits=LIMITS)
    assert refused.value.code.startswith("artifact_")


@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_a_bomb_is_no_bundle_for_less_than_two_mebibytes(make: Callable[[], bytes]) -> None:
    data = make()
    with at_most(2 * MIB), pytest.raises(BadRequest) as refused:
        unpack(data)
    assert refused.value.code == "invalid_bundle"


def test_a_large_tensor_costs_a_few_times_its_bytes() -> None:
    data = save({"a": torch.ones(40 * MIB // 32, 8)})
    with at_most(4 * len(data)), pytest.raises(BadRequest):
        learned_from_bytes(data, filename="a", limits=LIMITS)


@pytest.mark.parametrize(
    "text",
    [
        '{"notes":"' + "x" * (20 * MIB) + '"}',
        "[" * (20 * MIB),
        '{"metrics":{' + ",".join(f'"{n}":1' for n in range(1_000_000)) + "}}",
        " " * (20 * MIB) + "{",
    ],
    ids=["notes", "deep", "metrics", "blank"],
)
def test_a_huge_record_is_refused_for_its_own_bytes(text: str) -> None:
    # One copy as bytes, one without the blanks round it.
    with at_most(2 * len(text) + 2 * MIB), pytest.raises(SoftpromptError) as refused:
        parse_record(text)
    assert refused.value.code == "invalid_record"


def test_a_body_over_the_limit_is_not_gathered(tmp_path: Path) -> None:
    def large() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="tensor"; filename="t"\r\n\r\n'
        yield from (bytes(MIB // 16) for _ in range(100 * 16))

    with running(tmp_path, max_upload_bytes=MIB) as admin:
        headers = {
            "authorization": f"Bearer {ADMIN_TOKEN}",
            "content-type": "multipart/form-data; boundary=x",
        }
        with at_most(16 * MIB):
            try:
                answer = requests.post(
                    f"{admin.url}{V1}/prompts/{PROMPT}/versions",
                    data=large(),
                    headers=headers,
                    timeout=60,
                )
            except requests.ConnectionError:
                pass  # it hung up before all was sent
            else:
                assert answer.status_code == 413
        assert admin.service.catalogue.revision() == 0
