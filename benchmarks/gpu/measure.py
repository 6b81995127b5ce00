"""The same costs as on paper, measured on a CUDA device with vLLM's own kernel and our own bank."""

from __future__ import annotations

import base64
import hashlib
import io
import statistics
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from gpu.paper import Costs
from softprompt_serve.artifact import Content
from softprompt_serve.bank.tensors import Bank

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu.paper import Case

WARM_UPS, REPEATS, CALLS = 10, 21, 50
DTYPE = torch.bfloat16
HOST_BYTES = 1 << 30


def measure(case: Case, device: torch.device, versions: int) -> Costs:
    """All costs of one case; ``versions`` are made resident to see what each of them takes.

    Raises:
        ImportError: vLLM's V2 model runner, or Triton, is not installed.
    """
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    bank = Bank(
        case.rows * versions, case.hidden, dtype=DTYPE, device=device, host_bytes=HOST_BYTES
    )
    taken = torch.cuda.memory_allocated(device) - before
    digests = []
    for number in range(versions):
        content = _content(case, number)
        bank.load(content)
        digests.append(content.digest)
    rows = bank.hold(digests[0], case.rows, "r-0")
    assert rows is not None  # noqa: S101 - it was just loaded
    inputs = torch.zeros(case.rows + case.visible, case.hidden, dtype=DTYPE, device=device)
    overlay = _kernel(case, rows, inputs, device)
    host, on_device = _native(case, inputs, device)
    return Costs(
        resident_bytes=taken // versions,
        load_seconds=_wall(lambda: _reload(bank, digests[-1])),
        copy_seconds=_on_device(lambda: inputs[: case.rows].copy_(rows)),
        overlay_seconds=_on_device(overlay),
        native_host_seconds=host,
        native_device_seconds=on_device,
    )


def _content(case: Case, seed: int) -> Content:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(case.rows, case.hidden, generator=generator) * 0.02
    return Content("soft", None, "float32", (case.rows, case.hidden), rows.numpy().tobytes())


def _reload(bank: Bank, digest: str) -> None:
    """As after an eviction: from the host tier, checked and waited for."""
    bank.evict(digest)
    bank.restore(digest)


def _kernel(
    case: Case, rows: torch.Tensor, inputs: torch.Tensor, device: torch.device
) -> Callable[[], object]:
    """The overlay of one request by vLLM's kernel; its rows lie in the slab; checked once.

    Raises:
        RuntimeError: what it wrote is not what the slab holds.
    """
    import numpy as np
    from vllm.v1.worker.gpu.model_states.prompt_embeds import PromptEmbedsState

    state = PromptEmbedsState(1, case.hidden, DTYPE, device)
    state.gpu_tensors["r-0"] = (rows, None)
    state.embeds_ptrs.np[0] = rows.data_ptr()
    state.mask_ptrs.np[0] = 0
    state.embeds_lens.np[0] = rows.shape[0]
    state.apply_staged_writes()
    tokens = inputs.shape[0]
    batch: Any = SimpleNamespace(
        num_reqs=1,
        num_scheduled_tokens=np.array([tokens], dtype=np.int32),
        idx_mapping=torch.zeros(1, dtype=torch.int32, device=device),
        query_start_loc=torch.tensor([0, tokens], dtype=torch.int32, device=device),
    )
    computed = torch.zeros(1, dtype=torch.int32, device=device)

    def apply() -> None:
        state.apply(batch, computed, inputs)

    apply()
    torch.cuda.synchronize(device)
    if not torch.equal(inputs[: case.rows], rows):
        msg = "The kernel did not write the slab's rows."
        raise RuntimeError(msg)
    return apply


def _native(case: Case, inputs: torch.Tensor, device: torch.device) -> tuple[float, float]:
    """What a client's embeddings cost: decoded, read and hashed; then copied and written like ours."""
    sent = torch.randn(inputs.shape[0], case.hidden).to(DTYPE)
    buffer = io.BytesIO()
    torch.save(sent, buffer)
    encoded, pinned = base64.b64encode(buffer.getvalue()), sent.pin_memory()

    def arrive() -> None:
        found = torch.load(io.BytesIO(base64.b64decode(encoded)), weights_only=True)
        hashlib.sha256(found.view(torch.uint8).numpy().tobytes()).digest()

    def enter() -> None:
        inputs.copy_(pinned.to(device, non_blocking=True))
        torch.cuda.synchronize(device)

    return _wall(arrive), _wall(enter)


def _on_device(work: Callable[[], object]) -> float:
    """Seconds of one call by the device's clock, launches back to back; median of the repeats."""
    for _ in range(WARM_UPS):
        work()
    found = []
    for _ in range(REPEATS):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        for _ in range(CALLS):
            work()
        ended.record()
        ended.synchronize()
        found.append(begun.elapsed_time(ended) / 1000 / CALLS)
    return statistics.median(found)


def _wall(work: Callable[[], object]) -> float:
    """Seconds of one call that waits for the device itself; median of the repeats."""
    for _ in range(WARM_UPS):
        work()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)
