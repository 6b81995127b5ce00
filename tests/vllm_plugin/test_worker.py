"""What the worker's methods do with its bank, called as vLLM calls them."""

from __future__ import annotations

import pytest
import torch

from softprompt_serve.artifact import Content
from softprompt_serve.bank.tensors import Bank
from softprompt_serve.vllm_plugin import worker
from softprompt_serve.vllm_plugin.overlay import Overlay
from softprompt_serve.vllm_plugin.worker import SoftpromptWorker

HIDDEN = 4


def soft(rows: int, seed: int = 0) -> Content:
    values = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed))
    data = values.view(torch.uint8).numpy().tobytes()
    return Content("soft", dtype="float32", shape=(rows, HIDDEN), data=data)


@pytest.fixture
def overlay(monkeypatch: pytest.MonkeyPatch) -> Overlay:
    """The process' overlay, with a bank of 8 rows."""
    overlay = Overlay()
    cpu = torch.device("cpu")
    overlay.bank = Bank(8, HIDDEN, dtype=torch.float32, device=cpu, host_bytes=1 << 20)
    monkeypatch.setattr(worker, "OVERLAY", overlay)
    return overlay


def load(content: Content, *keep: str) -> dict[str, object]:
    return SoftpromptWorker().softprompt_load(content.header, content.data, list(keep))


def test_what_arrives_is_resident_under_the_digest_of_what_arrived(overlay: Overlay) -> None:
    content = soft(3)
    assert load(content) == {"digest": content.digest, "evicted": []}
    assert SoftpromptWorker().softprompt_status()["resident"] == {content.digest: 3}


def test_what_was_evicted_for_a_newcomer_is_named(overlay: Overlay) -> None:
    old, new = soft(5, 1), soft(5, 2)
    load(old)
    assert load(new) == {"digest": new.digest, "evicted": [old.digest]}


def test_what_the_server_has_leased_is_not_evicted_for_a_newcomer(overlay: Overlay) -> None:
    leased = soft(5, 1)
    load(leased)
    answer = load(soft(5, 2), leased.digest)
    assert "error" in answer
    assert SoftpromptWorker().softprompt_status()["resident"] == {leased.digest: 5}


def test_what_is_leased_is_not_evicted_for_what_comes_back(overlay: Overlay) -> None:
    back, leased = soft(5, 1), soft(5, 2)
    load(back)
    load(leased)
    answer = SoftpromptWorker().softprompt_restore(back.digest, [leased.digest])
    assert answer["error"]["code"] == "bank_full"
    assert SoftpromptWorker().softprompt_restore(back.digest, []) == {"restored": True}


@pytest.mark.parametrize(("forget", "restored"), [(False, True), (True, False)])
def test_only_what_is_forgotten_can_not_come_back(
    overlay: Overlay, *, forget: bool, restored: bool
) -> None:
    content = soft(3)
    load(content)
    assert SoftpromptWorker().softprompt_unload(content.digest, forget) == {"unloaded": True}
    assert SoftpromptWorker().softprompt_restore(content.digest, []) == {"restored": restored}


def test_an_error_of_ours_travels_as_data(overlay: Overlay) -> None:
    assert load(soft(9))["error"] == {
        "class": "BadRequest",
        "message": "A version of 9 rows can't fit a bank of 8; raise SOFTPROMPT_BANK_ROWS.",
        "code": "bank_too_small",
        "retry_after": None,
    }


def test_without_a_bank_that_is_what_is_said(overlay: Overlay) -> None:
    overlay.bank = None
    answer = load(soft(3))
    assert isinstance(answer["error"], dict)
    assert answer["error"]["code"] == "bank_missing"
    assert SoftpromptWorker().softprompt_status()["bank"] is False


def test_rows_that_changed_in_memory_are_found(overlay: Overlay) -> None:
    content = soft(3)
    load(content)
    assert SoftpromptWorker().softprompt_verify() == {"corrupt": []}
    assert overlay.bank is not None
    overlay.bank.slab[1, 1] += 1
    assert SoftpromptWorker().softprompt_verify() == {"corrupt": [content.digest]}
