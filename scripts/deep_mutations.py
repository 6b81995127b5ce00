"""Defects of keys and values, for the table of ``make mutate``."""

from __future__ import annotations

from typing import Final

from mutation import Mutation

_DEEP: Final = "vllm_plugin/deep.py"
_CAPTURE: Final = "vllm_plugin/capture.py"
_BLOCKS: Final = "vllm_plugin/blocks.py"
_OVERLAY: Final = "vllm_plugin/overlay.py"
_TENSORS: Final = "bank/tensors.py"
_HEADS: Final = "bank/heads.py"
_GUARD: Final = "vllm_plugin/guard.py"

_TESTS: Final = "vllm_plugin/test_deep.py"
_WRITTEN: Final = f"{_TESTS}::test_every_layer_gets_its_own_keys_and_values"
_CAUGHT: Final = f"{_TESTS}::test_what_the_layers_write_is_caught_in_the_requests_order"
_BANK: Final = "bank/test_tensors.py"
_FAILS: Final = "vllm_plugin/test_overlay_v1.py::test_a_prefix_whose_tokens_would_be_computed_fails"

DEEP: Final = (
    Mutation(
        "keys and values go to the next layer",
        _DEEP,
        "zip(self._layers, held, strict=True)",
        "zip(self._layers, held.roll(1, 0), strict=True)",
        _WRITTEN,
        probe=True,
    ),
    Mutation(
        "layers are taken as a dictionary has them",
        _DEEP,
        "for name in sorted(kv_caches, key=_number)",
        "for name in kv_caches",
        _WRITTEN,
    ),
    Mutation(
        "keys and values change places",
        _DEEP,
        "layer, keys[load.first :], values[load.first :]",
        "layer, values[load.first :], keys[load.first :]",
        _WRITTEN,
        probe=True,
    ),
    Mutation(
        "the first are loaded where the last are missing",
        _DEEP,
        "layer, keys[load.first :], values[load.first :]",
        "layer, keys[: load.rows - load.first], values[: load.rows - load.first]",
        _WRITTEN,
    ),
    Mutation(
        "keys and values go one slot too far",
        _BLOCKS,
        "* block + positions % block",
        "* block + positions % block + 1",
        f"{_TESTS}::test_slots_are_where_the_blocks_are",
        probe=True,
    ),
    Mutation(
        "blocks are taken in the order of their numbers",
        _BLOCKS,
        "torch.tensor(block_ids)",
        "torch.tensor(sorted(block_ids))",
        f"{_TESTS}::test_slots_are_where_the_blocks_are",
    ),
    Mutation(
        "one token less is loaded, and a placeholder computed",
        _DEEP,
        "max(reference.rows - num_computed_tokens, 0)",
        "max(reference.rows - num_computed_tokens - 1, 0)",
        f"{_TESTS}::test_what_the_prefix_cache_has_not_is_loaded",
        probe=True,
    ),
    Mutation(
        "a step's loads are loaded with the next step, too",
        _DEEP,
        "step, self._next = self._next, Step()",
        "step = self._next",
        f"{_TESTS}::test_a_step_is_told_once_what_to_load",
    ),
    Mutation(
        "a request without its keys and values goes on",
        _DEEP,
        "            if held is None:\n                OVERLAY.failed.add(load.request_id)\n",
        "            if held is None:\n",
        f"{_TESTS}::test_a_request_whose_keys_and_values_are_not_there_fails",
    ),
    Mutation(
        "a prefix's tokens may be computed",
        _OVERLAY,
        "if held is None or (reference.deep and computed < reference.rows):",
        "if held is None:",
        _FAILS,
    ),
    Mutation(
        "rows are held as keys and values",
        _TENSORS,
        "if len(shape) != (_DEEP if deep else _SOFT) or shape",
        "if shape",
        f"{_BANK}::test_one_kind_is_never_held_as_the_other",
    ),
    Mutation(
        "a rank takes another's heads",
        _HEADS,
        "self.first : self.first + self.count",
        "0 : self.count",
        "bank/test_heads.py::test_ranks_share_the_heads_out_in_order",
    ),
    Mutation(
        "what is caught is in the batch's order",
        _CAPTURE,
        "where[where[:, 1].argsort(), 0]",
        "where[:, 0].sort().values",
        f"{_TESTS}::test_what_is_caught_follows_the_request_whatever_the_batchs_order",
    ),
    Mutation(
        "another request's keys and values are caught",
        _CAPTURE,
        "(slot_mapping[:, None] == one.slots.to(slot_mapping.device)).nonzero()",
        "(slot_mapping[:, None] == one.slots.to(slot_mapping.device) + 20).nonzero()",
        _CAUGHT,
    ),
    Mutation(
        "what is not whole is kept",
        _CAPTURE,
        "if len(where) == one.what.rows:",
        "if len(where):",
        f"{_TESTS}::test_what_is_not_whole_is_not_kept",
    ),
    Mutation(
        "layers are watched for ever",
        _CAPTURE,
        "del layer.impl.do_kv_cache_update  # the class' own again",
        "pass",
        _CAUGHT,
    ),
    Mutation(
        "what is loaded shares blocks with what is computed",
        _GUARD,
        "salt = salt_for(keys, None) + prompt",
        "salt = mine + prompt",
        "vllm_plugin/test_openai_renderer.py::"
        "test_where_keys_and_values_are_kept_they_are_loaded_instead",
    ),
)
