"""``vllm.endpoint_plugins``: opens everything at start, in order, and wires it to vLLM's server."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import REGISTRY

from softprompt_serve import __version__
from softprompt_serve.app import attach
from softprompt_serve.artifact import Limits
from softprompt_serve.errors import StartupRefused
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import url_of
from softprompt_serve.registry.objects import open_blobs
from softprompt_serve.server.auth import admin_token
from softprompt_serve.server.callers import callers_of
from softprompt_serve.server.evidence_gauges import EvidenceGauges
from softprompt_serve.server.gauges import Gauges
from softprompt_serve.server.opening import following
from softprompt_serve.server.residency import Residency
from softprompt_serve.server.served import Served
from softprompt_serve.server.state import AppState
from softprompt_serve.settings import load_settings
from softprompt_serve.shadow.runner import Runner
from softprompt_serve.telemetry import request_log
from softprompt_serve.telemetry.metrics import Metrics
from softprompt_serve.telemetry.redaction import SECRETS
from softprompt_serve.telemetry.spans import Describer
from softprompt_serve.telemetry.tracing import Tracing
from softprompt_serve.vllm_plugin import geometry, logs, probe, seam, seams
from softprompt_serve.vllm_plugin.guard import EngineGuard
from softprompt_serve.vllm_plugin.identity import identify
from softprompt_serve.vllm_plugin.inputs import counting
from softprompt_serve.vllm_plugin.openai import PromptedModels, PromptedRenderer
from softprompt_serve.vllm_plugin.placeholder import placeholder_id
from softprompt_serve.vllm_plugin.register import REGISTRATION
from softprompt_serve.vllm_plugin.resolve import Resolver
from softprompt_serve.vllm_plugin.rpc import EngineWorkers
from softprompt_serve.vllm_plugin.shadow import LEAST_URGENT, Shadows
from softprompt_serve.vllm_plugin.tools import tool_parser_of
from softprompt_serve.vllm_plugin.warming import Warming

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Callable

    from fastapi import FastAPI

    from softprompt_serve.server.service import Service

logger = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 10.0


class SoftpromptEndpoint:
    """vLLM's ``EndpointPlugin``. An exception here ends the server, and says why."""

    name = "softprompt_serve"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        """Read settings; a bad one ends the start here."""
        self.settings = load_settings()
        installed = seams.installed_vllm()
        self.state = AppState(self.settings, vllm=" ".join(installed or ("vllm", "missing")))

    def attach_router(self, app: FastAPI) -> None:
        """Add routes and middleware, and a part in the server's shutdown."""
        attach(app, self.state)
        app.router.lifespan_context = _closing(self.state, app.router.lifespan_context)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Check, prove, restore, then wire; names of ours exist only after the last step.

        Raises:
            StartupRefused: with the first condition that failed.
        """
        logs.attend(self.settings, args)
        try:
            await self._start(engine_client, state, args)
        except StartupRefused as error:
            logger.critical("softprompt-serve refuses to start: %s", error.message)
            raise

    async def _start(self, engine: Any, state: Any, args: Namespace) -> None:
        config = engine.vllm_config
        if REGISTRATION.problem:
            raise StartupRefused(REGISTRATION.problem)
        seam.verify(seams.SERVER_SEAMS)
        probe.check_configuration(config, args, dict(os.environ))
        workers = EngineWorkers(engine)
        statuses = await probe.check_workers(workers)
        placeholder = placeholder_id(config)
        soft_refused = probe.architecture_refused(config.model_config, self.settings)
        refused = soft_refused or geometry.prefixes_refused(config) or _problem_of(statuses)
        proof = await probe.prove_overlay(engine, workers, placeholder, deep=refused is None)
        refused = refused or probe.keys_refused(proof)
        self.state.probe = proof

        SECRETS.learn(admin_token(self.settings))
        service = await self._open(
            engine, workers, args, soft_refused=soft_refused, prefix_refused=refused
        )
        self.state.tracing = self._measure(service)
        await service.start()
        _check_names(service)
        if (warming := _warming(service, engine, placeholder, keep=refused is None)) is not None:
            service.keeping.warm = warming
            service.companions.append(warming)
            await service.keeping.prepare(service.snapshot, service.traffic)
        self._wire(service, engine, state, placeholder)
        self.state.service = service
        served = service.served
        for reason in dict.fromkeys(filter(None, (served.soft_refused, served.prefix_refused))):
            logger.warning(reason)
        logger.info("softprompt-serve is ready: %s", self.state.probe)

    async def _open(
        self,
        engine: Any,
        workers: EngineWorkers,
        args: Namespace,
        *,
        soft_refused: str | None,
        prefix_refused: str | None,
    ) -> Service:
        settings, model = self.settings, engine.model_config
        home = settings.home_dir
        url = settings.database_url or url_of(home / "catalogue.db")
        home.mkdir(parents=True, exist_ok=True)
        guarded = self.settings.promotion_gates == "enforce"
        catalogue = await asyncio.to_thread(Catalogue.open, url, guarded=guarded)
        store = await asyncio.to_thread(open_blobs, settings)
        names = frozenset(args.served_model_name or [args.model])
        served = Served(
            names=names,
            identity=await asyncio.to_thread(
                identify, model, names, settings, chat_template=_given_template(args)
            ),
            limits=Limits(
                hidden_size=model.get_inputs_embeds_size(),
                model_dtype=str(model.dtype).removeprefix("torch."),
                max_virtual_tokens=min(settings.max_virtual_tokens, settings.bank_rows),
                max_model_len=model.max_model_len,
                max_text_chars=settings.max_text_chars,
                max_bytes=settings.max_upload_bytes,
                kv=geometry.kv_shape(model) if prefix_refused is None else None,
            ),
            prefix_refused=prefix_refused,
            soft_refused=soft_refused,
            siblings=(getattr(args, "api_server_count", 1) or 1) > 1,
        )
        return following(settings, catalogue, store, Residency(workers, store), served)

    def _measure(self, service: Service) -> Tracing | None:
        """Listen to all that happens from now on; None while tracing is off."""
        # vLLM's own /metrics reads this registry, or the files that it writes for several servers.
        model = service.served.identity
        name, revision = model.name or "unknown", model.revision
        metrics = Metrics(
            REGISTRY,
            base_model=name,
            prices=service.prices,
            arms=self.settings.metric_arms,
            build={
                "version": __version__,
                "vllm": self.state.vllm,
                "base_revision": revision or "",
            },
        )
        metrics.listen_to(service.events)
        if self.settings.log_requests:
            request_log.listen_to(service.events)
        service.companions += [Gauges(service, metrics), EvidenceGauges(service, metrics)]
        tracing = Tracing.from_environment(
            self.settings,
            Describer(name, revision, service.prices),
            version=__version__,
            on_drop=partial(metrics.dropped, "span"),
        )
        if tracing is not None:
            tracing.listen_to(service.events)
        return tracing

    def _wire(self, service: Service, engine: Any, state: Any, placeholder: int) -> None:
        max_model_len = engine.model_config.max_model_len
        shadows = Shadows(
            service,
            engine,
            placeholder=placeholder,
            max_model_len=max_model_len,
            prioritised=engine.vllm_config.scheduler_config.policy == "priority",
            tool_parser=tool_parser_of(state.online_renderer),
            tracing=self.state.tracing,
        )
        runner = Runner(
            shadows,
            service.ledger,
            capture=service.capture,
            max_pending=self.settings.shadow_pending,
        )
        shadows.runner = runner
        service.companions.append(runner)
        resolver = Resolver(service, counting(state.online_renderer, self.settings))
        resolver.install(state)
        PromptedRenderer(
            service,
            resolver,
            placeholder=placeholder,
            max_model_len=max_model_len,
            shadows=shadows,
        ).install(state.online_renderer)
        PromptedModels(service, list_versions=self.settings.list_versions).install(
            state.openai_serving_models
        )
        EngineGuard(
            service.residency,
            placeholder=placeholder,
            shadows=shadows,
            callers=callers_of(service),
        ).install(engine)


def _closing(state: AppState, lifespan: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """VLLM's lifespan, and then ours ends: plugins have no shutdown hook of their own."""

    @asynccontextmanager
    async def closing(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as given:
            try:
                yield given
            finally:
                service, state.service = state.service, None
                if service is not None:
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await service.close()
                tracing, state.tracing = state.tracing, None
                if tracing is not None:
                    await asyncio.to_thread(tracing.close, _CLOSE_SECONDS)

    return closing


def _problem_of(statuses: list[dict[str, Any]]) -> str | None:
    """Why a worker takes no keys and values, or None."""
    problems = [status["deep_problem"] for status in statuses if not status["deep"]]
    return None if not problems else f"A worker takes no keys and values: {problems[0]}"


def _warming(service: Service, engine: Any, placeholder: int, *, keep: bool) -> Warming | None:
    """What computes virtual tokens before users come; None where nothing would keep them."""
    config, settings = engine.vllm_config, service.settings
    cache, policy = config.cache_config, config.scheduler_config.policy
    cached = settings.warm_up and bool(cache.enable_prefix_caching)
    if not cached and not keep:
        return None
    return Warming(
        engine.generate,
        service.residency,
        placeholder=placeholder,
        block=cache.block_size,
        keep=keep,
        cached=cached,
        more={"priority": LEAST_URGENT} if policy == "priority" else {},
    )


def _given_template(args: Namespace) -> str | None:
    """The text of ``--chat-template``, as vLLM reads it."""
    from vllm.renderers.chat_utils import load_chat_template  # noqa: PLC0415 - heavy

    return load_chat_template(args.chat_template)


def _check_names(service: Service) -> None:
    """A prompt and the base model must not share a name, or one would answer for the other."""
    if shared := service.served.names & service.snapshot.prompts.keys():
        msg = (
            f"The catalogue has a prompt named {', '.join(sorted(shared))}, which is also the "
            "base model's served name; choose another --served-model-name."
        )
        raise StartupRefused(msg, code="name_is_base_model")


def plugin() -> SoftpromptEndpoint:
    """The entry point's factory."""
    return SoftpromptEndpoint()
