"""Methods that ``--worker-extension-cls`` adds to vLLM's worker, called by ``collective_rpc``.

Each answers with plain data. An error of ours travels as ``{"error": {...}}``, because an
exception in an RPC would reach the caller as text, and on several ranks would hang the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softprompt_serve.artifact import content_from_parts
from softprompt_serve.errors import SoftpromptError, Unavailable
from softprompt_serve.vllm_plugin.overlay import OVERLAY
from softprompt_serve.vllm_plugin.register import REGISTRATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.bank.tensors import Bank

EXTENSION = f"{__name__}.SoftpromptWorker"


class SoftpromptWorker:
    """Mixed into the worker class by vLLM; every name begins with ``softprompt_``."""

    def softprompt_status(self) -> dict[str, Any]:
        """What is active and resident on this worker; never fails."""
        bank = OVERLAY.bank
        status: dict[str, Any] = {
            "patched": REGISTRATION.patched,
            "problem": REGISTRATION.problem,
            "rank": getattr(self, "rank", 0),
            "runner": "v2" if getattr(self, "use_v2_model_runner", False) else "v1",
            "applied": OVERLAY.applied,
            "bank": bank is not None,
            "resident": {},
        }
        if bank is not None:
            status |= {
                "device": str(bank.slab.device),
                "dtype": str(bank.slab.dtype).removeprefix("torch."),
                "hidden_size": bank.hidden_size,
                "deep": bank.heads is not None,
                "deep_problem": OVERLAY.deep_problem,
                "capacity_rows": bank.slots.capacity,
                "used_rows": bank.slots.used,
                "keys_room": bank.keys_room,
                "slab_bytes": bank.slab.nbytes,
                "resident": {slot.digest: slot.rows for slot in bank.slots.resident()},
                "held": {
                    slot.digest: held
                    for slot in bank.slots.resident()
                    if (held := bank.slots.holders(slot.digest))
                },
                "host": list(bank.host_digests()),
            }
        return status

    def softprompt_load(self, header: bytes, data: bytes, keep: list[str]) -> dict[str, Any]:
        """Make a version resident; the digest is computed anew from what arrived."""

        def load(bank: Bank) -> dict[str, Any]:
            content = content_from_parts(header, data)
            evicted = bank.load(content, keep=keep)
            return {"digest": content.digest, "evicted": list(evicted)}

        return _answer(load)

    def softprompt_restore(self, digest: str, keep: list[str]) -> dict[str, Any]:
        """Make an evicted version resident from this worker's host tier, if it is there."""
        return _answer(lambda bank: {"restored": bank.restore(digest, keep=keep)})

    def softprompt_unload(self, digest: str, forget: bool) -> dict[str, Any]:  # noqa: FBT001 - RPC
        """Evict a version; with ``forget``, drop its host copy too."""

        def unload(bank: Bank) -> dict[str, Any]:
            if forget:
                bank.forget(digest)
            else:
                bank.evict(digest)
            return {"unloaded": True}

        return _answer(unload)

    def softprompt_verify(self) -> dict[str, Any]:
        """Digests whose rows on the device have changed since they were loaded."""
        return _answer(lambda bank: {"corrupt": list(bank.verify())})

    def softprompt_embed(self, token_ids: list[int]) -> dict[str, Any]:
        """The model's own input embeddings of ``token_ids``, for the start-up probe.

        float32 bytes, ``[len(token_ids), hidden_size]``, as the model's layers would get them.
        """

        def embed(bank: Bank) -> dict[str, Any]:
            import torch  # noqa: PLC0415 - only the probe needs it

            model = self.model_runner.model  # type: ignore[attr-defined]
            with torch.inference_mode():
                ids = torch.tensor(token_ids, device=bank.slab.device)
                rows = model.embed_input_ids(ids).float().cpu().contiguous()
            return {"shape": list(rows.shape), "data": rows.numpy().tobytes()}

        return _answer(embed)


def _answer(act: Callable[[Bank], dict[str, Any]]) -> dict[str, Any]:
    try:
        if OVERLAY.bank is None:
            msg = "This worker has no bank; the server was started without --enable-prompt-embeds."
            raise Unavailable(msg, code="bank_missing")
        return act(OVERLAY.bank)
    except SoftpromptError as error:
        return {
            "error": {
                "class": type(error).__name__,
                "message": error.message,
                "code": error.code,
                "retry_after": error.retry_after,
            }
        }
