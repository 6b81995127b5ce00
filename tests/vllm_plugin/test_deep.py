"""The KV connector: what the scheduler counts on, what is written where, and what is caught."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from softprompt_serve.artifact import KvShape
from softprompt_serve.artifact.content import keys_of
from softprompt_serve.bank.heads import Heads
from softprompt_serve.bank.tensors import Bank
from softprompt_serve.errors import BadRequest
from softprompt_serve.vllm_plugin import deep as module
from softprompt_serve.vllm_plugin import geometry
from softprompt_serve.vllm_plugin.blocks import slots_of
from softprompt_serve.vllm_plugin.deep import DeepPrompts, Load, Step
from softprompt_serve.vllm_plugin.fail_closed import check_loads
from softprompt_serve.vllm_plugin.overlay import Overlay
from softprompt_serve.vllm_plugin.reference import KEY, Reference

if TYPE_CHECKING:
    from softprompt_serve.vllm_plugin.reference import Way

BLOCK, LAYERS, HEADS, DIM = 4, 2, 2, 3
WHOLE = KvShape(LAYERS, HEADS, DIM)


class Impl:
    """Writes to slots, as an attention backend does."""

    def __init__(self) -> None:
        self.cache = torch.zeros(64, 2, HEADS, DIM)

    def do_kv_cache_update(
        self, layer: Any, key: Any, value: Any, kv_cache: Any, slot_mapping: Any
    ) -> None:
        assert layer.impl is self
        assert kv_cache is layer.kv_cache
        self.cache[slot_mapping, 0], self.cache[slot_mapping, 1] = key, value


def spec(**changes: Any) -> KVCacheConfig:
    attention = FullAttentionSpec(
        block_size=BLOCK, num_kv_heads=HEADS, head_size=DIM, dtype=torch.float32
    )
    names = [f"model.layers.{i}.self_attn.attn" for i in range(LAYERS)]
    given = {"num_blocks": 16, "kv_cache_tensors": []} | {
        "kv_cache_groups": [KVCacheGroupSpec(names, attention)]
    }
    return KVCacheConfig(**(given | changes))


@pytest.fixture
def overlay(monkeypatch: pytest.MonkeyPatch) -> Overlay:
    found = Overlay()
    found.bank = Bank(
        64,
        DIM,
        dtype=torch.float32,
        device=torch.device("cpu"),
        host_bytes=0,
        heads=Heads.of_rank(WHOLE),
    )
    monkeypatch.setattr(module, "OVERLAY", found)
    return found


@pytest.fixture
def layers() -> dict[str, Any]:
    return {
        # Not in the model's order, as a dictionary need not be.
        f"model.layers.{i}.self_attn.attn": SimpleNamespace(impl=Impl(), kv_cache=f"cache {i}")
        for i in reversed(range(LAYERS))
    }


@pytest.fixture
def connector(layers: dict[str, Any], overlay: Overlay) -> DeepPrompts:
    assert overlay.bank is not None
    config = SimpleNamespace(
        kv_transfer_config=KVTransferConfig(kv_connector="DeepPrompts", kv_role="kv_both"),
        compilation_config=SimpleNamespace(static_forward_context=layers),
    )
    found = DeepPrompts(config, KVConnectorRole.WORKER, spec())
    found.register_kv_caches(dict.fromkeys(layers))  # type: ignore[arg-type]
    return found


def request(way: Way | None, rows: int = 6) -> Any:
    extra = None if way is None else {KEY: Reference("ab" * 32, rows, way).to_extra_args()}
    return SimpleNamespace(request_id="r", sampling_params=SimpleNamespace(extra_args=extra))


def blocks(*ids: int) -> Any:
    return SimpleNamespace(get_block_ids=lambda: (list(ids),))


@pytest.mark.parametrize(("cached", "loaded"), [(0, 6), (4, 2), (8, 0)])
def test_what_the_prefix_cache_has_not_is_loaded(
    cached: int, loaded: int, connector: DeepPrompts
) -> None:
    assert connector.get_num_new_matched_tokens(request("keys"), cached) == (loaded, False)


@pytest.mark.parametrize("way", [None, "rows", "caught"])
def test_other_requests_compute_everything(way: Way | None, connector: DeepPrompts) -> None:
    assert connector.get_num_new_matched_tokens(request(way), 0) == (0, False)
    connector.update_state_after_alloc(request(way, rows=6), blocks(1, 2), 0)
    step = connector.build_connector_meta(None)
    assert isinstance(step, Step)
    assert step.loads == []


def test_a_step_is_told_once_what_to_load(connector: DeepPrompts) -> None:
    connector.update_state_after_alloc(request("keys"), blocks(5, 3, 9), 2)
    step = connector.build_connector_meta(None)
    assert isinstance(step, Step)
    assert step.loads == [Load("r", 4, 6, (5, 3))]
    assert connector.build_connector_meta(None) == Step()


def test_slots_are_where_the_blocks_are() -> None:
    assert slots_of((5, 3), 4, 2, 6).tolist() == [22, 23, 12, 13]


def test_every_layer_gets_its_own_keys_and_values(
    connector: DeepPrompts, layers: dict[str, Any], overlay: Overlay
) -> None:
    held = torch.randn(LAYERS, 2, 6, HEADS, DIM)
    overlay.deep["r"] = held
    connector.bind_connector_metadata(Step(loads=[Load("r", 4, 6, (5, 3))]))
    connector.start_load_kv(None)
    for index in range(LAYERS):
        cache = layers[f"model.layers.{index}.self_attn.attn"].impl.cache
        assert torch.equal(cache[[12, 13]], held[index, :, 4:].transpose(0, 1))
        assert cache[20:24].eq(0).all()  # the first four were in the prefix cache
    assert not overlay.failed


def test_a_request_whose_keys_and_values_are_not_there_fails(
    connector: DeepPrompts, overlay: Overlay
) -> None:
    connector.bind_connector_metadata(Step(loads=[Load("r", 0, 6, (5, 3))]))
    connector.start_load_kv(None)
    assert overlay.failed == {"r"}


def test_a_load_that_breaks_fails_its_request_and_not_the_engine(
    connector: DeepPrompts, overlay: Overlay, layers: dict[str, Any]
) -> None:
    overlay.deep |= {"r": torch.zeros(LAYERS + 1, 2, 6, HEADS, DIM)}
    overlay.deep["s"] = torch.ones(LAYERS, 2, 4, HEADS, DIM)
    loads = [Load("r", 0, 6, (5, 3)), Load("s", 0, 4, (1,))]
    connector.bind_connector_metadata(Step(loads=loads))
    connector.start_load_kv(None)
    assert overlay.failed == {"r"}
    assert all(layer.impl.cache[4:8].eq(1).all() for layer in layers.values())


def test_what_the_layers_write_is_caught_in_the_requests_order(
    connector: DeepPrompts, layers: dict[str, Any], overlay: Overlay
) -> None:
    connector.update_state_after_alloc(request("caught", rows=5), blocks(5, 3), 0)
    connector.bind_connector_metadata(connector.build_connector_meta(None))
    written = torch.randn(LAYERS, 2, 9, HEADS, DIM)
    # Another request's two tokens stand before, and two more of this one's come after.
    slots = torch.tensor([40, 41, 20, 21, 22, 23, 12, 13, 14])
    for index in range(LAYERS):
        layer = layers[f"model.layers.{index}.self_attn.attn"]
        layer.impl.do_kv_cache_update(layer, *written[index], layer.kv_cache, slots)
        assert torch.equal(layer.impl.cache[slots, 0], written[index, 0])
    connector.clear_connector_metadata()
    assert overlay.bank is not None
    held = overlay.bank.hold(keys_of("ab" * 32), 5, "r", deep=True)
    assert held is not None
    assert torch.equal(held, written[:, :, 2:7])
    assert all("do_kv_cache_update" not in vars(layer.impl) for layer in layers.values())


def test_what_is_caught_follows_the_request_whatever_the_batchs_order(
    connector: DeepPrompts, layers: dict[str, Any], overlay: Overlay
) -> None:
    connector.update_state_after_alloc(request("caught", rows=3), blocks(5, 3), 0)
    connector.bind_connector_metadata(connector.build_connector_meta(None))
    keys = torch.arange(3.0)[:, None, None].expand(3, HEADS, DIM)
    for layer in layers.values():
        slots = torch.tensor([22, 20, 21])
        layer.impl.do_kv_cache_update(layer, keys, keys, layer.kv_cache, slots)
    connector.clear_connector_metadata()
    assert overlay.bank is not None
    held = overlay.bank.hold(keys_of("ab" * 32), 3, "r", deep=True)
    assert held is not None
    assert held[0, 0, :, 0, 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("case", ["too few blocks", "a chunk that ends before", "a layer missing"])
def test_what_is_not_whole_is_not_kept(
    case: str, connector: DeepPrompts, layers: dict[str, Any], overlay: Overlay
) -> None:
    ids = (5,) if case == "too few blocks" else (5, 3)
    connector.update_state_after_alloc(request("caught", rows=5), blocks(*ids), 0)
    connector.bind_connector_metadata(connector.build_connector_meta(None))
    slots = torch.tensor([20, 21, 22, 23, 12])
    if case == "a chunk that ends before":
        slots = slots[:4]
    wrote = list(layers.values())[: 1 if case == "a layer missing" else LAYERS]
    for layer in wrote:
        ones = torch.ones(len(slots), HEADS, DIM)
        layer.impl.do_kv_cache_update(layer, ones, ones, layer.kv_cache, slots)
    connector.clear_connector_metadata()
    assert overlay.bank is not None
    assert overlay.bank.slots.resident() == ()


def test_a_kv_cache_of_another_make_turns_keys_and_values_off(
    layers: dict[str, Any], overlay: Overlay, connector: DeepPrompts
) -> None:
    assert overlay.bank is not None
    layers.popitem()
    connector.register_kv_caches(dict.fromkeys(layers))  # type: ignore[arg-type]
    assert overlay.bank.heads is None
    assert overlay.deep_problem == "1 of 2 layers have a KV cache of their own."


def test_blocks_are_vllms_again_when_a_request_ends(connector: DeepPrompts) -> None:
    assert connector.request_finished(None, []) == (False, None)
    assert connector.request_finished_all_groups(None, ([],)) == (False, None)


def transfer() -> Any:
    return SimpleNamespace(
        kv_connector=geometry.CONNECTOR, kv_connector_module_path=geometry.CONNECTOR_MODULE
    )


def test_the_engine_refuses_what_vllm_would_compute_instead_of_load() -> None:
    fine, scoring = (SimpleNamespace(skip_reading_prefix_cache=skip) for skip in (False, True))
    check_loads(fine, transfer())
    for params, found in ((fine, None), (scoring, transfer())):
        with pytest.raises(BadRequest) as caught:
            check_loads(params, found)
        assert caught.value.code == "softprompt_mismatch"


def config(**changes: Any) -> Any:
    """vLLM's configuration of a model that takes keys and values."""
    given: dict[str, Any] = {
        "use_mla": False,
        "is_hybrid": False,
        "is_attention_free": False,
        "window": None,
        "cache_dtype": "auto",
        "stages": 1,
        "positions": 1,
        "draft": None,
        "transfer": transfer(),
        "text": {},
    } | changes
    return SimpleNamespace(
        model_config=SimpleNamespace(
            use_mla=given["use_mla"],
            is_hybrid=given["is_hybrid"],
            is_attention_free=given["is_attention_free"],
            get_sliding_window=lambda: given["window"],
            get_total_num_hidden_layers=lambda: LAYERS,
            get_total_num_kv_heads=lambda: HEADS,
            get_head_size=lambda: DIM,
            hf_text_config=SimpleNamespace(**given["text"]),
        ),
        cache_config=SimpleNamespace(cache_dtype=given["cache_dtype"]),
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=given["stages"],
            decode_context_parallel_size=given["positions"],
            tensor_parallel_size=2,
            rank=1,
        ),
        kv_transfer_config=given["transfer"],
        speculative_config=given["draft"],
    )


def test_each_rank_holds_its_heads() -> None:
    assert geometry.heads_of(config()) == Heads(WHOLE, first=1, count=1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_mla": True}, "MLA"),
        ({"is_hybrid": True}, "not all of its layers are attention"),
        ({"is_attention_free": True}, "not all of its layers are attention"),
        ({"window": 4096}, "sliding window"),
        (
            {"window": 512, "text": {"layer_types": ["full_attention", "sliding_attention"]}},
            "sliding window",
        ),
        ({"cache_dtype": "fp8"}, "quantised"),
        ({"stages": 2}, "several stages"),
        ({"positions": 2}, "split by position"),
        ({"draft": object()}, "draft model"),
        ({"transfer": None}, "SOFTPROMPT_DEEP_PROMPTS"),
    ],
)
def test_what_was_not_compared_is_refused_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    assert reason in (geometry.prefixes_refused(config(**changes)) or "")
    assert geometry.heads_of(config(**changes)) is None


@pytest.mark.parametrize(
    "text", [{"use_sliding_window": False}, {"layer_types": ["full_attention"]}]
)
def test_a_window_that_no_layer_uses_is_no_reason(text: dict[str, Any]) -> None:
    assert geometry.prefixes_refused(config(window=4096, text=text)) is None
