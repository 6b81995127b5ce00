"""The gate before the admin API, as ASGI: no body is read for a stranger, none beyond its bound."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from softprompt_serve.access.pace import Pace
from softprompt_serve.server.auth import Doorkeeper
from softprompt_serve.server.door import Door
from softprompt_serve.server.gate import AdminGate

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

TOKEN = "secret-1"
ADMIN = "/softprompts/v1/prompts/support/versions"
BEARER = (b"authorization", b"Bearer secret-1")


class Inner:
    """The application behind the gate; reads the whole body and says how much it was."""

    def __init__(self) -> None:
        self.called = False
        self.read = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.called = True
        more = scope["type"] == "http"
        while more:
            message = await receive()
            self.read += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Call:
    """One call through the gate."""

    def __init__(
        self,
        path: str,
        *,
        headers: list[tuple[bytes, bytes]] | None = None,
        chunks: tuple[bytes, ...] = (),
        root_path: str = "",
        kind: str = "http",
        method: str = "POST",
        door: Door | None = None,
        changes: Pace | None = None,
        client: tuple[str, int] | None = ("192.0.2.1", 4711),
    ) -> None:
        self.inner = Inner()
        self.sent: list[Message] = []
        self.taken = 0
        self.error: Exception | None = None
        scope: dict[str, Any] = {
            "type": kind,
            "method": method,
            "path": path,
            "root_path": root_path,
            "headers": headers or [],
            "client": client,
        }
        remaining = list(chunks)

        async def receive() -> Message:
            self.taken += 1
            body = remaining.pop(0) if remaining else b""
            return {"type": "http.request", "body": body, "more_body": bool(remaining)}

        async def send(message: Message) -> None:
            self.sent.append(message)

        gate = AdminGate(self.inner, door or Door(Doorkeeper(lambda: TOKEN)), 100, changes)
        try:
            asyncio.run(gate(scope, receive, send))
        except Exception as error:  # noqa: BLE001 - what passed the gate is judged by the test
            self.error = error

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def code(self) -> str:
        return str(json.loads(self.sent[1]["body"])["error"]["code"])


def test_the_bearer_passes() -> None:
    call = Call(ADMIN, headers=[BEARER], chunks=(b"x" * 60, b"y" * 40))
    assert (call.status, call.inner.read) == (204, 100)


@pytest.mark.parametrize(
    "path",
    [ADMIN, "/softprompts/v1/healthz/", "/softprompts/v1/readyz/x", "/softprompts/v1", ADMIN + "/"],
)
def test_a_stranger_is_answered_401_before_the_body_is_read(path: str) -> None:
    call = Call(path, chunks=(b"x" * 60,))
    assert (call.status, call.code, call.taken) == (401, "missing_admin_token", 0)
    assert not call.inner.called


def test_a_wrong_bearer_is_answered_401() -> None:
    call = Call(ADMIN, headers=[(b"authorization", b"Bearer secret-2")])
    assert (call.status, call.code) == (401, "invalid_admin_token")


@pytest.mark.parametrize("path", ["/softprompts/v1/healthz", "/softprompts/v1/readyz"])
def test_probes_need_no_token(path: str) -> None:
    assert Call(path, method="GET").status == 204
    assert Call(path).status == 401


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/health", "/", "/metrics"])
def test_vllms_routes_are_not_ours_to_guard(path: str) -> None:
    assert Call(path, chunks=(b"x" * 500,)).inner.read == 500


def test_a_declared_length_over_the_limit_is_answered_413_unread() -> None:
    call = Call(ADMIN, headers=[BEARER, (b"content-length", b"101")], chunks=(b"x" * 101,))
    assert (call.status, call.code, call.taken) == (413, "upload_too_large", 0)


def test_a_streamed_body_is_cut_off_at_the_limit_without_a_declared_length() -> None:
    call = Call(ADMIN, headers=[BEARER], chunks=(b"x" * 60,) * 50)
    assert getattr(call.error, "code", None) == "upload_too_large"
    assert call.taken == 2


def test_a_declared_length_that_lies_does_not_help() -> None:
    call = Call(ADMIN, headers=[BEARER, (b"content-length", b"10")], chunks=(b"x" * 60,) * 50)
    assert getattr(call.error, "code", None) == "upload_too_large"


@pytest.mark.parametrize(
    ("path", "root_path"),
    [
        ("/api" + ADMIN, "/api"),
        (ADMIN, "/api"),
        (ADMIN, "/soft"),  # not a whole part of the path, so it is not taken off
        (ADMIN, "/softprompts/v1/prompts/supp"),
    ],
)
def test_no_root_path_opens_the_gate(path: str, root_path: str) -> None:
    assert Call(path, root_path=root_path).status == 401


def test_the_lifespan_passes() -> None:
    assert Call("", kind="lifespan").inner.called


def wrong(door: Door, address: str = "192.0.2.1") -> tuple[int, str]:
    call = Call(
        ADMIN, headers=[(b"authorization", b"Bearer guess")], door=door, client=(address, 1)
    )
    return call.status, call.code


def test_who_guesses_too_often_is_told_to_wait() -> None:
    door = Door(Doorkeeper(lambda: TOKEN), Pace(2))
    assert [wrong(door)[0] for _ in range(3)] == [401, 401, 429]
    call = Call(ADMIN, headers=[(b"authorization", b"Bearer guess")], door=door)
    assert call.code == "too_many_requests"
    assert dict(call.sent[0]["headers"])[b"retry-after"].isdigit()


def test_others_do_not_wait_for_them() -> None:
    door = Door(Doorkeeper(lambda: TOKEN), Pace(1))
    assert [wrong(door)[0], wrong(door)[0]] == [401, 429]
    assert wrong(door, "192.0.2.2")[0] == 401


def test_a_token_that_could_be_guessed_waits_with_the_guesses() -> None:
    door = Door(Doorkeeper(lambda: TOKEN), Pace(1))
    assert wrong(door)[0] == 401
    assert Call(ADMIN, headers=[BEARER], door=door).status == 429


def test_a_random_one_does_not_so_that_nobody_is_locked_out() -> None:
    token = "r" * 43
    door = Door(Doorkeeper(lambda: token), Pace(1))
    assert [wrong(door)[0], wrong(door)[0]] == [401, 429]
    right = (b"authorization", f"Bearer {token}".encode())
    assert Call(ADMIN, headers=[right], door=door).status == 204


def test_no_token_at_all_is_no_guess() -> None:
    door = Door(Doorkeeper(lambda: TOKEN), Pace(1))
    assert [Call(ADMIN, door=door).status for _ in range(3)] == [401, 401, 401]
    assert Call(ADMIN, headers=[BEARER], door=door).status == 204


def test_changes_are_counted_and_reading_is_not() -> None:
    changes = Pace(2)
    calls = [("POST", 204), ("GET", 204), ("POST", 204), ("POST", 429), ("GET", 204)]
    for method, status in calls:
        call = Call(ADMIN, headers=[BEARER], method=method, changes=changes)
        assert call.status == status


def test_a_length_of_thousands_of_digits_is_too_large_and_no_error() -> None:
    call = Call(ADMIN, headers=[BEARER, (b"content-length", b"9" * 5000)])
    assert (call.status, call.code) == (413, "upload_too_large")


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer \xff\xfe",
        b"Bearer a\r\nx-injected: 1",
        b"Bearer " + b"x" * 100_000,
        b"Basic \xff",
        b"\x00",
        b"Bearer spt_000000000000_",
    ],
)
def test_whatever_stands_in_the_header_is_a_refusal_in_our_shape(header: bytes) -> None:
    call = Call(ADMIN, headers=[(b"authorization", header)])
    assert (call.status, call.taken) == (401, 0)
    assert not any(b"\r" in value or b"\n" in value for _, value in call.sent[0]["headers"])
