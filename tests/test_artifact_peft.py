"""Adapters that PEFT itself produced, as folders and zips, folded and raw."""

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from softprompt_serve.artifact import Limits, learned_from_bytes, learned_from_path
from softprompt_serve.errors import BadRequest

LIMITS = Limits(16, "float32", 64, 128, 100)
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CONFIGS = {
    "prompt_tuning": lambda: peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=7, peft_type="PROMPT_TUNING"
    ),
    "mlp": lambda: peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=12
    ),
    "lstm": lambda: peft.PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=6,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=12,
        encoder_num_layers=2,
    ),
    "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
}


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def models() -> dict[str, peft.PeftModel]:
    return {
        name: peft.get_peft_model(tiny_model(), make()).eval() for name, make in CONFIGS.items()
    }


@pytest.fixture(scope="module")
def saved(
    models: dict[str, peft.PeftModel], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folders = {}
    for name, model in models.items():
        folders[name] = tmp_path_factory.mktemp(name) / name
        model.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def rows(saved: dict[str, Path]) -> dict[str, torch.Tensor]:
    """The rows that PEFT itself prepends when it loads the saved adapters."""
    found = {}
    for name in ("prompt_tuning", "mlp", "lstm"):
        model = peft.PeftModel.from_pretrained(tiny_model(), saved[name])
        found[name] = model.get_prompt(batch_size=1)[0].detach()
    return found


@pytest.fixture
def adapter(saved: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a saved adapter, to be spoilt."""
    return lambda name: Path(shutil.copytree(saved[name], tmp_path / name))


def change_config(folder: Path, **values: object) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))
    return folder


def make_raw(folder: Path, model: peft.PeftModel, prefix: str) -> Path:
    weights = model.prompt_encoder["default"].state_dict()
    save_file({prefix + name: w.contiguous() for name, w in weights.items()}, folder / WEIGHTS)
    return folder


def zipped(folder: Path, inside: str = "") -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, inside + path.name)
    return buffer.getvalue()


def code_of(folder: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(BadRequest) as refused:
        learned_from_path(folder, limits=limits)
    return refused.value.code


@pytest.mark.parametrize("name", ["prompt_tuning", "mlp", "lstm"])
def test_a_saved_adapter_gives_the_rows_that_peft_prepends(
    name: str, saved: dict[str, Path], rows: dict[str, torch.Tensor]
) -> None:
    artifact = learned_from_path(saved[name], limits=LIMITS)
    assert torch.equal(artifact.content.tensor(), rows[name])


@pytest.mark.parametrize("prefix", ["", "prompt_encoder.default."])
@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_raw_encoder_is_the_same_version_as_its_folded_checkpoint(
    name: str,
    prefix: str,
    adapter: Callable[[str], Path],
    saved: dict[str, Path],
    models: dict[str, peft.PeftModel],
) -> None:
    raw = learned_from_path(make_raw(adapter(name), models[name], prefix), limits=LIMITS)
    assert raw.content == learned_from_path(saved[name], limits=LIMITS).content


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_raw_encoder_folds_in_its_own_dtype(
    name: str,
    dtype: torch.dtype,
    adapter: Callable[[str], Path],
    models: dict[str, peft.PeftModel],
    rows: dict[str, torch.Tensor],
) -> None:
    folder = make_raw(adapter(name), models[name], "")
    weights = load_file(folder / WEIGHTS)
    save_file({k: w.to(dtype) for k, w in weights.items()}, folder / WEIGHTS)
    tensor = learned_from_path(folder, limits=LIMITS).content.tensor()
    assert tensor.dtype == dtype
    torch.testing.assert_close(tensor.float(), rows[name], atol=0.02, rtol=0.05)


def test_what_the_adapter_declares_is_kept(saved: dict[str, Path]) -> None:
    declared = learned_from_path(saved["lstm"], limits=LIMITS).declared
    assert declared["peft_type"] == "P_TUNING"
    assert declared["num_virtual_tokens"] == 6
    assert declared["token_dim"] == 16
    assert declared["task_type"] == "CAUSAL_LM"


@pytest.mark.parametrize("inside", ["", "adapter/"])
def test_a_zip_is_the_same_version_as_its_folder(inside: str, saved: dict[str, Path]) -> None:
    data = zipped(saved["mlp"], inside)
    artifact = learned_from_bytes(data, filename="a.zip", limits=LIMITS)
    assert artifact == learned_from_path(saved["mlp"], limits=LIMITS)


def test_a_zip_on_disk_is_read_like_an_upload(saved: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(saved["mlp"]))
    artifact = learned_from_path(tmp_path / "a.zip", limits=LIMITS)
    assert artifact == learned_from_path(saved["mlp"], limits=LIMITS)


@pytest.mark.parametrize("peft_type", ["LORA", "MULTITASK_PROMPT_TUNING", "IA3"])
def test_other_adapters_are_refused(peft_type: str, adapter: Callable[[str], Path]) -> None:
    folder = change_config(adapter("mlp"), peft_type=peft_type)
    assert code_of(folder) == "artifact_unsupported_peft_type"


def test_a_lora_adapter_is_refused(saved: dict[str, Path]) -> None:
    assert code_of(saved["lora"]) == "artifact_unsupported_peft_type"


@pytest.mark.parametrize(
    "values",
    [
        {"num_virtual_tokens": 8},
        {"token_dim": 17},
        {"num_virtual_tokens": "7"},
        {"num_virtual_tokens": True},
        {"num_virtual_tokens": -7},
        {"num_transformer_submodules": 2},
        {"peft_type": None},
        {"peft_type": 3},
    ],
)
def test_a_configuration_that_disagrees_is_refused(
    values: dict, adapter: Callable[[str], Path]
) -> None:
    assert code_of(change_config(adapter("prompt_tuning"), **values)) == "artifact_bad_peft_config"


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, " " * (1024 * 1024 + 1)])
def test_a_configuration_that_is_not_a_json_object_is_refused(
    text: str, adapter: Callable[[str], Path]
) -> None:
    folder = adapter("mlp")
    (folder / CONFIG).write_text(text)
    assert code_of(folder) == "artifact_bad_peft_config"


def test_a_folder_without_a_configuration_is_refused(adapter: Callable[[str], Path]) -> None:
    folder = adapter("mlp")
    (folder / CONFIG).unlink()
    assert code_of(folder) == "artifact_bad_peft_config"


def test_a_folder_with_pickled_weights_is_refused_by_that_name(
    adapter: Callable[[str], Path],
) -> None:
    folder = adapter("mlp")
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadRequest, match=r"pickle.*adapter_model\.bin") as refused:
        learned_from_path(folder, limits=LIMITS)
    assert refused.value.code == "artifact_not_safetensors"


def test_a_zip_with_pickled_weights_is_refused(adapter: Callable[[str], Path]) -> None:
    folder = adapter("mlp")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(BadRequest) as refused:
        learned_from_bytes(zipped(folder), filename="a.zip", limits=LIMITS)
    assert refused.value.code == "artifact_not_safetensors"


def test_an_adapter_with_other_weights_beside_the_prompt_is_refused(
    adapter: Callable[[str], Path],
) -> None:
    folder = adapter("prompt_tuning")
    save_file(load_file(folder / WEIGHTS) | {"score.weight": torch.ones(2)}, folder / WEIGHTS)
    assert code_of(folder) == "artifact_several_tensors"


def test_an_adapter_for_rows_with_the_tensor_of_a_prefix_is_refused(
    adapter: Callable[[str], Path],
) -> None:
    folder = change_config(adapter("prompt_tuning"), num_virtual_tokens=None, token_dim=None)
    save_file({"prompt_embeddings": torch.ones(1, 2, 7, 2, 8)}, folder / WEIGHTS)
    assert code_of(folder) == "artifact_bad_peft_config"


def test_a_tensor_by_another_name_is_refused(adapter: Callable[[str], Path]) -> None:
    folder = adapter("prompt_tuning")
    save_file({"rows": torch.ones(7, 16)}, folder / WEIGHTS)
    assert code_of(folder) == "artifact_bad_peft_config"


def test_an_adapter_of_another_hidden_size_is_refused(saved: dict[str, Path]) -> None:
    limits = replace(LIMITS, hidden_size=32)
    assert code_of(saved["mlp"], limits) == "artifact_wrong_hidden_size"


def spoil(weights: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    match how:
        case "missing":
            weights.pop("mlp_head.2.weight")
        case "extra":
            weights["mlp_head.6.weight"] = torch.ones(2, 2)
        case "shape":
            weights["mlp_head.2.weight"] = torch.ones(3, 3)
        case "empty":
            weights["mlp_head.2.weight"] = torch.ones(0, 3)
        case "rank":
            weights["mlp_head.0.weight"] = torch.ones(())
        case "dtype":
            weights["mlp_head.0.weight"] = weights["mlp_head.0.weight"].half()
        case "no embedding":
            weights.pop("embedding.weight")
    return weights


@pytest.mark.parametrize(
    "how", ["missing", "extra", "shape", "empty", "rank", "dtype", "no embedding"]
)
@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_an_encoder_whose_weights_do_not_fit_is_refused(
    name: str, how: str, adapter: Callable[[str], Path], models: dict[str, peft.PeftModel]
) -> None:
    folder = make_raw(adapter(name), models[name], "")
    save_file(spoil(load_file(folder / WEIGHTS), how), folder / WEIGHTS)
    assert code_of(folder) == "artifact_bad_peft_config"


def test_an_encoder_of_another_kind_than_declared_is_refused(
    adapter: Callable[[str], Path], models: dict[str, peft.PeftModel]
) -> None:
    folder = make_raw(adapter("mlp"), models["mlp"], "")
    change_config(folder, encoder_reparameterization_type="LSTM")
    assert code_of(folder) == "artifact_bad_peft_config"


def test_a_huge_recurrent_width_is_refused_before_memory_is_taken(
    adapter: Callable[[str], Path], models: dict[str, peft.PeftModel]
) -> None:
    folder = make_raw(adapter("lstm"), models["lstm"], "")
    wide = {"lstm_head.weight_hh_l0": torch.ones(1, 1_000_000)}
    save_file(load_file(folder / WEIGHTS) | wide, folder / WEIGHTS)
    assert code_of(folder) == "artifact_bad_peft_config"


def test_too_many_rows_are_refused_before_folding(
    adapter: Callable[[str], Path], models: dict[str, peft.PeftModel]
) -> None:
    folder = make_raw(adapter("mlp"), models["mlp"], "")
    assert code_of(folder, replace(LIMITS, max_virtual_tokens=4)) == "artifact_too_many_rows"


def test_links_between_files_of_a_local_folder_are_followed(
    adapter: Callable[[str], Path], tmp_path: Path
) -> None:
    # As the hub cache lays a snapshot out.
    folder = adapter("mlp")
    (folder / WEIGHTS).rename(tmp_path / "blob")
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    assert learned_from_path(folder, limits=LIMITS).content.virtual_tokens == 5
    mode = (folder / WEIGHTS).lstat().st_mode
    assert stat.S_ISLNK(mode)
