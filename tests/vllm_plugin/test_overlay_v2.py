"""The overlay in vLLM's own ``PromptEmbedsState`` (V2 runner), on CPU tensors.

The state's logic is vLLM's; only its buffers, which live in memory that CPU and GPU share, are
plain tensors here. The Triton kernel is replaced by one in Python that reads through the same raw
pointers and follows the same rules.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu.model_states import prompt_embeds

from softprompt_serve.artifact import Content
from softprompt_serve.bank.tensors import Bank
from softprompt_serve.errors import Conflict
from softprompt_serve.vllm_plugin.overlay import Overlay, patch_v2
from softprompt_serve.vllm_plugin.reference import KEY, Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDDEN = 8
CPU = torch.device("cpu")


class Buffer:
    """What ``UvaBackedTensor`` is, without the memory that needs a GPU."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.cpu = torch.zeros(size, dtype=dtype)
        self.np = self.cpu.numpy()
        self.gpu = self.cpu.clone()

    def copy_to_uva(self) -> torch.Tensor:
        self.gpu = self.cpu.clone()
        return self.gpu


def soft(rows: int, seed: int = 0) -> Content:
    values = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed))
    data = values.view(torch.uint8).numpy().tobytes()
    return Content("soft", dtype="float32", shape=(rows, HIDDEN), data=data)


def overlay_with(dtype: torch.dtype = torch.float32) -> tuple[Overlay, Bank]:
    overlay = Overlay()
    overlay.bank = Bank(1024, HIDDEN, dtype=dtype, device=CPU, host_bytes=1 << 20)
    return overlay, overlay.bank


def state_of(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32
) -> Any:
    class Patched(prompt_embeds.PromptEmbedsState):
        pass

    patch_v2(Patched, overlay)
    monkeypatch.setattr(prompt_embeds, "UvaBackedTensor", Buffer)
    return Patched(4, HIDDEN, dtype, CPU)


def request(
    name: str, content: Content | None, embeds: torch.Tensor | None = None, *, computed: int = 0
) -> Any:
    extra = None
    if content is not None:
        extra = {KEY: Reference(content.digest, content.virtual_tokens).to_extra_args()}
    return SimpleNamespace(
        req_id=name,
        sampling_params=SamplingParams(extra_args=extra),
        prompt_embeds=embeds,
        prompt_is_token_ids=None,
        num_computed_tokens=computed,
    )


def run_kernel(
    state: Any, target: torch.Tensor, slots: Sequence[int], starts: Sequence[int], computed: Any
) -> None:
    """The kernel's rules: per request, rows below its length replace the embeddings.

    ``target`` is ``[tokens, HIDDEN]``; request i has ``target[starts[i]:starts[i + 1]]``, of which
    ``computed[slots[i]]`` of its tokens came before.
    """
    for i, slot in enumerate(slots):
        length, done = int(state.embeds_lens.gpu[slot]), int(computed[slot])
        if done >= length:
            continue
        address, mask = int(state.embeds_ptrs.gpu[slot]), int(state.mask_ptrs.gpu[slot])
        for t in range(min(starts[i + 1] - starts[i], length - done)):
            row = done + t
            if mask and ctypes.c_int8.from_address(mask + row).value:
                continue
            size = HIDDEN * target.element_size()
            raw = (ctypes.c_char * size).from_address(address + row * size)
            target[starts[i] + t] = torch.frombuffer(raw, dtype=target.dtype)


def test_pointer_and_length_are_those_of_the_slabs_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay, bank = overlay_with()
    state = state_of(overlay, monkeypatch)
    first, second = soft(5, 1), soft(128, 2)
    bank.load(first)
    bank.load(second)
    state.add_request(2, request("a", second))
    assert int(state.embeds_ptrs.np[2]) == bank.slab[5].data_ptr()
    assert int(state.embeds_lens.np[2]) == 128
    assert int(state.mask_ptrs.np[2]) == 0


def test_a_mask_of_the_slots_last_request_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay, bank = overlay_with()
    state = state_of(overlay, monkeypatch)
    content = soft(5)
    bank.load(content)
    state.mask_ptrs.np[0] = 12345
    state.add_request(0, request("a", content))
    assert int(state.mask_ptrs.np[0]) == 0


def test_the_state_keeps_the_rows_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay, bank = overlay_with()
    state = state_of(overlay, monkeypatch)
    content = soft(5)
    bank.load(content)
    state.add_request(0, request("a", content))
    assert state.gpu_tensors["a"][0].data_ptr() == bank.slab.data_ptr()
    state.remove_request("a")
    assert state.gpu_tensors == {}


