"""Single-tensor files, texts and the limits that hold for all artifacts."""

import pickle
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from softprompt_serve.artifact import Limits, base, hard, learned_from_bytes, learned_from_path
from softprompt_serve.errors import BadRequest, TooLarge

LIMITS = Limits(
    hidden_size=8,
    model_dtype="float32",
    max_virtual_tokens=64,
    max_model_len=128,
    max_text_chars=100,
)


def code_of(data: bytes, limits: Limits = LIMITS, filename: str = "rows.safetensors") -> str:
    with pytest.raises((BadRequest, TooLarge)) as refused:
        learned_from_bytes(data, filename=filename, limits=limits)
    return refused.value.code


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_of_one_tensor_becomes_a_soft_version(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = torch.randn(5, 8).to(dtype)
    save_file({"anything": rows}, tmp_path / "rows.safetensors")
    artifact = learned_from_path(tmp_path / "rows.safetensors", limits=LIMITS)
    assert artifact.content.kind == "soft"
    assert (artifact.content.virtual_tokens, artifact.content.hidden_size) == (5, 8)
    assert torch.equal(artifact.content.tensor(), rows)
    assert artifact.declared == {}


def test_the_tensor_s_name_and_the_file_s_metadata_do_not_change_the_digest() -> None:
    rows = torch.randn(2, 8)
    one = learned_from_bytes(save({"a": rows}), filename=None, limits=LIMITS)
    other = learned_from_bytes(save({"b": rows}, {"note": "x"}), filename="b.bin", limits=LIMITS)
    assert one.content == other.content


def test_a_soft_version_may_carry_a_text() -> None:
    data = save({"a": torch.randn(2, 8)})
    artifact = learned_from_bytes(data, filename=None, limits=LIMITS, text="Be brief.")
    assert artifact.content.text == "Be brief."


@given(st.binary(max_size=200))
def test_random_bytes_are_never_more_than_a_clear_refusal(data: bytes) -> None:
    with pytest.raises(BadRequest):
        learned_from_bytes(data, filename=None, limits=LIMITS)


@given(st.data())
def test_damaged_files_are_refused_or_still_hold_one_tensor(data: st.DataObject) -> None:
    blob = bytearray(save({"a": torch.ones(2, 8)}))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    code = "artifact_accepted"
    try:
        content = learned_from_bytes(bytes(blob), filename=None, limits=LIMITS).content
    except BadRequest as error:
        code = error.code
    else:
        assert content.hidden_size == 8
        assert torch.isfinite(content.tensor()).all()
    assert code.startswith("artifact_")


@pytest.mark.parametrize("filename", ["adapter_model.bin", "prompt.pt", "x.pkl", None])
def test_a_pickle_is_named_as_such_and_never_loaded(tmp_path: Path, filename: str | None) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (marker,))

    with pytest.raises(BadRequest, match="pickle") as refused:
        learned_from_bytes(pickle.dumps(Payload()), filename=filename, limits=LIMITS)
    assert refused.value.code == "artifact_not_safetensors"
    assert not marker.exists()


def test_a_torch_checkpoint_is_named_as_such(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 8)}, tmp_path / "prompt.pt")
    with pytest.raises(BadRequest, match="torch checkpoint") as refused:
        learned_from_path(tmp_path / "prompt.pt", limits=LIMITS)
    assert refused.value.code == "artifact_not_safetensors"


def test_a_file_that_begins_like_a_pickle_but_is_safetensors_is_read() -> None:
    rows = torch.randn(1, 8)
    header = save({"a": rows})[8:-32].rstrip()
    blob = struct.pack("<Q", 0x280) + header.ljust(0x280) + rows.numpy().tobytes()
    assert blob.startswith(b"\x80\x02")
    artifact = learned_from_bytes(blob, filename=None, limits=LIMITS)
    assert torch.equal(artifact.content.tensor(), rows)


@pytest.mark.parametrize("data", [b"", b"hello", b"GGUF\x03", b'{"a": 1}', b"\x00" * 64])
def test_what_is_not_safetensors_is_refused(data: bytes) -> None:
    assert code_of(data) == "artifact_not_safetensors"


def test_a_header_of_a_great_many_tensors_is_refused_unread() -> None:
    header = b"{%s}" % b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(30_000)
    )
    blob = struct.pack("<Q", len(header)) + header
    with pytest.raises(BadRequest, match="header") as refused:
        learned_from_bytes(blob, filename=None, limits=LIMITS)
    assert refused.value.code == "artifact_not_safetensors"


def test_a_name_without_end_is_cut_in_the_message() -> None:
    data = save({"x" * 100_000: torch.ones(2, 8), "y": torch.ones(2, 8)})
    with pytest.raises(BadRequest) as refused:
        learned_from_bytes(data, filename="f" * 100_000, limits=LIMITS)
    assert len(refused.value.message) < 1000


