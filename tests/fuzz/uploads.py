"""Files that somebody may upload: hardly ever a prompt, often made to hurt."""

from __future__ import annotations

import io
import json
import stat
import struct
import warnings
import zipfile
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save

DTYPES = [
    *("F32", "F16", "BF16", "F64", "I8", "U8", "I16", "I32", "I64", "BOOL", "F8_E4M3", "F8_E5M2"),
    *("F4", "F6_E2M3", "C64", "f32", "", "float32", "\x00"),
]
NAMES = st.one_of(
    st.sampled_from(
        [
            *("prompt_embeddings", "embedding.weight", "mlp_head.0.weight", "__metadata__", ""),
            *("lstm_head.weight_ih_l0", "lstm_head.weight_hh_l0", "mlp_head.0.bias"),
            *("transform.0.weight", "transform.0.bias", "transform.2.weight", "transform.2.bias"),
            *("../../etc/passwd", "/etc/passwd", "a\\b", "C:\\x", "nul\x00", "x" * 5000),
            *(
                "\u00e9",
                "e\u0301",
                "\u202eevil",
                "\U0001f642",
                "\ufeff",
                "%s%n",
                "\r\nset-cookie: a",
            ),
        ]
    ),
    st.text(max_size=30),
)
SIDES = st.one_of(
    st.integers(0, 9),
    st.sampled_from([8, 8, 8, -1, 2**31, 2**32, 2**61, 2**63, 2**64 - 1, 2**64, 10**30, 1.5, None]),
)
PREFIX = [2, 2, 1, 2, 2]
SHAPES = st.one_of(
    st.just([2, 8]), st.just(PREFIX), st.lists(SIDES, max_size=6), st.just([1] * 3000)
)
OFFSETS = st.one_of(
    st.just([0, 64]),
    st.lists(st.one_of(st.integers(-1, 200), st.sampled_from([2**40, 2**64, 2**70])), max_size=3),
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(DTYPES),
        "shape": SHAPES,
        "data_offsets": OFFSETS,
        "more": st.integers(),
    },
)
DEEP = st.integers(1, 20_000).map(lambda deep: "[" * deep + "]" * deep)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A header as text, since JSON in it may have a key twice, or not be JSON at all."""
    entries = draw(st.lists(st.tuples(NAMES, ENTRIES), max_size=4))
    members = [f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in entries]
    metadata = draw(
        st.none()
        | st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=4).map(json.dumps)
        | DEEP
        | st.sampled_from(['{"a":1}', "null", '"x"', '{"a":"' + "x" * 50_000 + '"}'])
    )
    if metadata is not None:
        members.insert(draw(st.integers(0, len(members))), f'"__metadata__":{metadata}')
    text = "{" + ",".join(members) + draw(st.sampled_from(["}", "}", "}", "", ",}", "}}", "}  "]))
    return text.encode("utf-8", "surrogatepass")


@st.composite
def safetensors(draw: st.DrawFn) -> bytes:
    """A file with such a header, of any stated length, and any bytes behind it."""
    header = draw(headers())
    length = draw(
        st.one_of(
            st.just(len(header)),
            st.just(len(header)),
            st.integers(0, len(header) + 100),
            st.sampled_from([0, 1, 2**20, 2**31, 2**32, 2**63, 2**64 - 1, 100_000_000]),
        )
    )
    body = draw(
        st.sampled_from([bytes(64), bytes(32), b"\xff" * 64, b"\x00\x00\x80\x7f" * 16, b""])
    )
    whole = struct.pack("<Q", length) + header + body
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    """A well-formed file: a tensor of any dtype, rank and value."""
    dtype = draw(
        st.sampled_from(
            [
                *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8),
                *(torch.bool, torch.uint8, torch.int64, torch.float8_e4m3fn),
            ]
        )
    )
    shape = draw(
        st.one_of(
            st.just([2, 8]),
            st.just(PREFIX),
            st.lists(st.integers(0, 9), max_size=4),
            st.lists(st.integers(0, 3), min_size=5, max_size=6),
        )
    )
    rows = torch.ones(shape)
    if rows.numel():
        value = draw(st.sampled_from([1.0, 0.0, float("nan"), float("inf"), -1e38, 1e-45]))
        rows.view(-1)[draw(st.integers(0, rows.numel() - 1))] = value
    name = draw(NAMES.filter(lambda text: text != "__metadata__"))
    return save({name: rows.to(dtype)})


ADAPTER = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}
FLAT = {
    "peft_type": "PREFIX_TUNING",
    "num_virtual_tokens": 2,
    "num_layers": 2,
    "num_attention_heads": 2,
    "token_dim": 2,
}
CONFIGS = st.one_of(
    st.just(ADAPTER),
    st.just({"peft_type": "P_TUNING", "num_virtual_tokens": 2, "token_dim": 8}),
    st.just(FLAT),
    st.just(FLAT | {"peft_type": "CARTRIDGE"}),
    st.dictionaries(
        st.sampled_from(
            [
                *("peft_type", "num_virtual_tokens", "token_dim", "encoder_hidden_size"),
                *("num_transformer_submodules", "base_model_name_or_path", "revision"),
                *("num_layers", "num_attention_heads"),
            ]
        ),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=9)
        | st.sampled_from(["P_TUNING", "PREFIX_TUNING"]),
    ),
).map(lambda config: json.dumps(config).encode())
PATHS = st.one_of(
    st.sampled_from(
        [
            *("adapter_config.json", "adapter_model.safetensors", "a/adapter_config.json"),
            *("a/adapter_model.safetensors", "adapter_model.bin", "data.pkl", "../x", "/x", "."),
            *("a/../../x", "C:/x", "a\\b", "x/", "__MACOSX/x", "e\u0301", "\u00e9", "\u202ex"),
            *("\U0001f642", "x" * 300, "a/" * 200 + "x", "nul\x00x"),
        ]
    ),
    st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """An adapter's zip with other members beside it, in any order, and spoilt in many ways."""
    members: list[tuple[str, bytes]] = [
        ("adapter_config.json", draw(CONFIGS | DEEP.map(str.encode))),
        ("adapter_model.safetensors", draw(st.one_of(safetensors(), tensors()))),
    ]
    members += draw(st.lists(st.tuples(PATHS, st.binary(max_size=50)), max_size=3))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in draw(st.permutations(members)):
            _write(archive, name, data, draw)
    blob = bytearray(buffer.getvalue())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        blob[draw(st.integers(0, len(blob) - 1))] = draw(st.integers(0, 255))
    return bytes(blob)


def _write(archive: zipfile.ZipFile, name: str, data: bytes, draw: Any) -> None:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = draw(
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    )
    kind = draw(st.sampled_from([0, stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR]))
    entry.external_attr = (kind | 0o777) << 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice is meant
        archive.writestr(entry, data)
