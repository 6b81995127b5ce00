"""Start-up: refuse what can't be right, then prove on every worker that the overlay is.

The proof needs no reference data. A probe version is made of the model's *own* embeddings of some
token ids. Overlaid, it must answer exactly as those tokens in plain do: that shows the rows, their
position, their scale and the prefix-cache salt to be right on this architecture. Every worker's
count of overlays must have grown, which shows that none was left out. Where keys and values are served
too, those of the probe are caught and loaded again, and must answer alike.
"""

from __future__ import annotations

import math
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from softprompt_serve.artifact import Content
from softprompt_serve.artifact.content import keys_of
from softprompt_serve.errors import StartupRefused, Unavailable
from softprompt_serve.server.residency import until_idle
from softprompt_serve.vllm_plugin.geometry import is_ours
from softprompt_serve.vllm_plugin.reference import KEY, Reference, salt_for
from softprompt_serve.vllm_plugin.worker import EXTENSION

if TYPE_CHECKING:
    from softprompt_serve.settings import Settings
    from softprompt_serve.vllm_plugin.reference import Way
    from softprompt_serve.vllm_plugin.rpc import EngineWorkers

VERIFIED_ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"})
"""Proven token for token against Transformers and PEFT by the end-to-end tests."""

_TOP = 5
_TRIES = 5
_TOLERANCE = 0.05
_ROWS = 3
_IDLE_SECONDS = 10.0


def architecture_refused(model: Any, settings: Settings) -> str | None:
    """Why this model gets no learned versions, or None: some models scale their embeddings.

    The probe shows that rows arrive as stored. Whether rows that PEFT trained are stored as this
    architecture needs them, only a comparison with PEFT shows.
    """
    architecture = (model.hf_config.architectures or ["unknown"])[0]
    if architecture in VERIFIED_ARCHITECTURES or settings.allow_unverified_architecture:
        return None
    return (
        f"Soft prompts and prefixes were not verified on {architecture}; "
        "SOFTPROMPT_ALLOW_UNVERIFIED_ARCHITECTURE=true serves them all the same."
    )


def check_configuration(config: Any, args: Any, environ: dict[str, str]) -> None:
    """Name everything in vLLM's configuration that soft prompts can't work with.

    Raises:
        StartupRefused: ``bad_configuration``, listing all problems.
    """
    if problems := _problems(config, args, environ):
        msg = "softprompt-serve can't start: " + " ".join(problems)
        raise StartupRefused(msg, code="bad_configuration")


def _problems(config: Any, args: Any, environ: dict[str, str]) -> list[str]:
    model, parallel = config.model_config, config.parallel_config
    found: list[tuple[bool, str]] = [
        (not model.enable_prompt_embeds, "Add --enable-prompt-embeds."),
        (
            parallel.worker_extension_cls != EXTENSION,
            f"Add --worker-extension-cls {EXTENSION}.",
        ),
        (
            parallel.data_parallel_size > 1,
            "--data-parallel-size > 1 is not supported: run one server per replica instead.",
        ),
        (
            config.kv_transfer_config is not None and not is_ours(config.kv_transfer_config),
            f"{_connector(config)} (--kv-transfer-config) may know blocks by tokens alone; remove it.",
        ),
        (
            is_ours(config.kv_transfer_config)
            and config.kv_transfer_config.kv_load_failure_policy != "fail",
            'kv_load_failure_policy must be "fail": "recompute" would answer from placeholders.',
        ),
        (
            config.lora_config is not None,
            "--enable-lora is not supported (docs/methods.md says why); merge the adapter instead.",
        ),
        (
            _is_on(environ, "VLLM_USE_RUST_FRONTEND"),
            "VLLM_USE_RUST_FRONTEND bypasses plugins; unset it.",
        ),
        (
            _is_on(environ, "VLLM_SKIP_MODEL_NAME_VALIDATION"),
            "VLLM_SKIP_MODEL_NAME_VALIDATION would answer unknown prompts unprompted; unset it.",
        ),
        (bool(getattr(args, "grpc", False)), "--grpc bypasses plugins; remove it."),
        (
            environ.get("SOFTPROMPT_CALLER_ACCESS") == "tokens"
            and bool(getattr(args, "api_key", None) or environ.get("VLLM_API_KEY")),
            "SOFTPROMPT_CALLER_ACCESS=tokens has keys of its own, which --api-key refuses: remove it.",
        ),
    ]
    return [text for wrong, text in found if wrong]


def _connector(config: Any) -> str:
    return str(getattr(config.kv_transfer_config, "kv_connector", None) or "Another KV connector")


def _is_on(environ: dict[str, str], name: str) -> bool:
    return environ.get(name, "0").lower() not in {"", "0", "false"}


