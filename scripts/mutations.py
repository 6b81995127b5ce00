"""What is broken on purpose, and the test that must fail for it: the table of ``make mutate``."""

from __future__ import annotations

from typing import Final

from deep_mutations import DEEP
from mutation import Mutation

_OVERLAY: Final = "vllm_plugin/overlay.py"
_FAIL_CLOSED: Final = "vllm_plugin/fail_closed.py"
_GUARD: Final = "vllm_plugin/guard.py"
_OPENAI: Final = "vllm_plugin/openai.py"
_TENSORS: Final = "bank/tensors.py"
_SLOTS: Final = "bank/slots.py"

_V1: Final = "vllm_plugin/test_overlay_v1.py"
_V2: Final = "vllm_plugin/test_overlay_v2.py"
_FAILING: Final = "vllm_plugin/test_fail_closed.py"
_SERVING: Final = "vllm_plugin/test_openai_renderer.py"
_WORKER: Final = "vllm_plugin/test_worker.py"


OVERLAY = (
    Mutation(
        "V1 skips the first row",
        _OVERLAY,
        "self.req_prompt_embeds[index] = rows",
        "self.req_prompt_embeds[index] = rows[1:]",
        f"{_V1}::test_a_request_begins_with_its_versions_rows",
        probe=True,
    ),
    Mutation(
        "V1 leaves one placeholder in",
        _OVERLAY,
        "self.is_token_ids[index, : rows.shape[0]] = False",
        "self.is_token_ids[index, : rows.shape[0] - 1] = False",
        f"{_V1}::test_a_request_begins_with_its_versions_rows",
        probe=True,
    ),
    Mutation(
        "V1 takes the first visible token for a row",
        _OVERLAY,
        "self.is_token_ids[index, : rows.shape[0]] = False",
        "self.is_token_ids[index, : rows.shape[0] + 1] = False",
        f"{_V1}::test_a_request_begins_with_its_versions_rows",
        probe=True,
    ),
    Mutation(
        "V1 reverses the rows",
        _OVERLAY,
        "self.req_prompt_embeds[index] = rows",
        "self.req_prompt_embeds[index] = rows.flip(0)",
        f"{_V1}::test_a_request_begins_with_its_versions_rows",
        probe=True,
    ),
    Mutation(
        "V1 counts rows from where the request goes on",
        _OVERLAY,
        "self.req_prompt_embeds[index] = rows",
        "self.req_prompt_embeds[index] = rows[request.num_computed_tokens :]",
        f"{_V1}::test_a_request_that_goes_on_within_its_rows_has_them_all",
    ),
    Mutation(
        "V1 forgets the mask",
        _OVERLAY,
        "self.is_token_ids[index, : rows.shape[0]] = False",
        "pass",
        f"{_V1}::test_a_request_begins_with_its_versions_rows",
        probe=True,
    ),
    Mutation(
        "V1 keeps a finished request's hold",
        _OVERLAY,
        "overlay.release(req_id)\n        return remove(self, req_id)",
        "return remove(self, req_id)",
        f"{_V1}::test_a_failed_request_is_forgotten_once_it_is_removed",
    ),
    Mutation(
        "V1 on a GPU takes another version's rows from the host",
        _OVERLAY,
        "self.bank.on_host(self.bank.slots.digest_of(request_id))",
        "self.bank.on_host(self.bank.slots.resident()[0].digest)",
        f"{_V1}::test_rows_on_a_device_are_taken_from_the_host_tier",
    ),
    Mutation(
        "V2 points one row too far",
        _OVERLAY,
        "self.embeds_ptrs.np[req_index] = rows.data_ptr()",
        "self.embeds_ptrs.np[req_index] = rows[1:].data_ptr()",
        f"{_V2}::test_pointer_and_length_are_those_of_the_slabs_rows",
        probe=True,
    ),
    Mutation(
        "V2 leaves one placeholder in",
        _OVERLAY,
        "self.embeds_lens.np[req_index] = rows.shape[0]",
        "self.embeds_lens.np[req_index] = rows.shape[0] - 1",
        f"{_V2}::test_chunked_prefill_overlays_exactly_the_first_rows",
        probe=True,
    ),
    Mutation(
        "V2 counts rows from where the request goes on",
        _OVERLAY,
        "self.gpu_tensors[new_req_data.req_id] = (rows, None)",
        "rows = rows[new_req_data.num_computed_tokens :]\n"
        "        self.gpu_tensors[new_req_data.req_id] = (rows, None)",
        f"{_V2}::test_a_prefix_cache_hit_within_the_rows_overlays_the_rest",
    ),
    Mutation(
        "V2 keeps the mask of the slot's last request",
        _OVERLAY,
        "self.mask_ptrs.np[req_index] = 0",
        "pass",
        f"{_V2}::test_a_mask_of_the_slots_last_request_is_cleared",
    ),
    Mutation(
        "V2 reads rows of another dtype",
        _OVERLAY,
        "rows.dtype != self.dtype or not rows.is_contiguous()",
        "not rows.is_contiguous()",
        f"{_V2}::test_rows_of_another_dtype_than_the_models_fail_their_request",
    ),
    Mutation(
        "a missing version goes unmarked",
        _OVERLAY,
        "self.failed.add(request_id)",
        "pass",
        f"{_V1}::test_a_missing_version_marks_its_request_as_failed",
    ),
)

