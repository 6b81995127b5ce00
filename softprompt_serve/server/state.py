"""What hangs on the application at ``app.state.softprompt``: the service and readiness."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from softprompt_serve import __version__
from softprompt_serve.access.tokens import NO_TOKENS
from softprompt_serve.errors import SoftpromptError, Unavailable
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.server.schemas import Readiness, ServerOut

if TYPE_CHECKING:
    from softprompt_serve.access.tokens import Keyring
    from softprompt_serve.server.service import Service
    from softprompt_serve.settings import Settings
    from softprompt_serve.telemetry.channel import Events
    from softprompt_serve.telemetry.tracing import Tracing


@dataclass(slots=True)
class AppState:
    """Lives at ``app.state.softprompt``; the service is there once start-up has finished."""

    settings: Settings
    vllm: str
    service: Service | None = None
    tracing: Tracing | None = None
    probe: dict[str, Any] = field(default_factory=dict)

    def require_service(self) -> Service:
        """The service.

        Raises:
            Unavailable: ``starting`` while start-up hasn't finished.
        """
        if self.service is None:
            msg = "softprompt-serve is still starting."
            raise Unavailable(msg, code="starting")
        return self.service

    def events(self) -> Events | None:
        """Who listens to finished requests; nobody while start-up hasn't finished."""
        return None if self.service is None else self.service.events

    def emit(self, event: object) -> None:
        """Tell those who listen, if anybody does yet."""
        if self.service is not None:
            self.service.events.emit(event)

    def keyring(self) -> Keyring:
        """The catalogue's tokens, as of now; none while start-up hasn't finished."""
        return NO_TOKENS if self.service is None else self.service.snapshot.keyring

    async def readiness(self) -> Readiness:
        """Ask the workers; a lost catalogue is reported but does not end readiness."""
        if self.service is None:
            return Readiness(ready=False, checks={"startup": "not finished"})
        checks = {"overlay": "ok", "workers": "ok", "production": "ok", "catalogue": "ok"}
        try:
            await self.service.residency.refresh()
            # A version that was lost gets no traffic that would load it while we are not ready.
            await self.service.restore_production()
        except SoftpromptError as error:
            checks["workers"] = error.message
        if waiting := self._production_not_resident():
            checks["production"] = f"not resident: {', '.join(waiting)}"
        ready = all(value == "ok" for value in checks.values())
        feed = self.service.feed
        if not feed.healthy:
            checks["catalogue"] = f"changes can't be made or seen: {feed.error}"
        return Readiness(ready=ready, checks=checks)

    def describe(self) -> ServerOut:
        """Facts for people and for ``softprompt-serve doctor``."""
        service = self.require_service()
        identity, limits = service.served.identity, service.served.limits
        return ServerOut(
            softprompt_serve=__version__,
            vllm=self.vllm,
            base_model={
                "name": identity.name,
                "revision": identity.revision,
                "fingerprint": identity.fingerprint,
                "tokenizer_fingerprint": identity.tokenizer_fingerprint,
                "chat_template_sha256": identity.chat_template_sha256,
            },
            served_names=sorted(service.served.names),
            limits={
                "hidden_size": limits.hidden_size,
                "model_dtype": limits.model_dtype,
                "max_virtual_tokens": limits.max_virtual_tokens,
                "max_model_len": limits.max_model_len,
                "max_text_chars": limits.max_text_chars,
                "kv": None if limits.kv is None else asdict(limits.kv),
                "max_upload_bytes": self.settings.max_upload_bytes,
            },
            prices=asdict(service.prices),
            catalogue_revision=service.snapshot.revision,
            probe=self.probe,
        )

    def _production_not_resident(self) -> list[str]:
        service = self.require_service()
        found = (p.find(PRODUCTION) for p in service.traffic.prompts.values())
        return [
            version.label
            for version in found
            if version is not None and not service.residency.is_resident(version)
        ]
