"""The overlay in vLLM's own ``InputBatch`` (V1 runner): what a batch row begins with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from softprompt_serve.artifact import Content, KvShape
from softprompt_serve.bank.heads import Heads
from softprompt_serve.bank.tensors import Bank
from softprompt_serve.errors import BadRequest, Conflict
from softprompt_serve.vllm_plugin.overlay import Overlay, patch_v1
from softprompt_serve.vllm_plugin.reference import KEY, Reference

HIDDEN = 8
PLACEHOLDER = 96
CPU = torch.device("cpu")


def soft(rows: int, seed: int = 0) -> Content:
    values = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed))
    data = values.view(torch.uint8).numpy().tobytes()
    return Content("soft", dtype="float32", shape=(rows, HIDDEN), data=data)


@pytest.fixture
def overlay() -> Overlay:
    overlay = Overlay()
    overlay.bank = Bank(1024, HIDDEN, dtype=torch.float32, device=CPU, host_bytes=1 << 20)
    return overlay


@pytest.fixture
def batch(overlay: Overlay) -> Any:
    class Patched(InputBatch):  # the class that vLLM itself uses stays as it is
        pass

    patch_v1(Patched, overlay)
    return Patched(
        max_num_reqs=8,
        max_model_len=512,
        max_num_batched_tokens=512,
        device=CPU,
        vocab_size=128,
        block_sizes=[16],
        max_num_blocks_per_req=[32],
    )


def bank_of(overlay: Overlay) -> Bank:
    assert overlay.bank is not None
    return overlay.bank


def request(name: str, content: Content | None, visible: int = 5) -> CachedRequestState:
    extra: dict[str, Any] | None = None
    rows = 0
    if content is not None:
        rows = content.virtual_tokens
        extra = {KEY: Reference(content.digest, rows).to_extra_args()}
    return CachedRequestState(
        req_id=name,
        prompt_token_ids=[PLACEHOLDER] * rows + list(range(visible)),
        mm_features=[],
        sampling_params=SamplingParams(temperature=0.0, extra_args=extra),
        generator=None,
        block_ids=([],),
        num_computed_tokens=0,
        output_token_ids=[],
    )


def rows_at(batch: Any, name: str) -> torch.Tensor | None:
    return batch.req_prompt_embeds.get(batch.req_id_to_index[name])


def mask_at(batch: Any, name: str, tokens: int) -> list[bool]:
    return batch.is_token_ids[batch.req_id_to_index[name], :tokens].tolist()


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 127, 128, 129, 256])
def test_a_request_begins_with_its_versions_rows(batch: Any, overlay: Overlay, rows: int) -> None:
    content = soft(rows)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    found = rows_at(batch, "a")
    assert found is not None
    assert torch.equal(found, content.tensor())
    assert mask_at(batch, "a", rows + 5) == [False] * rows + [True] * 5


def test_every_request_of_a_batch_begins_with_its_own_versions_rows(
    batch: Any, overlay: Overlay
) -> None:
    contents = {"a": soft(3, 1), "b": soft(3, 2), "c": soft(5, 3)}
    for name, content in contents.items():
        bank_of(overlay).load(content)
        batch.add_request(request(name, content))
    for name, content in contents.items():
        found = rows_at(batch, name)
        assert found is not None
        assert torch.equal(found, content.tensor())


def test_a_request_that_goes_on_within_its_rows_has_them_all(batch: Any, overlay: Overlay) -> None:
    # The runner counts rows from the prompt's first token, wherever a chunk begins.
    content = soft(33)
    bank_of(overlay).load(content)
    cached = request("a", content)
    cached.num_computed_tokens = 16
    batch.add_request(cached)
    found = rows_at(batch, "a")
    assert found is not None
    assert torch.equal(found, content.tensor())


def test_rows_on_a_device_are_taken_from_the_host_tier() -> None:
    overlay = Overlay()
    meta = torch.device("meta")  # a device that holds no values, so that none can come from it
    overlay.bank = Bank(16, HIDDEN, dtype=torch.float32, device=meta, host_bytes=0)
    first, second = soft(3, 1), soft(3, 2)
    overlay.bank.load(first)
    overlay.bank.load(second)
    params = request("a", second).sampling_params
    found = overlay.host_rows_for("a", params, 0)
    assert found is not None
    assert found.device == CPU
    assert torch.equal(found, second.tensor())


def test_rows_on_the_cpu_are_not_copied_per_request(batch: Any, overlay: Overlay) -> None:
    content = soft(3)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    found = rows_at(batch, "a")
    assert found is not None
    assert found.data_ptr() == bank_of(overlay).slab.data_ptr()


def test_a_request_without_a_version_is_vllms_own(batch: Any, overlay: Overlay) -> None:
    batch.add_request(request("a", None))
    assert rows_at(batch, "a") is None
    assert mask_at(batch, "a", 5) == [True] * 5
    assert (overlay.applied, overlay.failed) == (0, set())


def test_embeddings_that_a_client_sent_stay_its_own(batch: Any) -> None:
    own = torch.randn(5, HIDDEN)
    raw = request("a", None)
    raw.prompt_token_ids, raw.prompt_embeds = None, own
    batch.add_request(raw)
    assert rows_at(batch, "a") is own


def test_an_overlay_is_counted(batch: Any, overlay: Overlay) -> None:
    content = soft(3)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    batch.add_request(request("b", content))
    assert overlay.applied == 2


def test_a_running_requests_version_can_not_be_evicted(batch: Any, overlay: Overlay) -> None:
    content = soft(3)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    with pytest.raises(Conflict):
        bank_of(overlay).evict(content.digest)


def test_a_finished_requests_version_can_be_evicted(batch: Any, overlay: Overlay) -> None:
    content = soft(3)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    batch.remove_request("a")
    batch.condense()
    assert bank_of(overlay).evict(content.digest)


def test_a_missing_version_marks_its_request_as_failed(batch: Any, overlay: Overlay) -> None:
    batch.add_request(request("a", soft(3)))
    assert overlay.failed == {"a"}
    assert rows_at(batch, "a") is None


def test_a_version_with_another_number_of_rows_is_missing(batch: Any, overlay: Overlay) -> None:
    content = soft(3)
    bank_of(overlay).load(content)
    forged = request("a", content)
    assert forged.sampling_params is not None
    forged.sampling_params.extra_args = {KEY: Reference(content.digest, 2).to_extra_args()}
    batch.add_request(forged)
    assert overlay.failed == {"a"}


def test_without_a_bank_every_version_is_missing(batch: Any, overlay: Overlay) -> None:
    overlay.bank = None
    batch.add_request(request("a", soft(3)))
    assert overlay.failed == {"a"}


def test_a_failed_request_is_forgotten_once_it_is_removed(batch: Any, overlay: Overlay) -> None:
    batch.add_request(request("a", soft(3)))
    batch.remove_request("a")
    assert overlay.failed == set()


def test_a_failed_request_does_not_touch_its_neighbours(batch: Any, overlay: Overlay) -> None:
    content = soft(3)
    bank_of(overlay).load(content)
    batch.add_request(request("a", soft(3, seed=1)))
    batch.add_request(request("b", content))
    found = rows_at(batch, "b")
    assert found is not None
    assert torch.equal(found, content.tensor())
    assert overlay.failed == {"a"}


def test_a_request_that_comes_back_after_preemption_gets_its_rows_again(
    batch: Any, overlay: Overlay
) -> None:
    content = soft(33)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    batch.remove_request("a")
    batch.condense()
    batch.add_request(request("a", content))
    found = rows_at(batch, "a")
    assert found is not None
    assert torch.equal(found, content.tensor())


def test_a_request_whose_version_went_during_its_preemption_fails(
    batch: Any, overlay: Overlay
) -> None:
    content = soft(33)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    batch.remove_request("a")
    batch.condense()
    bank_of(overlay).load(soft(1024, seed=1))  # as large as the bank
    batch.add_request(request("a", content))
    assert overlay.failed == {"a"}
    assert rows_at(batch, "a") is None


def test_condensing_the_batch_moves_rows_with_their_requests(batch: Any, overlay: Overlay) -> None:
    contents = {name: soft(rows, rows) for name, rows in (("a", 1), ("b", 129), ("c", 33))}
    for name, content in contents.items():
        bank_of(overlay).load(content)
        batch.add_request(request(name, content))
    batch.remove_request("a")
    batch.condense()
    for name in ("b", "c"):
        found = rows_at(batch, name)
        assert found is not None
        assert torch.equal(found, contents[name].tensor())
        rows = contents[name].virtual_tokens
        assert mask_at(batch, name, rows + 5) == [False] * rows + [True] * 5


def test_swapping_two_batch_rows_swaps_what_they_begin_with(batch: Any, overlay: Overlay) -> None:
    contents = {"a": soft(128, 1), "b": soft(3, 2)}
    for name, content in contents.items():
        bank_of(overlay).load(content)
        batch.add_request(request(name, content))
    batch.swap_states(0, 1)
    for name, content in contents.items():
        found = rows_at(batch, name)
        assert found is not None
        assert torch.equal(found, content.tensor())
        rows = content.virtual_tokens
        assert mask_at(batch, name, rows + 5) == [False] * rows + [True] * 5


def test_a_batch_row_that_is_used_again_keeps_nothing_of_its_last_request(
    batch: Any, overlay: Overlay
) -> None:
    content = soft(128)
    bank_of(overlay).load(content)
    batch.add_request(request("a", content))
    batch.remove_request("a")
    batch.add_request(request("b", None, visible=140))
    assert batch.req_id_to_index["b"] == 0
    assert rows_at(batch, "b") is None
    assert mask_at(batch, "b", 140) == [True] * 140


def test_something_else_under_our_key_is_refused(batch: Any) -> None:
    forged = request("a", None)
    assert forged.sampling_params is not None
    forged.sampling_params.extra_args = {KEY: "v2"}
    with pytest.raises(BadRequest):
        batch.add_request(forged)


def prefixed(name: str, computed: int, *, resident: bool, overlay: Overlay) -> CachedRequestState:
    """A request with three tokens of keys and values, of which so many need no computing."""
    bank = bank_of(overlay)
    bank.heads = Heads.of_rank(KvShape(1, 1, HIDDEN))
    values = torch.randn(1, 2, 3, 1, HIDDEN, generator=torch.Generator().manual_seed(1))
    data = values.view(torch.uint8).numpy().tobytes()
    content = Content("prefix", dtype="float32", shape=(1, 2, 3, 1, HIDDEN), data=data)
    if resident:
        bank.load(content)
    made = request(name, None)
    made.num_computed_tokens = computed
    assert made.sampling_params is not None
    made.sampling_params.extra_args = {KEY: Reference(content.digest, 3, "keys").to_extra_args()}
    return made


def test_a_prefix_overlays_nothing_and_is_held(batch: Any, overlay: Overlay) -> None:
    batch.add_request(prefixed("a", 3, resident=True, overlay=overlay))
    assert rows_at(batch, "a") is None
    assert overlay.deep["a"].shape == (1, 2, 3, 1, HIDDEN)
    assert not overlay.failed
    batch.remove_request("a")
    assert not overlay.deep
    (slot,) = bank_of(overlay).slots.resident()
    assert bank_of(overlay).slots.holders(slot.digest) == 0


@pytest.mark.parametrize(("computed", "resident"), [(2, True), (0, True), (3, False)])
def test_a_prefix_whose_tokens_would_be_computed_fails(
    computed: int, resident: bool, batch: Any, overlay: Overlay
) -> None:
    batch.add_request(prefixed("a", computed, resident=resident, overlay=overlay))
    assert overlay.failed == {"a"}
    assert not overlay.deep
