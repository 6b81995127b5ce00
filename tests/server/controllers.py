"""Outside controllers as tests play them: they know our HTTP API and nothing else."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import anyio
import httpx
from server.answers import V1

from softprompt_serve.testing import ADMIN_TOKEN

ROLLOUT = f"{V1}/prompts/support/rollout"
SECONDS = 10.0

Happening = Callable[[httpx.Request], Awaitable[None]]


class Network(httpx.AsyncBaseTransport):
    """Several replicas behind one name, asked in turn; answers get lost on the way back.

    Attributes:
        lose: how many answers to changes are lost from now on, after the change was made.
        before_change: called once before the next change is let through.
    """

    def __init__(self, *replicas: httpx.AsyncBaseTransport) -> None:
        self.lose = 0
        self.before_change: Happening | None = None
        self.lost = 0
        self._replicas = replicas
        self._turns = count()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        change = request.method != "GET"
        if change and self.before_change is not None:
            happening, self.before_change = self.before_change, None
            await happening(request)
        replica = self._replicas[next(self._turns) % len(self._replicas)]
        response = await replica.handle_async_request(request)
        if change and self.lose:
            self.lose -= 1
            self.lost += 1
            msg = "the connection was reset"
            raise httpx.ReadError(msg, request=request)
        return response


def client_of(network: Network, *, user: str | None = None) -> httpx.AsyncClient:
    """A client that bears the token, in the header or, for ``user``, in the address."""
    if user is not None:
        base = f"http://{user}:{ADMIN_TOKEN}@server"
        return httpx.AsyncClient(transport=network, base_url=base)
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    return httpx.AsyncClient(transport=network, base_url="http://server", headers=headers)


class Walker:
    """Moves weights as a careful script would: conditional writes, repeated until they are there.

    Attributes:
        stale: how often somebody else was faster (412).
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.stale = 0

    async def read(self) -> dict[str, Any]:
        answer = await self._send("GET", ROLLOUT)
        assert answer.headers["etag"] == f'"{answer.json()["generation"]}"'
        return dict(answer.json())

    async def weigh(self, **weights: int) -> dict[str, Any]:
        """Set the weights, whoever else writes; return when every live replica serves them."""
        while True:
            state = await self.read()
            if state["spec"] is not None and state["weights"] == weights:
                return await self.applied(state["generation"])
            match = {"if-match": f'"{state["generation"]}"'}
            answer = await self._send("PUT", f"{ROLLOUT}/weights", json=weights, headers=match)
            if answer.status_code == 412:
                self.stale += 1
                continue
            assert answer.status_code == 200, answer.text
            return await self.applied(answer.json()["generation"])

    async def promote(self, version: str) -> dict[str, Any]:
        return await self._end("promote", {"version": version})

    async def roll_back(self) -> dict[str, Any]:
        return await self._end("rollback", {"reason": "Too many errors."})

    async def applied(self, generation: int) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while True:
            state = await self.read()
            if state["applied"] and state["generation"] >= generation:
                return state
            assert time.monotonic() < deadline, state
            await anyio.sleep(0.005)

    async def _end(self, verb: str, body: dict[str, str]) -> dict[str, Any]:
        answer = await self._send("POST", f"{ROLLOUT}/{verb}", json=body)
        assert answer.status_code == 200, answer.text
        return await self.applied(answer.json()["generation"])

    async def _send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The same call again as long as nothing is known of it."""
        while True:
            try:
                return await self.client.request(method, path, **parts)
            except httpx.TransportError:
                continue


class Flagger:
    """Its own loop over one Canary without traffic shifting, as far as webhooks are concerned.

    After fluxcd/flagger v1.44, ``advanceCanary`` in ``pkg/controller/scheduler.go``: what is asked in
    which phase, what counts as a failed check, and that a status over 202 is no.

    Attributes:
        phase: the Canary's.
        failed_checks: since the release began.
        healthy: whether its own metrics are well.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, iterations: int = 3, threshold: int = 2
    ) -> None:
        self.phase = "Initialized"
        self.failed_checks = 0
        self.healthy = True
        self.said: list[tuple[str, int]] = []
        self._client = client
        self._iterations = iterations
        self._threshold = threshold
        self._done = 0

    async def tick(self) -> None:
        """One interval."""
        if self.phase in {"Succeeded", "Failed"}:
            return
        if self.phase in {"Initialized", "Waiting"}:
            self.phase = "Progressing" if await self._asks("confirm-rollout") else "Waiting"
        elif self.phase == "Promoting":
            self.phase = "Finalising"
        elif self.phase == "Finalising":
            await self._ends("Succeeded")
        elif await self._asks("rollback") or self.failed_checks >= self._threshold:
            await self._ends("Failed")
        else:
            await self._advances()

    async def _advances(self) -> None:
        check = self._asks("rollout" if self._done else "pre-rollout")
        if not await check or (self._done and not self.healthy):
            self.failed_checks += 1
        elif self._done < self._iterations:
            self._done += 1
        elif await self._asks("confirm-promotion"):
            self.phase = "Promoting"
        else:
            self.phase = "WaitingPromotion"

    async def _ends(self, phase: str) -> None:
        self.phase = phase
        await self._asks("post-rollout", retries=3)

    async def _asks(self, hook: str, retries: int = 0) -> bool:
        body = {
            "name": "support-release",
            "namespace": "softprompt",
            "phase": self.phase,
            "checksum": "85d557f47b",
            "metadata": {"prompt": "support", "version": "v4"},
        }
        for _ in range(retries + 1):
            try:
                answer = await self._client.post(f"{V1}/hooks/flagger/{hook}", json=body)
            except httpx.TransportError:
                continue
            self.said.append((hook, answer.status_code))
            if answer.status_code < 500:
                return answer.status_code <= 202
        return False
