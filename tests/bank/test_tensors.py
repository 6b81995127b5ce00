"""The slab on a device (the CPU here) and the host tier behind it."""

from __future__ import annotations

import pytest
import torch

from softprompt_serve.artifact import Content, KvShape
from softprompt_serve.bank.heads import Heads
from softprompt_serve.bank.tensors import Bank
from softprompt_serve.errors import BadRequest, Conflict, Unavailable

HIDDEN = 4


def bank(
    capacity: int = 8, *, dtype: torch.dtype = torch.float32, host_bytes: int = 1 << 20
) -> Bank:
    return Bank(capacity, HIDDEN, dtype=dtype, device=torch.device("cpu"), host_bytes=host_bytes)


def soft(rows: int, seed: int = 0, *, hidden: int = HIDDEN) -> Content:
    values = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed))
    return of(values)


def of(values: torch.Tensor) -> Content:
    dtype = str(values.dtype).removeprefix("torch.")
    shape = (values.shape[0], values.shape[1])
    data = values.contiguous().view(torch.uint8).numpy().tobytes()
    return Content("soft", dtype=dtype, shape=shape, data=data)


def test_a_loaded_version_lies_in_the_slab_bit_for_bit() -> None:
    bank_, content = bank(), soft(3)
    assert bank_.load(content) == ()
    rows = bank_.hold(content.digest, 3, "r")
    assert rows is not None
    assert torch.equal(rows, content.tensor())


def test_what_is_held_is_the_slab_itself_and_no_copy() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(soft(2, seed=9))
    bank_.load(content)
    rows = bank_.hold(content.digest, 3, "r")
    assert rows is not None
    assert rows.data_ptr() == bank_.slab[2].data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_are_cast_to_the_slabs_dtype(dtype: torch.dtype) -> None:
    bank_, content = bank(dtype=dtype), soft(3)
    bank_.load(content)
    rows = bank_.hold(content.digest, 3, "r")
    assert rows is not None
    assert torch.equal(rows, content.tensor().to(dtype))


def test_a_half_precision_artifact_is_widened_exactly() -> None:
    bank_, content = bank(), of(torch.randn(2, HIDDEN).to(torch.bfloat16))
    bank_.load(content)
    rows = bank_.hold(content.digest, 2, "r")
    assert rows is not None
    assert torch.equal(rows, content.tensor().float())


def test_values_that_the_cast_makes_infinite_are_refused() -> None:
    bank_ = bank(dtype=torch.float16)
    with pytest.raises(BadRequest) as caught:
        bank_.load(of(torch.full((2, HIDDEN), 1e6)))
    assert caught.value.code == "artifact_not_finite"
    assert bank_.slots.used == 0


def test_a_wrong_hidden_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(BadRequest, match=r"hidden size 5.*model has 4") as caught:
        bank().load(soft(2, hidden=5))
    assert caught.value.code == "artifact_wrong_hidden_size"


def test_a_version_without_a_tensor_is_refused() -> None:
    with pytest.raises(BadRequest):
        bank().load(Content("hard", text="Be brief."))


def test_a_version_larger_than_the_bank_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        bank(4).load(soft(5))
    assert caught.value.code == "bank_too_small"


def test_loading_names_what_was_evicted_for_it() -> None:
    bank_, first, second = bank(4), soft(3, 1), soft(3, 2)
    bank_.load(first)
    assert bank_.load(second) == (first.digest,)
    assert bank_.host_digests() == (first.digest,)


def test_loading_a_resident_version_again_changes_nothing() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(content)
    before = bank_.slab.clone()
    assert bank_.load(content) == ()
    assert torch.equal(bank_.slab, before)


def test_a_load_that_finds_no_room_changes_nothing() -> None:
    bank_, first = bank(4), soft(3, 1)
    bank_.load(first)
    before = bank_.slab.clone()
    with pytest.raises(Unavailable):
        bank_.load(soft(3, 2), keep={first.digest})
    assert torch.equal(bank_.slab, before)
    assert bank_.verify() == ()