BANK = (
    Mutation(
        "one row beside the version's",
        _TENSORS,
        "return self.slab[slot.start : slot.stop].view(-1)",
        "return self.slab[slot.start + 1 : slot.stop + 1].view(-1)",
        "bank/test_tensors.py::test_what_is_held_is_the_slab_itself_and_no_copy",
        probe=True,
    ),
    Mutation(
        "rows of another version",
        _TENSORS,
        "return self.slab[slot.start : slot.stop].view(-1)",
        "return self.slab[: slot.rows].view(-1)",
        f"{_V1}::test_every_request_of_a_batch_begins_with_its_own_versions_rows",
    ),
    Mutation(
        "rows in reverse in the slab",
        _TENSORS,
        "self._view(slot).copy_(rows)",
        "self._view(slot).copy_(rows.flip(0))",
        "bank/test_tensors.py::test_a_loaded_version_lies_in_the_slab_bit_for_bit",
        probe=True,
    ),
    Mutation(
        "rows through a narrower dtype",
        _TENSORS,
        "rows = self._own(content).to(self.slab.dtype)",
        "rows = self._own(content).bfloat16().to(self.slab.dtype)",
        "bank/test_tensors.py::test_a_loaded_version_lies_in_the_slab_bit_for_bit",
    ),
    Mutation(
        "rows that don't fit the dtype are taken",
        _TENSORS,
        "if not bool(torch.isfinite(rows).all()):",
        "if False:",
        "bank/test_tensors.py::test_values_that_the_cast_makes_infinite_are_refused",
    ),
    Mutation(
        "a reference to fewer rows is served",
        _TENSORS,
        "shape[_TOKENS[len(shape)]] != tokens:",
        "shape[_TOKENS[len(shape)]] < tokens:",
        "bank/test_tensors.py::test_holding_with_another_number_of_rows_holds_nothing",
    ),
    Mutation(
        "the slot of an evicted version stays",
        _SLOTS,
        "for victim in evicted:\n            del self._slots[victim]",
        "for victim in evicted:\n            self._slots[victim]",
        "bank/test_slots.py::test_an_evicted_version_has_no_rows_any_more",
    ),
    Mutation(
        "two versions share a row",
        _SLOTS,
        "start = slot.stop\n",
        "start = slot.stop - 1\n",
        "bank/test_slots.py::test_the_next_version_begins_where_the_last_one_ends",
    ),
    Mutation(
        "a hold is not counted, so a running request's version is evicted",
        _SLOTS,
        "self._held[digest] = self.holders(digest) + 1",
        "self._held[digest] = 0",
        "bank/test_slots.py::test_a_held_version_can_not_be_evicted",
    ),
    Mutation(
        "a held version is evicted for a newcomer",
        _SLOTS,
        "return not self.holders(slot.digest)",
        "return True",
        "bank/test_slots.py::test_a_held_version_is_never_evicted_for_a_newcomer",
    ),
    Mutation(
        "a leased version is evicted for a newcomer",
        _SLOTS,
        "if slot.digest not in keep and ",
        "if ",
        "bank/test_slots.py::test_a_kept_version_is_never_evicted_for_a_newcomer",
    ),
    Mutation(
        "the worker forgets which versions are leased",
        "vllm_plugin/worker.py",
        "evicted = bank.load(content, keep=keep)",
        "evicted = bank.load(content)",
        f"{_WORKER}::test_what_the_server_has_leased_is_not_evicted_for_a_newcomer",
    ),
)

