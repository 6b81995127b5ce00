"""A small real configuration of vLLM, with a model that is only a ``config.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 4
BLOCKS = 64
HIDDEN = 16


@pytest.fixture(scope="session")
def vllm_config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``VllmConfig`` of a Llama of 16 hidden units, blocks of 4 tokens, prefix caching on."""
    from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("model")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 256,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    cache = CacheConfig(block_size=BLOCK, enable_prefix_caching=True)
    found = VllmConfig(
        model_config=ModelConfig(model=str(folder), skip_tokenizer_init=True, dtype="float32"),
        cache_config=cache,
        scheduler_config=SchedulerConfig(
            max_num_seqs=8,
            max_num_batched_tokens=64,
            max_model_len=256,
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
            async_scheduling=False,
        ),
    )
    cache.num_gpu_blocks = BLOCKS
    return found


@pytest.fixture
def make_scheduler(vllm_config: Any) -> Callable[[type[Any]], Any]:
    """A real scheduler of the class given, with an empty KV cache."""
    import torch  # noqa: PLC0415
    from vllm.v1.kv_cache_interface import (  # noqa: PLC0415
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
    )
    from vllm.v1.structured_output import StructuredOutputManager  # noqa: PLC0415

    def make(scheduler: type[Any]) -> Any:
        layer = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        kv = KVCacheConfig(
            num_blocks=BLOCKS,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)],
        )
        return scheduler(
            vllm_config=vllm_config,
            kv_cache_config=kv,
            structured_output_manager=StructuredOutputManager(vllm_config),
            block_size=BLOCK,
            log_stats=False,
        )

    return make


@pytest.fixture
def make_request() -> Callable[..., Any]:
    """A real ``Request`` whose blocks are hashed as the engine does it."""
    from vllm import SamplingParams  # noqa: PLC0415
    from vllm.utils.hashing import sha256  # noqa: PLC0415
    from vllm.v1.core.kv_cache_utils import (  # noqa: PLC0415
        get_request_block_hasher,
        init_none_hash,
    )
    from vllm.v1.request import Request  # noqa: PLC0415

    init_none_hash(sha256)
    hasher = get_request_block_hasher(BLOCK, sha256)

    def make(request_id: str, token_ids: list[int], salt: str | None = None) -> Any:
        return Request(
            request_id=request_id,
            prompt_token_ids=token_ids,
            sampling_params=SamplingParams(max_tokens=8, temperature=0.0),
            pooling_params=None,
            block_hasher=hasher,
            cache_salt=salt,
        )

    return make


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the server does."""
    return "asyncio"
