"""``vllm.general_plugins``: runs in every vLLM process, checks the seams, then patches.

vLLM loads this wherever the package is installed, also for servers that never asked for soft
prompts, so it must not break them: a check that fails patches nothing and is remembered. The
endpoint plugin and the start-up probe refuse to go on from there.
"""

from __future__ import annotations

import logging
import os
from functools import wraps
from typing import Any

from softprompt_serve.bank.tensors import Bank
from softprompt_serve.errors import SoftpromptError
from softprompt_serve.settings import load_settings
from softprompt_serve.telemetry.redaction import protect
from softprompt_serve.vllm_plugin import fail_closed, logs, overlay, seam, seams
from softprompt_serve.vllm_plugin.geometry import heads_of
from softprompt_serve.vllm_plugin.placeholder import placeholder_id

logger = logging.getLogger(__name__)


class Registration:
    """What happened in this process: patched, refused (``problem``), or not yet run."""

    def __init__(self) -> None:
        """Nothing has run yet."""
        self.patched = False
        self.problem: str | None = None


REGISTRATION = Registration()


def register() -> None:
    """Patch this process once; see the module's docstring."""
    if REGISTRATION.patched or REGISTRATION.problem:
        return
    logs.settle()
    try:
        settings = load_settings()
        protect(settings, os.environ)
        seams.check_version(allow_unsupported=settings.allow_unsupported_vllm)
        seam.verify(seams.ENGINE_SEAMS)
    except SoftpromptError as error:
        REGISTRATION.problem = error.message
        logger.error("softprompt-serve stays inactive: %s", error.message)  # noqa: TRY400
        return
    _patch()
    REGISTRATION.patched = True


def _patch() -> None:
    state = overlay.OVERLAY
    overlay.patch_v1(seam.resolve(seams.V1_RUNNER), state)
    overlay.patch_v2(seam.resolve(seams.V2_STATE), state)
    worker = seam.resolve(seams.WORKER)
    async_output = seam.resolve(seams.ASYNC_OUTPUT)
    fail_closed.patch_worker(worker, async_output, state)
    _patch_load_model(worker, state)
    fail_closed.patch_scheduler(seam.resolve(seams.SCHEDULER))
    fail_closed.patch_engine_core(seam.resolve(seams.ENGINE_CORE), placeholder_id)


def _patch_load_model(worker: type[Any], state: overlay.Overlay) -> None:
    """Reserve the slab right after the weights, so that KV profiling counts it."""
    load = worker.load_model

    @wraps(load)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        model = self.vllm_config.model_config
        if not model.enable_prompt_embeds:
            return  # the probe names the missing flag
        settings = load_settings()
        state.bank = Bank(
            settings.bank_rows,
            model.get_inputs_embeds_size(),
            dtype=model.dtype,
            device=self.device,
            host_bytes=settings.host_tier_bytes,
            heads=heads_of(self.vllm_config),
        )

    worker.load_model = load_model