REQUEST = (
    Mutation(
        "no salt",
        _OPENAI,
        'engine_input["cache_salt"] = salt_for(version.digest, engine_input.get("cache_salt"))',
        "pass",
        f"{_SERVING}::test_the_handler_gets_placeholders_and_salt_from_the_renderer",
    ),
    Mutation(
        "one placeholder too few",
        _OPENAI,
        "[self.placeholder] * version.virtual_tokens + visible",
        "[self.placeholder] * (version.virtual_tokens - 1) + visible",
        f"{_SERVING}::test_the_handler_gets_placeholders_and_salt_from_the_renderer",
    ),
    Mutation(
        "one salt for all versions",
        "vllm_plugin/reference.py",
        "salt = SALT_PREFIX + digest[:32]",
        'salt = SALT_PREFIX + "0" * 32',
        "vllm_plugin/test_reference.py::test_versions_never_share_a_salt",
    ),
    Mutation(
        "one salt for all users",
        "vllm_plugin/reference.py",
        'return f"{salt}:{own[:32]}"',
        "return salt",
        "vllm_plugin/test_reference.py::test_users_with_salts_of_their_own_never_share_one",
    ),
    Mutation(
        "placeholders are not looked at",
        "vllm_plugin/reference.py",
        "if token_ids is None or list(token_ids[:rows]) != [placeholder] * rows:",
        "if token_ids is None:",
        "vllm_plugin/test_reference.py::test_a_reference_whose_placeholders_do_not_lead_is_refused",
    ),
    Mutation(
        "the guard lets through what was not added",
        _GUARD,
        "if decision is not None and not scope.added:",
        "if False:",
        f"{_SERVING}::test_a_text_that_was_not_added_is_missed_before_the_engine",
    ),
    Mutation(
        "the guard compares nothing",
        _GUARD,
        "check_pair(Reference.to(version), salt",
        "(lambda *_: None)(Reference.to(version), salt",
        f"{_SERVING}::test_a_rendered_prompt_that_was_swapped_is_stopped_before_the_engine",
    ),
    Mutation(
        "the guard attaches no reference",
        _GUARD,
        "params = with_reference(sampling_params, reference)",
        "params = sampling_params",
        f"{_SERVING}::test_the_engine_gets_the_reference_that_workers_act_on",
    ),
    Mutation(
        "the guard's lease ends at once",
        _GUARD,
        "lease = self.residency.lease(version)\n",
        "lease = self.residency.lease(version)\n        lease.release()\n",
        f"{_SERVING}::test_a_background_stream_keeps_its_lease_after_the_response",
    ),
    Mutation(
        "a lost version is not loaded again",
        _GUARD,
        "elif await self._lost(version, attempt):",
        "elif False:",
        f"{_SERVING}::test_a_lost_version_is_loaded_and_the_request_started_once_more",
    ),
    Mutation(
        "a request that has answered is started again",
        _GUARD,
        "answered = True",
        "answered = False",
        f"{_SERVING}::test_a_request_that_has_answered_is_never_started_again",
    ),
    Mutation(
        "the choice is not leased",
        "vllm_plugin/resolve.py",
        "scope.lease = service.residency.lease(decision.version)",
        "pass",
        f"{_SERVING}::test_a_version_is_leased_from_its_choice_to_the_last_token",
    ),
    Mutation(
        "a request changes its version within itself",
        "vllm_plugin/resolve.py",
        "if scope.decision is not None:\n            return scope.decision",
        "if False:\n            return scope.decision",
        f"{_SERVING}::test_one_request_stays_on_one_version_through_a_swap",
    ),
    Mutation(
        "routes that can't carry a prompt are not refused",
        "vllm_plugin/resolve.py",
        "if not scope.covered:",
        "if False:",
        f"{_SERVING}::test_a_route_that_is_not_known_to_carry_prompts_is_refused",
    ),
    Mutation(
        "virtual tokens don't count for the length",
        "vllm_plugin/carry.py",
        "total = version.virtual_tokens + visible + (asked or 1)",
        "total = visible + (asked or 1)",
        "vllm_plugin/test_carry.py::test_virtual_visible_and_generated_tokens_must_fit_the_context",
    ),
    Mutation(
        "a soft version goes with beam search and truncation",
        "vllm_plugin/carry.py",
        "fields = _CANT_CARRY_ROWS if version.learned else _CANT_CARRY_ANYTHING",
        "fields = _CANT_CARRY_ANYTHING",
        "vllm_plugin/test_carry.py::test_what_can_not_carry_a_soft_prompt_is_refused_by_name",
    ),
    Mutation(
        "an answer's tokens are counted twice",
        "vllm_plugin/answering.py",
        "before = self._counts.get(choice.index, 0) if delta else 0",
        "before = self._counts.get(choice.index, 0)",
        "vllm_plugin/test_answering.py::test_the_first_choice_is_kept_and_all_are_counted",
    ),
)