def test_a_version_is_held_while_its_request_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay, bank = overlay_with()
    state = state_of(overlay, monkeypatch)
    content = soft(5)
    bank.load(content)
    state.add_request(0, request("a", content))
    with pytest.raises(Conflict):
        bank.evict(content.digest)
    state.remove_request("a")
    assert bank.evict(content.digest)


def test_a_missing_version_marks_its_request_and_overlays_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay, _ = overlay_with()
    state = state_of(overlay, monkeypatch)
    state.embeds_lens.np[0] = 99  # what the slot's last request left
    state.add_request(0, request("a", soft(5)))
    assert overlay.failed == {"a"}
    assert int(state.embeds_lens.np[0]) == 0
    state.remove_request("a")
    assert overlay.failed == set()


def test_rows_of_another_dtype_than_the_models_fail_their_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay, bank = overlay_with(torch.float32)
    state = state_of(overlay, monkeypatch, dtype=torch.bfloat16)
    content = soft(5)
    bank.load(content)
    state.add_request(0, request("a", content))
    assert overlay.failed == {"a"}
    assert int(state.embeds_lens.np[0]) == 0


def test_a_request_without_a_version_is_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay, _ = overlay_with()
    state = state_of(overlay, monkeypatch)
    state.add_request(0, request("a", None))
    assert (state.gpu_tensors, int(state.embeds_lens.np[0])) == ({}, 0)


def test_embeddings_that_a_client_sent_take_vllms_own_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay, _ = overlay_with()
    state = state_of(overlay, monkeypatch)
    own = torch.randn(7, HIDDEN)
    state.add_request(1, request("a", None, own))
    kept, mask = state.gpu_tensors["a"]
    assert torch.equal(kept, own)
    assert mask is None
    assert int(state.embeds_ptrs.np[1]) == kept.data_ptr()
    assert int(state.embeds_lens.np[1]) == 7
    assert overlay.applied == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 16, 127, 128, 129])
@pytest.mark.parametrize("chunk", [1, 7, 64, 200])
def test_chunked_prefill_overlays_exactly_the_first_rows(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int, chunk: int
) -> None:
    overlay, bank = overlay_with(dtype)
    state = state_of(overlay, monkeypatch, dtype)
    content = soft(rows)
    bank.load(soft(3, seed=9))
    bank.load(content)
    state.add_request(1, request("a", content))
    state.apply_staged_writes()
    prompt = torch.full((rows + 10, HIDDEN), -1.0, dtype=dtype)
    for start in range(0, rows + 10, chunk):
        part = prompt[start : start + chunk]
        computed = torch.tensor([0, start, 0, 0])
        run_kernel(state, part, [1], [0, part.shape[0]], computed)
    assert torch.equal(prompt[:rows], content.tensor().to(dtype))
    assert bool((prompt[rows:] == -1).all())


def test_a_prefix_cache_hit_within_the_rows_overlays_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay, bank = overlay_with()
    state = state_of(overlay, monkeypatch)
    content = soft(40)
    bank.load(content)
    state.add_request(0, request("a", content, computed=32))
    state.apply_staged_writes()
    target = torch.zeros(20, HIDDEN)
    run_kernel(state, target, [0], [0, 20], torch.tensor([32, 0, 0, 0]))
    assert torch.equal(target[:8], content.tensor()[32:])
    assert bool((target[8:] == 0).all())


def test_requests_of_one_batch_get_their_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay, bank = overlay_with()
    state = state_of(overlay, monkeypatch)
    first, second = soft(3, 1), soft(4, 2)
    bank.load(first)
    bank.load(second)
    state.add_request(0, request("a", first))
    state.add_request(1, request("plain", None))
    state.add_request(2, request("b", second))
    state.add_request(3, request("lost", soft(2, 3)))
    state.apply_staged_writes()
    target = torch.zeros(24, HIDDEN)
    run_kernel(state, target, [2, 1, 0, 3], [0, 6, 12, 18, 24], torch.zeros(4))
    assert torch.equal(target[0:4], second.tensor())
    assert torch.equal(target[12:15], first.tensor())
    for untouched in (target[4:12], target[15:24]):
        assert bool((untouched == 0).all())


def test_a_slot_that_is_used_again_overlays_nothing_of_its_last_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay, bank = overlay_with()
    state = state_of(overlay, monkeypatch)
    content = soft(5)
    bank.load(content)
    state.add_request(0, request("a", content))
    state.remove_request("a")
    state.add_request(0, request("b", None))
    state.apply_staged_writes()
    target = torch.zeros(8, HIDDEN)
    run_kernel(state, target, [0], [0, 8], torch.zeros(4))
    assert bool((target == 0).all())
