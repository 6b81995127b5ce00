"""The overlay: in the worker, a request's first n embedding rows become the bank's rows.

Both model runners already overlay embeddings that a client sent (``prompt_embeds``). We hand them
rows that are resident instead, so nothing travels and nothing is copied per request:

* V1 (CPU, and the CUDA fallback) keeps embeddings per batch row in
  ``InputBatch.req_prompt_embeds`` and a mask ``is_token_ids``; rows past the tensor are tokens.
* V2 (CUDA's default) keeps a pointer and a length per request in ``PromptEmbedsState``; its
  kernel overlays only rows below the length.

A prefix has no rows: its keys and values are in the request's blocks before the step (``deep.py``). All
that is seen here is that none of its first n tokens is to be computed.

A request whose version isn't resident runs with its placeholders' own embeddings, which is wrong,
and is therefore marked: ``fail_closed.py`` drops whatever it sampled and fails it, and it alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softprompt_serve.vllm_plugin.reference import reference_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from softprompt_serve.bank.tensors import Bank


class Overlay:
    """State of one worker process: its bank, and the requests it could not serve."""

    def __init__(self) -> None:
        """Start without a bank; the patched ``load_model`` gives one."""
        self.bank: Bank | None = None
        self.failed: set[str] = set()
        self.deep: dict[str, torch.Tensor] = {}  # request → its keys and values
        self.deep_problem: str | None = None
        self.applied = 0

    def rows_for(self, request_id: str, sampling_params: Any, computed: int) -> torch.Tensor | None:
        """The resident rows ``[n, hidden_size]`` that this request must begin with.

        None for a request that refers to no version, for one that has keys and values instead,
        which are then in ``deep``, and for one whose version isn't resident, which is in ``failed``.

        Args:
            request_id: of the worker's.
            sampling_params: which carry the reference.
            computed: the request's tokens that need no computing.
        """
        reference = reference_in(getattr(sampling_params, "extra_args", None))
        if reference is None:
            return None
        held = None
        if self.bank is not None:
            held = self.bank.hold(reference.digest, reference.rows, request_id, deep=reference.deep)
        if held is None or (reference.deep and computed < reference.rows):
            self.failed.add(request_id)
            return None
        if reference.deep:
            self.deep[request_id] = held
            return None
        self.applied += 1
        return held

    def host_rows_for(
        self, request_id: str, sampling_params: Any, computed: int
    ) -> torch.Tensor | None:
        """As :meth:`rows_for`, in host memory, where the V1 runner gathers embeddings."""
        rows = self.rows_for(request_id, sampling_params, computed)
        if rows is None or self.bank is None or rows.device.type == "cpu":
            return rows
        return self.bank.on_host(self.bank.slots.digest_of(request_id))

    def release(self, request_id: str) -> None:
        """The worker no longer runs this request."""
        if self.bank is not None:
            self.bank.release(request_id)
        self.deep.pop(request_id, None)
        self.failed.discard(request_id)


OVERLAY = Overlay()
"""The worker process' overlay: a patch has no other place to find it."""


def patch_v1(input_batch: type[Any], overlay: Overlay) -> None:
    """Overlay in the V1 runner by ``InputBatch.add_request``/``remove_request``."""
    add: Callable[..., int] = input_batch.add_request
    remove: Callable[..., int | None] = input_batch.remove_request

    def add_request(self: Any, request: Any) -> int:
        index = add(self, request)
        rows = overlay.host_rows_for(
            request.req_id, request.sampling_params, request.num_computed_tokens
        )
        if rows is not None:
            self.req_prompt_embeds[index] = rows
            self.is_token_ids[index, : rows.shape[0]] = False
        return index

    def remove_request(self: Any, req_id: str) -> int | None:
        overlay.release(req_id)
        return remove(self, req_id)

    input_batch.add_request = add_request
    input_batch.remove_request = remove_request


def patch_v2(prompt_embeds_state: type[Any], overlay: Overlay) -> None:
    """Overlay in the V2 runner by ``PromptEmbedsState.add_request``/``remove_request``."""
    add: Callable[..., None] = prompt_embeds_state.add_request
    remove: Callable[..., None] = prompt_embeds_state.remove_request

    def add_request(self: Any, req_index: int, new_req_data: Any) -> None:
        rows = overlay.rows_for(
            new_req_data.req_id, new_req_data.sampling_params, new_req_data.num_computed_tokens
        )
        # The kernel reads the slab through a bare pointer, in the model's dtype.
        if rows is not None and (rows.dtype != self.dtype or not rows.is_contiguous()):
            overlay.failed.add(new_req_data.req_id)
            rows = None
        if rows is None:
            add(self, req_index, new_req_data)
            return
        self.gpu_tensors[new_req_data.req_id] = (rows, None)
        self.embeds_ptrs.np[req_index] = rows.data_ptr()
        self.mask_ptrs.np[req_index] = 0
        self.embeds_lens.np[req_index] = rows.shape[0]

    def remove_request(self: Any, req_id: str) -> None:
        overlay.release(req_id)
        remove(self, req_id)

    prompt_embeds_state.add_request = add_request
    prompt_embeds_state.remove_request = remove_request