FAILING = (
    Mutation(
        "a failed request is not marked",
        _FAIL_CLOSED,
        "here = failed & set(output.req_id_to_index)",
        "here = frozenset()",
        f"{_FAILING}::test_a_failed_request_is_marked_on_the_output",
    ),
    Mutation(
        "a failed request keeps what it sampled",
        _FAIL_CLOSED,
        "output.sampled_token_ids[output.req_id_to_index[request_id]] = []",
        "pass",
        f"{_FAILING}::test_what_a_failed_request_sampled_is_dropped_and_others_keep_theirs",
    ),
    Mutation(
        "the scheduler overlooks the mark",
        _FAIL_CLOSED,
        "_fail(self, failed)",
        "pass",
        f"{_FAILING}::test_a_failed_requests_blocks_are_never_reused",
    ),
    Mutation(
        "blocks of a request that ended with a failed one stay in the prefix cache",
        _FAIL_CLOSED,
        "kv.evict_blocks(tainted.union(*(blocks_of(rid) for rid in ending)))",
        "pass",
        f"{_FAILING}::test_blocks_of_a_request_that_ended_with_a_failed_one_are_never_reused",
    ),
    Mutation(
        "blocks of a preempted request stay in the prefix cache",
        _FAIL_CLOSED,
        "tainted |= _forget_hashes(kv, scheduler.requests[rid].block_hashes)",
        "pass",
        f"{_FAILING}::test_blocks_of_a_request_that_was_preempted_meanwhile_are_never_reused",
    ),
    Mutation(
        "a request on failed blocks goes on",
        _FAIL_CLOSED,
        "ending = {*present, *(rid for rid in running if blocks_of(rid) & tainted)}",
        "ending = {*present}",
        f"{_FAILING}::test_a_request_scheduled_onto_failed_blocks_ends_with_them",
    ),
    Mutation(
        "the engine's door compares nothing",
        _FAIL_CLOSED,
        "        check_pair(\n            reference,\n            request.cache_salt",
        "        (lambda *_: None)(\n            reference,\n            request.cache_salt",
        f"{_FAILING}::test_a_request_whose_parts_disagree_does_not",
    ),
    Mutation(
        "the probe takes any answer",
        "vllm_plugin/probe.py",
        "if difference > _TOLERANCE or any(",
        "if any(",
        "vllm_plugin/test_probe.py::test_another_answer_or_none_is_a_refusal",
    ),
    Mutation(
        "the probe doesn't miss a worker",
        "vllm_plugin/probe.py",
        "any(a <= b for",
        "any(a < b for",
        "vllm_plugin/test_probe.py::test_a_worker_that_overlaid_nothing_is_a_refusal",
    ),
)

MUTATIONS: Final = (*OVERLAY, *DEEP, *BANK, *REQUEST, *FAILING)

QUICK: Final = (
    "V1 leaves one placeholder in",
    "V1 counts rows from where the request goes on",
    "V2 points one row too far",
    "keys and values go to the next layer",
    "keys and values go one slot too far",
    "one row beside the version's",
    "rows of another version",
    "rows in reverse in the slab",
    "rows through a narrower dtype",
    "the slot of an evicted version stays",
    "a hold is not counted, so a running request's version is evicted",
    "no salt",
    "the guard compares nothing",
    "the scheduler overlooks the mark",
)
"""One of each kind, for every change; ``make mutate`` tries all."""
