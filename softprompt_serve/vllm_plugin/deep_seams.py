"""Where keys and values reach into vLLM: its KV connectors, and its layers' cache update."""

from __future__ import annotations

from typing import Final

from softprompt_serve.vllm_plugin.seam import Seam

_LOAD: Final = "give a request its learned keys and values"
_CATCH: Final = "catch the keys and values of a soft version"
_REFUSE: Final = "refuse models that can't take keys and values"
_NONE: Final = "none needed: KV connectors are a public interface"
_UPDATE: Final = "a public way to write keys and values to given slots of the KV cache"
_BASE: Final = "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1"

DEEP_SEAMS: Final = (
    Seam(
        f"{_BASE}.get_num_new_matched_tokens",
        _LOAD,
        _NONE,
        ("self", "request", "num_computed_tokens"),
    ),
    Seam(
        f"{_BASE}.update_state_after_alloc",
        _LOAD,
        _NONE,
        ("self", "request", "blocks", "num_external_tokens"),
    ),
    Seam(f"{_BASE}.build_connector_meta", _LOAD, _NONE, ("self", "scheduler_output")),
    Seam(f"{_BASE}.register_kv_caches", _LOAD, _NONE, ("self", "kv_caches")),
    Seam(f"{_BASE}.start_load_kv", _LOAD, _NONE, ("self", "forward_context")),
    Seam(f"{_BASE}.bind_connector_metadata", _CATCH, _NONE, ("self", "connector_metadata")),
    Seam(f"{_BASE}.clear_connector_metadata", _CATCH, _NONE, ("self",)),
    Seam(
        "vllm.v1.core.sched.scheduler:Scheduler.schedule",
        "rely on loads being asked for, and on their being there within the step",
        _NONE,
        mentions=(
            "self.connector.get_num_new_matched_tokens(",
            "if request.skip_reading_prefix_cache:",
            "has_sync_kv_loads = True",
        ),
    ),
    Seam(
        "vllm.v1.worker.kv_connector_model_runner_mixin:"
        "KVConnectorModelRunnerMixin._get_kv_connector_output",
        "rely on loads coming before the step's forward pass (V1)",
        _NONE,
        mentions=("start_after_forward = not scheduler_output.has_sync_kv_loads",),
    ),
    Seam(
        "vllm.v1.worker.gpu.kv_connector:ActiveKVConnector.pre_forward",
        "rely on loads coming before the step's forward pass (V2)",
        _NONE,
        mentions=("if scheduler_output.has_sync_kv_loads:", "self._start_load_kv()"),
    ),
    Seam(
        "vllm.model_executor.layers.attention.attention:unified_kv_cache_update",
        "write, and watch, as the layers write",
        _UPDATE,
        mentions=("attn_layer.impl.do_kv_cache_update(",),
    ),
    Seam(
        "vllm.v1.core.kv_cache_manager:KVCacheBlocks.get_block_ids",
        "know a request's blocks",
        _NONE,
        ("self",),
    ),
    Seam(
        "vllm.v1.worker.gpu_input_batch:CachedRequestState",
        "see that none of the first tokens is computed (V1)",
        _NONE,
        attributes=("num_computed_tokens",),
    ),
    Seam(
        "vllm.v1.core.sched.output:NewRequestData",
        "see that none of the first tokens is computed (V2)",
        _NONE,
        attributes=("num_computed_tokens",),
    ),
    Seam("vllm.v1.request:Request", _LOAD, _NONE, attributes=("sampling_params",)),
    Seam("vllm:SamplingParams", _LOAD, _NONE, attributes=("skip_reading_prefix_cache",)),
    Seam(
        "vllm.config:VllmConfig",
        _REFUSE,
        _NONE,
        attributes=("cache_config", "parallel_config", "speculative_config", "compilation_config"),
    ),
    Seam(
        "vllm.config:ModelConfig",
        _REFUSE,
        _NONE,
        attributes=(
            *("use_mla", "is_hybrid", "is_attention_free", "get_sliding_window", "hf_text_config"),
            *("get_total_num_hidden_layers", "get_total_num_kv_heads", "get_head_size"),
        ),
    ),
    Seam(
        "vllm.config:KVTransferConfig",
        "refuse other KV connectors",
        _NONE,
        attributes=("kv_connector", "kv_connector_module_path", "kv_load_failure_policy"),
    ),
    Seam("vllm.v1.kv_cache_interface:KVCacheConfig", _LOAD, _NONE, attributes=("kv_cache_groups",)),
    Seam(
        "vllm.v1.kv_cache_interface:KVCacheGroupSpec", _LOAD, _NONE, attributes=("kv_cache_spec",)
    ),
    Seam(
        "vllm.model_executor.models.utils:extract_layer_index",
        "know the layers' order",
        _NONE,
        ("layer_name",),
    ),
)