def test_an_evicted_version_is_restored_bit_for_bit() -> None:
    bank_, content = bank(dtype=torch.bfloat16), soft(3)
    bank_.load(content)
    bank_.evict(content.digest)
    bank_.slab.zero_()
    assert bank_.restore(content.digest) is True
    rows = bank_.hold(content.digest, 3, "r")
    assert rows is not None
    assert torch.equal(rows, content.tensor().bfloat16())


def test_restoring_a_resident_version_does_nothing() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(content)
    assert bank_.restore(content.digest) is True


def test_restoring_what_was_never_loaded_says_so() -> None:
    assert bank().restore("0" * 64) is False


def test_restoring_without_room_is_unavailable() -> None:
    bank_, first, second = bank(4), soft(3, 1), soft(3, 2)
    bank_.load(first)
    bank_.load(second)
    with pytest.raises(Unavailable):
        bank_.restore(first.digest, keep={second.digest})


def test_evicting_what_is_not_there_says_so() -> None:
    assert bank().evict("0" * 64) is False


def test_a_held_version_is_neither_evicted_nor_forgotten() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(content)
    bank_.hold(content.digest, 3, "r")
    with pytest.raises(Conflict):
        bank_.evict(content.digest)
    with pytest.raises(Conflict):
        bank_.forget(content.digest)
    assert bank_.verify() == ()


def test_a_released_version_can_be_evicted() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(content)
    bank_.hold(content.digest, 3, "r")
    bank_.release("r")
    assert bank_.evict(content.digest) is True


def test_a_forgotten_version_can_not_be_restored() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(content)
    bank_.forget(content.digest)
    assert bank_.restore(content.digest) is False


def test_forgetting_an_evicted_version_drops_its_host_copy() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(content)
    bank_.evict(content.digest)
    bank_.forget(content.digest)
    assert bank_.host_digests() == ()


def test_the_host_tier_keeps_what_fits_its_bytes_and_drops_the_oldest() -> None:
    contents = [soft(2, seed) for seed in range(3)]
    bank_ = bank(host_bytes=2 * 2 * HIDDEN * 4)
    for content in contents:
        bank_.load(content)
    for content in contents:
        bank_.evict(content.digest)
    assert bank_.host_digests() == (contents[1].digest, contents[2].digest)


def test_without_a_host_tier_an_evicted_version_is_gone() -> None:
    bank_, content = bank(host_bytes=0), soft(2)
    bank_.load(content)
    bank_.evict(content.digest)
    assert bank_.restore(content.digest) is False


def test_resident_versions_do_not_count_against_the_host_tier() -> None:
    bank_, content = bank(host_bytes=0), soft(2)
    bank_.load(content)
    assert torch.equal(bank_.on_host(content.digest), content.tensor())


def test_holding_with_another_number_of_rows_holds_nothing() -> None:
    bank_, content = bank(), soft(3)
    bank_.load(content)
    assert bank_.hold(content.digest, 2, "r") is None
    assert bank_.evict(content.digest) is True


def test_holding_what_is_not_resident_is_none() -> None:
    assert bank().hold("0" * 64, 2, "r") is None


def test_verify_finds_the_version_whose_rows_changed() -> None:
    bank_, first, second = bank(), soft(3, 1), soft(3, 2)
    bank_.load(first)
    bank_.load(second)
    bank_.slab[4, 0] += 1
    assert bank_.verify() == (second.digest,)


def test_verify_finds_nothing_after_evictions_and_restores() -> None:
    bank_, contents = bank(7), [soft(3, seed) for seed in range(4)]
    for content in contents:
        bank_.load(content)
    for content in contents:
        bank_.restore(content.digest)
    assert bank_.verify() == ()


HEADS = Heads.of_rank(KvShape(3, 2, 5))


def deep_bank(capacity: int = 64, *, host_bytes: int = 1 << 20) -> Bank:
    return Bank(
        capacity,
        HIDDEN,
        dtype=torch.float32,
        device=torch.device("cpu"),
        host_bytes=host_bytes,
        heads=HEADS,
    )


def prefix(tokens: int, seed: int = 0) -> Content:
    values = torch.randn(3, 2, tokens, 2, 5, generator=torch.Generator().manual_seed(seed))
    data = values.view(torch.uint8).numpy().tobytes()
    return Content("prefix", dtype="float32", shape=tuple(values.shape), data=data)