def test_a_truncated_file_is_refused() -> None:
    assert code_of(save({"a": torch.ones(2, 8)})[:-1]) == "artifact_not_safetensors"


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        ({}, "artifact_several_tensors"),
        ({"a": torch.ones(2, 8), "b": torch.ones(2, 8)}, "artifact_several_tensors"),
        ({"a": torch.ones(8)}, "artifact_wrong_rank"),
        ({"a": torch.ones(1, 2, 8)}, "artifact_wrong_rank"),
        ({"a": torch.ones(())}, "artifact_wrong_rank"),
        ({"a": torch.ones(2, 9)}, "artifact_wrong_hidden_size"),
        ({"a": torch.ones(0, 8)}, "artifact_no_rows"),
        ({"a": torch.ones(65, 8)}, "artifact_too_many_rows"),
        ({"a": torch.ones(2, 8, dtype=torch.float64)}, "artifact_unknown_dtype"),
        ({"a": torch.ones(2, 8, dtype=torch.int32)}, "artifact_unknown_dtype"),
        ({"a": torch.ones(2, 8, dtype=torch.float8_e4m3fn)}, "artifact_unknown_dtype"),
        ({"a": torch.full((2, 8), float("nan"))}, "artifact_not_finite"),
        ({"a": torch.full((2, 8), float("-inf"))}, "artifact_not_finite"),
    ],
)
def test_tensors_that_cannot_be_served_are_refused_with_their_code(
    tensors: dict, code: str
) -> None:
    assert code_of(save(tensors)) == code


def test_a_value_that_overflows_in_the_model_s_dtype_is_refused() -> None:
    rows = torch.ones(2, 8)
    rows[1, 3] = 1e5
    assert code_of(save({"a": rows}), replace(LIMITS, model_dtype="float16")) == (
        "artifact_not_finite"
    )


def test_a_value_that_overflows_only_elsewhere_is_accepted() -> None:
    rows = torch.full((2, 8), 1e5)
    limits = replace(LIMITS, model_dtype="bfloat16")
    assert learned_from_bytes(save({"a": rows}), filename=None, limits=limits).content.dtype == (
        "float32"
    )


def test_one_visible_and_one_generated_token_must_fit_behind_the_virtual_ones() -> None:
    limits = replace(LIMITS, max_model_len=12)
    assert learned_from_bytes(save({"a": torch.ones(10, 8)}), filename=None, limits=limits)
    assert code_of(save({"a": torch.ones(11, 8)}), limits) == "artifact_too_long"


def test_unknown_limits_are_not_checked() -> None:
    limits = Limits(None, None, 64, None, 100)
    artifact = learned_from_bytes(save({"a": torch.ones(3, 5)}), filename=None, limits=limits)
    assert artifact.content.shape == (3, 5)


def test_a_row_without_columns_is_refused_even_when_the_hidden_size_is_unknown() -> None:
    limits = Limits(None, None, 64, None, 100)
    assert code_of(save({"a": torch.ones(3, 0)}), limits) == "artifact_wrong_hidden_size"


def test_too_large_an_upload_is_refused_before_it_is_read() -> None:
    limits = replace(LIMITS, max_bytes=64)
    assert code_of(save({"a": torch.ones(2, 8)}), limits) == "upload_too_large"


def test_too_large_a_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 8)}, tmp_path / "rows.safetensors")
    with pytest.raises(TooLarge):
        learned_from_path(tmp_path / "rows.safetensors", limits=replace(LIMITS, max_bytes=64))


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        learned_from_path(tmp_path / "nothing", limits=LIMITS)
    assert refused.value.code == "artifact_unreadable"


def test_limits_with_a_dtype_nothing_can_be_cast_to_are_an_error() -> None:
    with pytest.raises(ValueError, match="model_dtype"):
        replace(LIMITS, model_dtype="int8")


def test_a_text_becomes_a_hard_version() -> None:
    content = hard("Antworte auf Deutsch: äöü 🙂", LIMITS).content
    assert (content.kind, content.data, content.virtual_tokens) == ("hard", b"", 0)


def test_base_adds_nothing_and_is_always_the_same() -> None:
    assert base().content == base().content
    assert base().content.text is None


@pytest.mark.parametrize("text", ["", " \n", "x" * 101, "a\x00b", "\ud800"])
def test_a_text_that_cannot_be_served_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        hard(text, LIMITS)
    assert refused.value.code == "artifact_bad_text"
    data = save({"a": torch.ones(2, 8)})
    with pytest.raises(BadRequest) as refused:
        learned_from_bytes(data, filename=None, limits=LIMITS, text=text)
    assert refused.value.code == "artifact_bad_text"
