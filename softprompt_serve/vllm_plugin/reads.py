"""What we read of objects that vLLM hands us, by the class that they are of.

Some of it is read only when something has failed (``fail_closed.py``), where a name that is gone would
end the engine. So it is held against vLLM at start, like what is patched (``seams.py``).
"""

from __future__ import annotations

from softprompt_serve.vllm_plugin.seam import Seam

_ONE_FAILS = "a way for a worker to fail one request"
_FIRST_ROWS = "a public hook for resident embeddings of a request's first rows"
_RENDER = "a render hook for endpoint plugins"
_NONE = "none needed"

CONFIG = "vllm.config:VllmConfig"
MODEL_CONFIG = "vllm.config:ModelConfig"
GENERATE_STATE = "vllm.entrypoints.generate.api_router:init_generate_state"


def _reads(path: str, why: str, way_out: str, *attributes: str) -> Seam:
    return Seam(path, why, way_out, attributes=attributes)


ENGINE_READS = (
    _reads(
        "vllm.v1.worker.gpu_input_batch:InputBatch",
        "overlay a version's rows in the V1 runner",
        _FIRST_ROWS,
        *("req_prompt_embeds", "is_token_ids"),
    ),
    _reads(
        "vllm.v1.worker.gpu_input_batch:CachedRequestState",
        "read a request's reference in the V1 runner",
        _FIRST_ROWS,
        *("req_id", "sampling_params"),
    ),
    _reads(
        "vllm.v1.worker.gpu.model_states.prompt_embeds:PromptEmbedsState",
        "point the V2 runner's overlay kernel at resident rows",
        _FIRST_ROWS,
        *("gpu_tensors", "embeds_ptrs", "mask_ptrs", "embeds_lens", "dtype"),
    ),
    _reads(
        "vllm.v1.core.sched.output:NewRequestData",
        "read a request's reference in the V2 runner",
        _FIRST_ROWS,
        *("req_id", "sampling_params"),
    ),
    _reads(
        "vllm.v1.worker.gpu_worker:Worker",
        "reserve the slab where the model is, and say which runner runs",
        _FIRST_ROWS,
        *("vllm_config", "device", "rank", "model_runner", "use_v2_model_runner"),
    ),
    _reads(
        "vllm.model_executor.models.interfaces_base:VllmModel",
        "make the probe's version",
        _NONE,
        "embed_input_ids",
    ),
    _reads(
        "vllm.v1.outputs:ModelRunnerOutput",
        "drop what was sampled without its version",
        _ONE_FAILS,
        *("req_id_to_index", "sampled_token_ids"),
    ),
    _reads(
        "vllm.v1.core.sched.scheduler:Scheduler",
        "end marked requests with an error",
        _ONE_FAILS,
        *("kv_cache_manager", "requests", "running", "encoder_cache_mismatch_reqs"),
    ),
    _reads(
        "vllm.v1.core.kv_cache_manager:KVCacheManager",
        "find a failed request's KV blocks",
        _ONE_FAILS,
        *("block_pool", "coordinator", "get_block_ids"),
    ),
    _reads(
        "vllm.v1.core.block_pool:BlockPool",
        "find a failed request's KV blocks",
        _ONE_FAILS,
        *("null_block", "hash_block_size"),
    ),
    _reads(
        "vllm.v1.core.kv_cache_coordinator:KVCacheCoordinator",
        "find a failed request's KV blocks",
        _ONE_FAILS,
        "single_type_managers",
    ),
    _reads(
        "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager",
        "find a failed request's KV blocks",
        _ONE_FAILS,
        *("kv_cache_group_id", "block_size"),
    ),
    _reads(
        "vllm.v1.core.kv_cache_utils:KVCacheBlock",
        "find a failed request's KV blocks",
        _ONE_FAILS,
        "block_id",
    ),
    _reads(
        "vllm.v1.request:Request",
        "find a failed request's KV blocks",
        _ONE_FAILS,
        *("request_id", "block_hashes"),
    ),
    _reads(
        "vllm.v1.engine.core:EngineCore",
        "know the placeholder in the engine",
        "a validation hook at the engine's door",
        "vllm_config",
    ),
    _reads(
        "vllm.v1.engine:EngineCoreRequest",
        "refuse a reference without its salt, and the reverse",
        "a validation hook at the engine's door",
        *("sampling_params", "cache_salt", "prompt_token_ids"),
    ),
    _reads("vllm:SamplingParams", "carry the reference", _NONE, "extra_args"),
    _reads(
        MODEL_CONFIG,
        "size the slab and choose the placeholder",
        _NONE,
        *("enable_prompt_embeds", "get_inputs_embeds_size", "get_vocab_size", "dtype"),
    ),
)

