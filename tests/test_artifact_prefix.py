"""Prefixes: files of one tensor, and adapters that PEFT itself produced, folded and raw."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from fire.caches import keys_in
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config
from transformers import Qwen3ForCausalLM as Qwen3

from softprompt_serve.artifact import (
    Content,
    KvShape,
    Limits,
    learned_from_bytes,
    learned_from_path,
)
from softprompt_serve.errors import BadRequest, TooLarge

KV = KvShape(layers=3, kv_heads=2, head_dim=8)
LIMITS = Limits(32, "float32", 64, 128, 100, kv=KV)
UNKNOWN = replace(LIMITS, kv=None)
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "plain": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "projected": lambda: peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=6, prefix_projection=True, encoder_hidden_size=12
    ),
    "cartridge": lambda: peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


def tiny_model(name: str) -> PreTrainedModel:
    """A model of 3 layers and 2 key heads; Qwen3's are wider than hidden_size / heads."""
    torch.manual_seed(0)
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES))
    return Qwen3(Qwen3Config(**SIZES, head_dim=16))


def limits_of(name: str) -> Limits:
    return LIMITS if name == "llama" else replace(LIMITS, kv=replace(KV, head_dim=16))


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, str], peft.PeftModel]:
    return {
        (base, name): peft.get_peft_model(tiny_model(base), make()).eval()
        for base in ("llama", "qwen3")
        for name, make in CONFIGS.items()
    }


