"""One request fails, the engine lives: patches that turn a missing version into an error.

Raising inside ``execute_model`` would kill the engine, and its output has no room for an error of
one request. So the worker marks its output with the ids of requests it could not serve, and the
scheduler ends those with vLLM's own ``FINISHED_ERROR`` in the same step, before any token leaves.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING, Any

from softprompt_serve.errors import BadRequest
from softprompt_serve.vllm_plugin.geometry import is_ours
from softprompt_serve.vllm_plugin.reference import check_pair, reference_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from softprompt_serve.vllm_plugin.overlay import Overlay

logger = logging.getLogger(__name__)

MARK = "softprompt_failed"
"""Attribute on ``ModelRunnerOutput``; it pickles along, as the dataclass has no slots."""


def patch_worker(worker: type[Any], async_output: type[Any], overlay: Overlay) -> None:
    """Mark what ``Worker.execute_model``/``sample_tokens`` return."""
    for name in ("execute_model", "sample_tokens"):
        setattr(worker, name, _marking(getattr(worker, name), async_output, overlay))


def _marking(
    step: Callable[..., Any], async_output: type[Any], overlay: Overlay
) -> Callable[..., Any]:
    def marked_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = step(self, *args, **kwargs)
        if not overlay.failed or output is None:
            return output
        failed = frozenset(overlay.failed)
        if isinstance(output, async_output):
            arrive = output.get_output
            output.get_output = lambda: _mark(arrive(), failed)
            return output
        return _mark(output, failed)

    return marked_step


def _mark(output: Any, failed: frozenset[str]) -> Any:
    here = failed & set(output.req_id_to_index)
    if here:
        setattr(output, MARK, here)
        if output.sampled_token_ids:
            for request_id in here:
                output.sampled_token_ids[output.req_id_to_index[request_id]] = []
    return output


def patch_scheduler(scheduler: type[Any]) -> None:
    """End marked requests in ``Scheduler.update_from_output``, and forget their KV blocks.

    Their blocks were computed without the soft prompt but are already in the prefix cache under
    the version's salt. They leave it, and a request that was scheduled onto them in the meantime
    (async scheduling is a step ahead) ends with them.
    """
    update: Callable[..., Any] = scheduler.update_from_output

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        if failed := getattr(model_runner_output, MARK, None):
            _fail(self, failed)
        return update(self, scheduler_output, model_runner_output)

    scheduler.update_from_output = update_from_output


def _fail(scheduler: Any, request_ids: frozenset[str]) -> None:
    kv = scheduler.kv_cache_manager
    null_block = kv.block_pool.null_block.block_id

    def blocks_of(request_id: str) -> set[int]:
        return set(chain.from_iterable(kv.get_block_ids(request_id))) - {null_block}

    present = [rid for rid in request_ids if rid in scheduler.requests]
    tainted = set().union(*(blocks_of(rid) for rid in present))
    for rid in present:
        tainted |= _forget_hashes(kv, scheduler.requests[rid].block_hashes)
    running = (request.request_id for request in scheduler.running)
    ending = {*present, *(rid for rid in running if blocks_of(rid) & tainted)}
    logger.error("Failing requests whose soft prompt is not resident: %s", sorted(ending))
    kv.evict_blocks(tainted.union(*(blocks_of(rid) for rid in ending)))
    # vLLM ends every request in this set with FINISHED_ERROR within update_from_output.
    scheduler.encoder_cache_mismatch_reqs.update(ending)


def _forget_hashes(kv: Any, hashes: Sequence[Any]) -> set[int]:
    """Evict what the prefix cache has under a request's hashes, and say which blocks that was.

    A request that was preempted since its step began has no blocks any more, but those that it
    wrote stay in the cache. A hash may have several blocks, of which one is found at a time.
    """
    from vllm.v1.core.kv_cache_utils import resolve_block_hashes  # noqa: PLC0415 - engine only

    pool = kv.block_pool
    found: set[int] = set()
    for manager in kv.coordinator.single_type_managers:
        groups = [manager.kv_cache_group_id]
        for block_hash in resolve_block_hashes(hashes, pool.hash_block_size, manager.block_size):
            while cached := pool.get_cached_block(block_hash, groups):
                block_id = cached[0].block_id
                if block_id in found:
                    break
                found.add(block_id)
                kv.evict_blocks({block_id})
    return found


def patch_engine_core(engine_core: type[Any], placeholder_of: Callable[[Any], int]) -> None:
    """Refuse, where a request enters the engine, a reference without its salt or the reverse.

    vLLM answers an exception here with an error for that request alone.
    """
    preprocess: Callable[..., Any] = engine_core.preprocess_add_request

    def preprocess_add_request(self: Any, request: Any) -> Any:
        params = request.sampling_params
        reference = reference_in(params.extra_args if params is not None else None)
        check_pair(
            reference,
            request.cache_salt,
            request.prompt_token_ids,
            placeholder_of(self.vllm_config),
        )
        if reference is not None and reference.deep:
            check_loads(params, self.vllm_config.kv_transfer_config)
        return preprocess(self, request)

    engine_core.preprocess_add_request = preprocess_add_request


def check_loads(params: Any, transfer: Any) -> None:
    """Check that vLLM will ask for a request's keys and values, instead of computing placeholders.

    Raises:
        BadRequest: ``softprompt_mismatch``.
    """
    if not is_ours(transfer):
        msg = "The request refers to keys and values, but vLLM has no connector that loads them."
        raise BadRequest(msg, code="softprompt_mismatch", param="model")
    if params.skip_reading_prefix_cache:
        msg = "A request that must not read cached keys and values can't begin with learned ones."
        raise BadRequest(msg, code="softprompt_mismatch", param="prompt_logprobs")
