"""The KV connector: a request's first n keys and values come from the bank, and none is computed.

vLLM loads it by name (``--kv-transfer-config``; ``launch.py`` adds it). Its scheduler's half says that
the first n tokens of a request which refers to keys and values need no computing, where the prefix
cache has not got them; the worker's half writes them into the request's blocks before the step, with
the attention backend's own update of the cache, so that each backend's layout is its own affair.

A request whose keys and values aren't resident is marked like one whose rows aren't
(``fail_closed.py``), so it ends with an error, and what stood in its blocks leaves the prefix cache.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from softprompt_serve.artifact.content import keys_of
from softprompt_serve.vllm_plugin.blocks import slots_of
from softprompt_serve.vllm_plugin.capture import Capture, Capturing
from softprompt_serve.vllm_plugin.overlay import OVERLAY
from softprompt_serve.vllm_plugin.reference import reference_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from softprompt_serve.vllm_plugin.reference import Reference

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """Rows ``first : rows`` of a request's keys and values go to ``slots``' blocks."""

    request_id: str
    first: int
    rows: int
    block_ids: tuple[int, ...]


@dataclass
class Step(KVConnectorMetadata):
    """What the workers do in one step."""

    loads: list[Load] = field(default_factory=list)
    captures: list[Capture] = field(default_factory=list)


class DeepPrompts(KVConnectorBase_V1, SupportsHMA):
    """Both halves; vLLM makes one in the scheduler and one in each worker."""

    def __init__(
        self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None
    ) -> None:
        """As vLLM calls it."""
        super().__init__(vllm_config, role, kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        self._block = groups[0].kv_cache_spec.block_size if groups else 1
        self._next = Step()  # the scheduler's
        self._layers: list[Any] = []  # the worker's, in the model's order
        self._capturing = Capturing()

    # The scheduler's half.

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """As many of the first n as the prefix cache hasn't got; they are there within the step."""
        reference = _reference(request)
        if reference is None or not reference.deep:
            return 0, False
        return max(reference.rows - num_computed_tokens, 0), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note where they go."""
        reference = _reference(request)
        if reference is None:
            return
        count = -(-reference.rows // self._block)
        ids = tuple(blocks.get_block_ids()[0][:count])
        if num_external_tokens:
            first = reference.rows - num_external_tokens
            self._next.loads.append(Load(request.request_id, first, reference.rows, ids))
        elif reference.caught:
            self._next.captures.append(
                Capture(request.request_id, keys_of(reference.digest), reference.rows, ids)
            )

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:  # noqa: ARG002
        """What this step's workers do."""
        step, self._next = self._next, Step()
        return step

    def request_finished(
        self,
        request: Any,  # noqa: ARG002 - vLLM's names
        block_ids: list[int],  # noqa: ARG002
    ) -> tuple[bool, dict[str, Any] | None]:
        """Blocks are vLLM's again at once."""
        return False, None

    def request_finished_all_groups(
        self,
        request: Any,  # noqa: ARG002 - vLLM's names
        block_ids: tuple[list[int], ...],  # noqa: ARG002
    ) -> tuple[bool, dict[str, Any] | None]:
        """As :meth:`request_finished`; without it vLLM would give up its hybrid cache manager."""
        return False, None

    # The workers' half.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Know the layers, and take no keys and values if they aren't what was expected."""
        found = self._vllm_config.compilation_config.static_forward_context
        layers = [found[name] for name in sorted(kv_caches, key=_number)]
        self._layers = layers
        heads = OVERLAY.bank.heads if OVERLAY.bank is not None else None
        if heads is not None and (
            problem := _problem(layers, heads.whole.layers, self._kv_cache_config)
        ):
            logger.warning("This worker takes no keys and values: %s", problem)
            OVERLAY.deep_problem = problem
            OVERLAY.bank.heads = None  # type: ignore[union-attr]

    def has_connector_metadata(self) -> bool:
        """Never, to the hooks around each layer: nothing is left to wait for there."""
        return False

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Before the step: what is to be caught is watched for."""
        super().bind_connector_metadata(connector_metadata)
        if isinstance(connector_metadata, Step) and connector_metadata.captures:
            self._capturing.begin(connector_metadata.captures, self._layers, self._block)

    def clear_connector_metadata(self) -> None:
        """After the step."""
        self._capturing.end(OVERLAY)
        super().clear_connector_metadata()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the step's keys and values; a request whose are not there fails, and it alone."""
        step = self._connector_metadata
        if not isinstance(step, Step):
            return
        for load in step.loads:
            held = OVERLAY.deep.get(load.request_id)
            if held is None:
                OVERLAY.failed.add(load.request_id)
                continue
            try:
                self._write(load, held)
            except Exception:  # an exception here would end the engine
                logger.exception("Can't load the keys and values of %s", load.request_id)
                OVERLAY.failed.add(load.request_id)

    def _write(self, load: Load, held: torch.Tensor) -> None:
        slots = slots_of(load.block_ids, self._block, load.first, load.rows).to(held.device)
        for layer, (keys, values) in zip(self._layers, held, strict=True):
            layer.impl.do_kv_cache_update(
                layer, keys[load.first :], values[load.first :], layer.kv_cache, slots
            )
        OVERLAY.applied += 1

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Everything was there before the first layer."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing leaves."""

    def wait_for_save(self) -> None:
        """Nothing leaves."""


def _reference(request: Any) -> Reference | None:
    return reference_in(getattr(request.sampling_params, "extra_args", None))


def _number(layer_name: str) -> int:
    from vllm.model_executor.models.utils import extract_layer_index  # noqa: PLC0415

    return extract_layer_index(layer_name)


def _problem(layers: Sequence[Any], expected: int, kv_cache_config: Any) -> str | None:
    """Why what vLLM made of the KV cache can't be written to."""
    from vllm.v1.kv_cache_interface import FullAttentionSpec  # noqa: PLC0415

    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1 or type(groups[0].kv_cache_spec) is not FullAttentionSpec:
        return "its layers don't share one ordinary KV cache."
    if len(layers) != expected:
        return f"{len(layers)} of {expected} layers have a KV cache of their own."
    if not all(hasattr(layer.impl, "do_kv_cache_update") for layer in layers):
        return "its attention backend has no update of its own for the KV cache."
    return None