@pytest.fixture(scope="module")
def saved(
    models: dict[tuple[str, str], peft.PeftModel], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    folders = {}
    for key, model in models.items():
        folders[key] = tmp_path_factory.mktemp("-".join(key)) / "adapter"
        model.save_pretrained(folders[key])
    return folders


@pytest.fixture
def adapter(saved: dict[tuple[str, str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a saved adapter of Llama's, to be spoilt."""
    return lambda name: Path(shutil.copytree(saved["llama", name], tmp_path / name))


def put_before(folder: Path, base: str) -> torch.Tensor:
    """What PEFT itself puts into the cache for a saved adapter, in our layout."""
    model = peft.PeftModel.from_pretrained(tiny_model(base), folder)
    return keys_in(model.get_prompt(batch_size=1)).detach()


def change_config(folder: Path, **values: object) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))
    return folder


def make_raw(folder: Path, model: peft.PeftModel, prefix: str = "") -> Path:
    weights = model.prompt_encoder["default"].state_dict()
    save_file({prefix + name: w.contiguous() for name, w in weights.items()}, folder / WEIGHTS)
    return folder


def code_of(folder: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises((BadRequest, TooLarge)) as refused:
        learned_from_path(folder, limits=limits)
    return refused.value.code


def code_of_tensor(tensor: torch.Tensor, limits: Limits = LIMITS) -> str:
    with pytest.raises(BadRequest) as refused:
        learned_from_bytes(save({"a": tensor}), filename=None, limits=limits)
    return refused.value.code


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("base", ["llama", "qwen3"])
def test_a_saved_adapter_gives_the_keys_and_values_that_peft_puts_before(
    base: str, name: str, saved: dict[tuple[str, str], Path]
) -> None:
    content = learned_from_path(saved[base, name], limits=limits_of(base)).content
    assert content.kind == "prefix"
    assert torch.equal(content.tensor(), put_before(saved[base, name], base))


@pytest.mark.parametrize("prefix", ["", "prompt_encoder.default."])
@pytest.mark.parametrize("name", ["plain", "projected"])
def test_an_encoder_s_own_weights_are_the_same_version_as_its_checkpoint(
    name: str,
    prefix: str,
    adapter: Callable[[str], Path],
    saved: dict[tuple[str, str], Path],
    models: dict[tuple[str, str], peft.PeftModel],
) -> None:
    raw = learned_from_path(make_raw(adapter(name), models["llama", name], prefix), limits=LIMITS)
    assert raw.content == learned_from_path(saved["llama", name], limits=LIMITS).content


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_encoder_folds_in_its_own_dtype_as_peft_does(
    dtype: torch.dtype, adapter: Callable[[str], Path]
) -> None:
    model = peft.get_peft_model(tiny_model("llama"), CONFIGS["projected"]())
    encoder = model.prompt_encoder["default"].to(dtype)
    folder = make_raw(adapter("projected"), model)
    expected = encoder(torch.arange(6).unsqueeze(0))[0].detach()
    tensor = learned_from_path(folder, limits=LIMITS).content.tensor()
    assert torch.equal(tensor.permute(2, 0, 1, 3, 4).reshape(6, -1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_of_one_tensor_of_five_dimensions_becomes_a_prefix(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 2, 5, 2, 8).to(dtype)
    content = learned_from_bytes(save({"any": tensor}), filename=None, limits=LIMITS).content
    assert (content.kind, content.virtual_tokens, content.hidden_size) == ("prefix", 5, 0)
    assert torch.equal(content.tensor(), tensor)


def test_a_prefix_may_carry_a_text() -> None:
    data = save({"a": torch.ones(3, 2, 5, 2, 8)})
    content = learned_from_bytes(data, filename=None, limits=LIMITS, text="Be brief.").content
    assert (content.kind, content.text) == ("prefix", "Be brief.")


def test_what_the_adapter_declares_is_kept(saved: dict[tuple[str, str], Path]) -> None:
    declared = learned_from_path(saved["qwen3", "plain"], limits=limits_of("qwen3")).declared
    wanted = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "num_layers": 3}
    assert declared.items() >= wanted.items()
    assert (declared["num_attention_heads"], declared["token_dim"]) == (2, 32)


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((2, 2, 5, 2, 8), "artifact_wrong_kv_shape"),
        ((3, 2, 5, 4, 8), "artifact_wrong_kv_shape"),
        ((3, 2, 5, 2, 9), "artifact_wrong_kv_shape"),
        ((3, 1, 5, 2, 8), "artifact_wrong_kv_shape"),
        ((3, 2, 0, 2, 8), "artifact_no_rows"),
        ((3, 2, 65, 2, 8), "artifact_too_many_rows"),
        ((3, 2, 5, 2), "artifact_wrong_rank"),
        ((3, 2, 5, 2, 8, 1), "artifact_wrong_rank"),
    ],
)
def test_a_shape_that_cannot_be_served_is_refused_with_its_code(
    shape: tuple[int, ...], code: str
) -> None:
    assert code_of_tensor(torch.ones(shape)) == code


def test_one_visible_and_one_generated_token_must_fit_behind_a_prefix() -> None:
    limits = replace(LIMITS, max_model_len=6)
    assert code_of_tensor(torch.ones(3, 2, 5, 2, 8), limits) == "artifact_too_long"


def test_a_refusal_names_the_shape_of_the_served_model() -> None:
    with pytest.raises(BadRequest, match=r"\[2, 2, 5, 2, 8\]; expected \[3, 2, n, 2, 8\]"):
        learned_from_bytes(save({"a": torch.ones(2, 2, 5, 2, 8)}), filename=None, limits=LIMITS)


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_any_shape_is_taken_or_refused_where_the_model_s_is_not_known(shape: list[int]) -> None:
    good = shape[1] == 2 and 0 not in shape
    data = save({"a": torch.ones(shape)})
    if good:
        found = learned_from_bytes(data, filename=None, limits=UNKNOWN).content.shape
        assert found == tuple(shape)
        return
    with pytest.raises(BadRequest) as refused:
        learned_from_bytes(data, filename=None, limits=UNKNOWN)
    assert refused.value.code in {"artifact_wrong_kv_shape", "artifact_no_rows"}


def test_a_value_that_is_not_finite_is_refused() -> None:
    tensor = torch.ones(3, 2, 5, 2, 8)
    tensor[2, 1, 4, 1, 7] = float("nan")
    assert code_of_tensor(tensor) == "artifact_not_finite"


@pytest.mark.parametrize(
    "values",
    [
        {"num_layers": None},
        {"num_layers": 2},
        {"num_layers": "3"},
        {"num_layers": True},
        {"num_attention_heads": None},
        {"num_attention_heads": 3},
        {"token_dim": None},
        {"token_dim": 24},
        {"num_virtual_tokens": 9},
        {"num_transformer_submodules": 2},
        {"peft_type": "PROMPT_TUNING"},
    ],
)
@pytest.mark.parametrize("limits", [LIMITS, UNKNOWN])
def test_a_configuration_that_disagrees_is_refused(
    values: dict, limits: Limits, adapter: Callable[[str], Path]
) -> None:
    assert code_of(change_config(adapter("plain"), **values), limits) == "artifact_bad_peft_config"


@pytest.mark.parametrize("tensor", [torch.ones(3, 2, 5, 2, 8), torch.ones(()), torch.ones(0, 96)])
def test_an_adapter_of_another_layout_is_refused(
    tensor: torch.Tensor, adapter: Callable[[str], Path]
) -> None:
    folder = change_config(adapter("plain"), num_virtual_tokens=None)
    save_file({"prompt_embeddings": tensor}, folder / WEIGHTS)
    assert code_of(folder) in {"artifact_bad_peft_config", "artifact_no_rows"}


def test_an_adapter_for_a_model_of_other_keys_is_refused(
    saved: dict[tuple[str, str], Path],
) -> None:
    assert code_of(saved["qwen3", "plain"], LIMITS) == "artifact_wrong_kv_shape"


def spoil(weights: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    match how:
        case "missing":
            weights.pop("transform.0.weight")
        case "no end":
            weights.pop("transform.2.weight")
        case "extra":
            weights["transform.4.weight"] = torch.ones(2, 2)
        case "shape":
            weights["transform.0.bias"] = torch.ones(13)
        case "end":
            weights["transform.2.weight"] = torch.ones(95, 12)
        case "empty":
            weights["transform.0.weight"] = torch.ones(0, 3)
        case "rank":
            weights["transform.2.weight"] = torch.ones(())
        case "dtype":
            weights["transform.2.bias"] = weights["transform.2.bias"].half()
        case "no embedding":
            weights.pop("embedding.weight")
    return weights


@pytest.mark.parametrize(
    "how",
    ["missing", "no end", "extra", "shape", "end", "empty", "rank", "dtype", "no embedding"],
)
def test_a_projection_whose_weights_do_not_fit_is_refused(
    how: str, adapter: Callable[[str], Path], models: dict[tuple[str, str], peft.PeftModel]
) -> None:
    folder = make_raw(adapter("projected"), models["llama", "projected"])
    save_file(spoil(load_file(folder / WEIGHTS), how), folder / WEIGHTS)
    assert code_of(folder) == "artifact_bad_peft_config"


@pytest.mark.parametrize("wide", ["transform.0.weight", "transform.2.weight"])
def test_a_projection_that_unfolds_to_too_many_bytes_is_refused_before_memory_is_taken(
    wide: str, adapter: Callable[[str], Path], models: dict[tuple[str, str], peft.PeftModel]
) -> None:
    folder = make_raw(adapter("projected"), models["llama", "projected"])
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {wide: torch.ones(200_000, 1)}, folder / WEIGHTS)
    limits = replace(UNKNOWN, max_bytes=2_000_000)
    assert code_of(folder, limits) == "upload_too_large"


def test_too_many_rows_are_refused_before_folding(
    adapter: Callable[[str], Path], models: dict[tuple[str, str], peft.PeftModel]
) -> None:
    folder = make_raw(adapter("projected"), models["llama", "projected"])
    assert code_of(folder, replace(LIMITS, max_virtual_tokens=5)) == "artifact_too_many_rows"


@pytest.mark.parametrize(
    "content",
    [
        {"shape": (2, 8), "data": bytes(64)},
        {"shape": (3, 3, 1, 1, 1), "data": bytes(36)},
        {"shape": (3, 2, 1, 1), "data": bytes(24)},
        {"shape": (3, 2, 1, 1, 1), "data": bytes(23)},
        {"shape": None, "data": b""},
    ],
)
def test_parts_that_make_no_prefix_are_refused(content: dict) -> None:
    with pytest.raises(BadRequest) as refused:
        Content("prefix", dtype="float32", **content)
    assert refused.value.code == "artifact_bad_content"