def test_keys_and_values_lie_in_the_same_slab_in_their_own_shape() -> None:
    bank_, content = deep_bank(), prefix(2)
    bank_.load(soft(3))
    bank_.load(content)
    held = bank_.hold(content.digest, 2, "r", deep=True)
    assert held is not None
    assert torch.equal(held, content.tensor())
    assert held.data_ptr() == bank_.slab[3].data_ptr()
    assert bank_.slots.used == 3 + 3 * 2 * 2 * 2 * 5 // HIDDEN


def test_what_is_no_whole_row_takes_one_more() -> None:
    bank_, content = deep_bank(), prefix(1)  # 60 values; the last row is not full for 7 columns
    wide = Bank(64, 7, dtype=torch.float32, device=torch.device("cpu"), host_bytes=0, heads=HEADS)
    wide.load(content)
    bank_.load(content)
    assert (wide.slots.used, bank_.slots.used) == (9, 15)
    held = wide.hold(content.digest, 1, "r", deep=True)
    assert held is not None
    assert torch.equal(held, content.tensor())


def test_one_kind_is_never_held_as_the_other() -> None:
    bank_, rows, keys = deep_bank(), soft(2), prefix(2)
    bank_.load(rows)
    bank_.load(keys)
    assert bank_.hold(rows.digest, 2, "a", deep=True) is None
    assert bank_.hold(keys.digest, 2, "b") is None
    assert bank_.hold(keys.digest, 3, "c", deep=True) is None
    assert bank_.slots.holders(rows.digest) == bank_.slots.holders(keys.digest) == 0


def test_a_bank_without_heads_takes_no_keys_and_values() -> None:
    with pytest.raises(BadRequest) as caught:
        bank().load(prefix(1))
    assert caught.value.code == "prefix_not_served"


def test_evicted_keys_and_values_come_back_from_the_host() -> None:
    bank_, content = deep_bank(), prefix(2)
    bank_.load(content)
    assert bank_.evict(content.digest)
    assert bank_.restore(content.digest)
    held = bank_.hold(content.digest, 2, "r", deep=True)
    assert held is not None
    assert torch.equal(held, content.tensor())
    assert bank_.verify() == ()


def test_a_changed_key_is_found() -> None:
    bank_, content = deep_bank(), prefix(1)
    bank_.load(content)
    bank_.slab[2] += 1
    assert bank_.verify() == (content.digest,)


def test_what_a_worker_made_goes_first_and_leaves_nothing_behind() -> None:
    bank_, first = deep_bank(capacity=40), prefix(1, seed=1)
    bank_.load(first)
    bank_.store("made", torch.ones(3, 2, 1, 2, 5))
    assert bank_.hold("made", 1, "r", deep=True) is not None
    bank_.release("r")
    assert bank_.load(prefix(1, seed=2)) == ("made",)
    assert bank_.slots.find(first.digest)
    assert bank_.host_digests() == ()
    assert not bank_.restore("made")


@pytest.mark.parametrize("capacity", [15, 16, 30, 64])
def test_as_many_tokens_keys_find_room_as_is_said(capacity: int) -> None:
    bank_ = deep_bank(capacity)
    bank_.load(prefix(1))
    room = bank_.keys_room
    if room:
        bank_.store("made", torch.ones(3, 2, room, 2, 5))
        assert bank_.keys_room == room  # it would go for another
        bank_.hold("made", room, "r", deep=True)
        assert bank_.keys_room < room
    with pytest.raises((Unavailable, BadRequest)):
        bank_.store("more", torch.ones(3, 2, room + 1, 2, 5))


def test_without_heads_there_is_room_for_no_keys() -> None:
    assert bank().keys_room == 0


def test_what_a_worker_made_takes_no_versions_room() -> None:
    bank_, content = deep_bank(capacity=20), prefix(1)
    bank_.load(content)
    with pytest.raises(Unavailable) as caught:
        bank_.store("made", torch.ones(3, 2, 1, 2, 5))
    assert caught.value.code == "bank_full"
    assert bank_.slots.find(content.digest)