async def check_workers(workers: EngineWorkers) -> list[dict[str, Any]]:
    """Each worker must be patched and have a bank.

    Raises:
        StartupRefused: ``overlay_inactive``, naming the rank and the reason.
    """
    try:
        statuses = await workers.status()
    except Unavailable as error:
        msg = f"The workers lack softprompt-serve's methods: {error.message}"
        raise StartupRefused(msg, code="overlay_inactive") from error
    for status in statuses:
        if status["problem"] or not status["patched"] or not status["bank"]:
            reason = status["problem"] or "the general plugin did not run in it"
            msg = f"Worker {status['rank']} has no overlay: {reason}."
            raise StartupRefused(msg, code="overlay_inactive")
    return statuses


async def prove_overlay(
    engine: Any, workers: EngineWorkers, placeholder: int, *, deep: bool = False
) -> dict[str, Any]:
    """Compare plain tokens with a probe version made of their own embeddings.

    Returns:
        What was compared, for ``GET /softprompts/v1/server``; with ``deep``, also how far the same
        is off by its keys and values (``keys_difference``).

    Raises:
        StartupRefused: ``overlay_inactive`` if the two differ, or a worker overlaid nothing.
    """
    vocabulary = engine.model_config.get_vocab_size()
    ids = [vocabulary // 7 * (i + 1) % vocabulary for i in range(_ROWS + 2)]
    lead, rest = ids[:_ROWS], ids[_ROWS:]
    shape, data = await workers.embed(lead)
    # A digest of its own: several API servers may probe the same engine at once.
    content = Content("soft", secrets.token_hex(8), "float32", (shape[0], shape[1]), data)
    before = [status["applied"] for status in await workers.status()]
    prompt = [placeholder] * _ROWS + rest
    overlaid: dict[int, float] = {}
    loaded: dict[int, float] = {}
    try:
        plain = await _top(engine, lead + rest, None, None)
        for _ in range(_TRIES):
            await workers.load(content.header, content.data, ())
            overlaid = await _by(engine, prompt, content.digest, "rows")
            # No answer at all: another API server that starts may have filled the bank meanwhile.
            if overlaid:
                break
        if deep:
            await _by(engine, prompt, content.digest, "caught", users="keys")
            loaded = await _by(engine, prompt, keys_of(content.digest), "keys")
    finally:
        for digest in (content.digest, keys_of(content.digest)):
            await until_idle(partial(workers.unload, digest, forget=True), _IDLE_SECONDS)
    after = [status["applied"] for status in await workers.status()]
    difference = _difference(plain, overlaid)
    if difference > _TOLERANCE or any(a <= b for a, b in zip(after, before, strict=True)):
        msg = (
            "The overlay is not active: a probe of the model's own embeddings answers "
            f"differently from its tokens (log-probabilities differ by {difference:.3g}; "
            f"overlays per worker {before} → {after})."
        )
        raise StartupRefused(msg, code="overlay_inactive")
    found = {"rows": _ROWS, "logprob_difference": difference, "workers": len(after)}
    return found | ({"keys_difference": _difference(plain, loaded)} if deep else {})


def keys_refused(proof: dict[str, Any]) -> str | None:
    """Why no keys and values are served after :func:`prove_overlay` with ``deep``, or None."""
    difference = proof["keys_difference"]
    if difference <= _TOLERANCE:
        return None
    return (
        "Keys and values are not served: the model's own, loaded again, answer differently "
        f"(log-probabilities differ by {difference:.3g})."
    )


async def _by(
    engine: Any, prompt: list[int], digest: str, way: Way, *, users: str | None = None
) -> dict[int, float]:
    return await _top(engine, prompt, Reference(digest, _ROWS, way), salt_for(digest, users))


async def _top(
    engine: Any, ids: list[int], reference: Reference | None, salt: str | None
) -> dict[int, float]:
    """Log-probabilities of the likeliest next tokens after ``ids``."""
    from vllm import SamplingParams  # noqa: PLC0415 - heavy, and only needed here
    from vllm.inputs import tokens_input  # noqa: PLC0415

    extra = None if reference is None else {KEY: reference.to_extra_args()}
    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=_TOP, extra_args=extra)
    prompt = tokens_input(ids, cache_salt=salt)
    name = f"softprompt-probe-{secrets.token_hex(8)}"
    final = None
    async for output in engine.generate(prompt, params, name):
        final = output
    if final is None or not final.outputs or not final.outputs[0].logprobs:
        return {}
    return {token: value.logprob for token, value in final.outputs[0].logprobs[0].items()}


def _difference(plain: dict[int, float], overlaid: dict[int, float]) -> float:
    """Largest difference over the likeliest token and all tokens that both list."""
    shared = plain.keys() & overlaid.keys()
    if not shared or max(plain, key=plain.__getitem__) not in shared:
        return math.inf
    return max(abs(plain[token] - overlaid[token]) for token in shared)
