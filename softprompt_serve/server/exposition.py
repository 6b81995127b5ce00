"""``GET /metrics`` as OpenMetrics, which alone carries exemplars, for a scraper that asks for it.

vLLM 0.32 answers that path in the plain text format whatever is asked for. Where several processes
write metrics there are no exemplars, and vLLM's own answer is given as ever.
"""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.openmetrics.exposition import ALLOWUTF8, generate_latest
from starlette.datastructures import Headers
from starlette.responses import Response

from softprompt_serve.server.scope import route_path
from softprompt_serve.telemetry.labels import multiprocess

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp, Receive, Scope, Send

PATH: Final = "/metrics"
OPENMETRICS: Final = "application/openmetrics-text"
_LEVEL: Final = 1  # of gzip: text of this sort becomes a tenth with the least work, too


class OpenMetrics:
    """ASGI: answer that one call, and hand on all others.

    Args:
        app: what answers everything else.
        registry: whose metrics are shown; vLLM's own are in the default one.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry = REGISTRY) -> None:
        self.app = app
        self.registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http" or scope["method"] != "GET" or route_path(scope) != PATH:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        _, content_type = choose_encoder(",".join(headers.getlist("accept")))
        if not content_type.startswith(OPENMETRICS) or multiprocess():
            await self.app(scope, receive, send)
            return
        given = {"content-type": content_type, "vary": "accept, accept-encoding"}
        packed = gzip_accepted(headers.get("accept-encoding", ""))

        def body() -> bytes:
            # The library's other ways to escape make an underscore of the colon in vLLM's names,
            # though in samples alone. Every name here may stand as it is.
            written: bytes = generate_latest(  # type: ignore[no-untyped-call]
                self.registry, escaping=ALLOWUTF8
            )
            return gzip.compress(written, _LEVEL) if packed else written

        if packed:
            given["content-encoding"] = "gzip"
        # Many series take long to write down, and requests go on meanwhile.
        response = Response(await asyncio.to_thread(body), headers=given)
        await response(scope, receive, send)