SERVER_READS = (
    Seam(
        "vllm.plugins.endpoint_plugins.interface:EndpointPlugin.init_state",
        "check, prove and wire the server",
        _NONE,
        ("self", "engine_client", "state", "args"),
    ),
    Seam(
        "vllm.plugins.endpoint_plugins.interface:EndpointPlugin.attach_router",
        "add routes",
        _NONE,
        ("self", "app"),
    ),
    Seam(
        GENERATE_STATE,
        "find the handlers that may answer for a prompt",
        _RENDER,
        mentions=(
            "state.openai_serving_chat =",
            "state.openai_serving_completion =",
            "state.openai_serving_responses =",
            "state.anthropic_serving_messages =",
        ),
    ),
    Seam(
        "vllm.entrypoints.launchers.api_server.app_state:init_app_state",
        "find the renderer and the list of models",
        _RENDER,
        mentions=("state.online_renderer =", "state.openai_serving_models ="),
    ),
    _reads(
        CONFIG,
        "refuse a configuration that soft prompts can't work with",
        _NONE,
        *("model_config", "parallel_config", "scheduler_config", "kv_transfer_config"),
        "lora_config",
    ),
    _reads(
        MODEL_CONFIG,
        "know the model, its length and its files",
        _NONE,
        *("model", "revision", "hf_config", "max_model_len"),
    ),
    _reads(
        "vllm.config:ParallelConfig",
        "refuse a configuration that soft prompts can't work with",
        _NONE,
        *("worker_extension_cls", "data_parallel_size"),
    ),
    _reads("vllm.config:SchedulerConfig", "let shadows wait behind users", _NONE, "policy"),
    _reads(
        "vllm.engine.arg_utils:EngineArgs",
        "add flags to `vllm serve`, and read those given",
        _NONE,
        *("enable_prompt_embeds", "worker_extension_cls", "scheduling_policy"),
        *("otlp_traces_endpoint", "model", "served_model_name", "hf_token"),
    ),
    _reads(
        "vllm.v1.engine.async_llm:AsyncLLM",
        "check and wire, and let nobody wait for workers that are gone",
        "calls to workers that fail when the engine dies",
        *("vllm_config", "model_config", "errored"),
    ),
    _reads(
        "vllm.renderers.online_renderer:OnlineRenderer",
        "read the tool calls of a shadow's answer",
        _NONE,
        *("parser", "renderer"),
    ),
    _reads(
        "vllm.outputs:RequestOutput",
        "note and retry what is answered",
        _NONE,
        *("request_id", "outputs", "finished", "metrics", "prompt_logprobs"),
        "num_cached_tokens",
    ),
    _reads(
        "vllm.outputs:CompletionOutput",
        "note and retry what is answered",
        _NONE,
        *("index", "text", "token_ids", "logprobs", "finish_reason"),
    ),
    _reads(
        "vllm.v1.metrics.stats:RequestStateStats",
        "time queue, prefill and first token",
        _NONE,
        *("arrival_time", "first_token_latency", "queued_ts", "scheduled_ts", "first_token_ts"),
    ),
)
