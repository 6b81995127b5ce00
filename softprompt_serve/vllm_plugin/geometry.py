"""What keys and values the served model takes, and whether any can be given to it.

Asked where vLLM's configuration is at hand, in the API server and in each worker; the connector looks
at the KV cache itself once it exists (``deep.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.artifact.checks import KvShape
from softprompt_serve.bank.heads import Heads

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTOR: Final = "DeepPrompts"
CONNECTOR_MODULE: Final = "softprompt_serve.vllm_plugin.deep"
TRANSFER_FLAG: Final = "--kv-transfer-config"


def heads_of(config: Any) -> Heads | None:
    """The part of a prefix that this worker holds; None where prefixes are refused."""
    if prefixes_refused(config) is not None:
        return None
    ranks = config.parallel_config.tensor_parallel_size
    rank = config.parallel_config.rank % ranks
    return Heads.of_rank(kv_shape(config.model_config), rank=rank, ranks=ranks)


def kv_shape(model: Any) -> KvShape:
    """What one token leaves in the cache of vLLM's ``ModelConfig``."""
    return KvShape(
        model.get_total_num_hidden_layers(), model.get_total_num_kv_heads(), model.get_head_size()
    )


def prefixes_refused(config: Any) -> str | None:
    """Why this server takes no version of kind `prefix`, or None.

    Each is a layout or an order of blocks on which no answer was compared with PEFT's.
    """
    model, cache = config.model_config, config.cache_config
    if not is_ours(config.kv_transfer_config):
        return (
            "Keys and values are off: SOFTPROMPT_DEEP_PROMPTS=true turns them on where `softprompt-serve "
            f"serve` starts the server, and {TRANSFER_FLAG} where `vllm serve` does (README)."
        )
    found: Sequence[tuple[bool, str]] = (
        (model.use_mla, "its attention keeps one latent (MLA) instead of keys and values"),
        (model.is_hybrid or model.is_attention_free, "not all of its layers are attention"),
        (_slides(model), "some of its layers see a sliding window, which leaves a prefix behind"),
        (cache.cache_dtype != "auto", f"its KV cache is quantised ({cache.cache_dtype})"),
        (config.parallel_config.pipeline_parallel_size > 1, "its layers are on several stages"),
        (
            config.parallel_config.decode_context_parallel_size > 1,
            "its KV cache is split by position",
        ),
        (config.speculative_config is not None, "a draft model would not see it"),
    )
    reasons = [reason for wrong, reason in found if wrong]
    if not reasons:
        return None
    return f"This model takes no learned keys and values: {', '.join(reasons)}."


def is_ours(transfer: Any) -> bool:
    """Whether vLLM's KV connector is ours, and only ours."""
    return (
        transfer is not None
        and transfer.kv_connector == CONNECTOR
        and transfer.kv_connector_module_path == CONNECTOR_MODULE
    )


def _slides(model: Any) -> bool:
    if model.get_sliding_window() is None:
        return False
    # Some configurations name a window that no layer uses.
    kinds = getattr(model.hf_text_config, "layer_types", None)
    used = getattr(model.hf_text_config, "use_sliding_window", True)
    return bool(used) and (kinds is None or any("full" not in kind for kind in kinds))
