"""An OpenAI endpoint with prompts, without a model: answers by rule, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

BASE = "base-model"
TOKEN = "a-token-for-tests"

Json = dict[str, Any]
Rule = Callable[[str, Json], Any]
"""Version and body of a request → a text, tool calls (a list), or a response to give instead."""


def digest(version: str) -> str:
    return hashlib.sha256(version.encode()).hexdigest()


def question_of(body: Json) -> str:
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


def refusal(status: int, code: Any = None, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": {"message": "no", "code": code}}, status, named)


@dataclass
class Fake:
    """The endpoint; a test sets what it needs.

    Attributes:
        rule: what is answered.
        asked: every request that was answered, ``(version, question)``, in order of arrival.
        bodies, headers: of those requests.
        lies: headers that replace the true ones.
        mistakes: model asked for → who answers instead.
        delay: seconds before each answer.
        cut: whether streams break off.
        kinds: of versions, where not soft.
        digests: of versions, where they are of real content.
        running, most: requests being answered now, and at most so far.
        runs: what was uploaded, by id.
        base: what the server says of its model.
    """

    rule: Rule = lambda version, body: f"{version} says {question_of(body)}"
    versions: tuple[str, ...] = ("v1", "v2")
    aliases: dict[str, str] = field(default_factory=lambda: {"production": "v1"})
    kinds: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)
    headers: list[Json] = field(default_factory=list)
    lies: dict[str, str] = field(default_factory=dict)
    mistakes: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    running: int = 0
    most: int = 0
    cut: bool = False
    runs: dict[str, Json] = field(default_factory=dict)
    base: Json = field(default_factory=lambda: {"name": BASE, "fingerprint": "f" * 64})

    def app(self) -> Starlette:
        ours = "/softprompts/v1"
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route(f"{ours}/server", self.server),
                Route(f"{ours}/prompts/support", self.prompt),
                Route(f"{ours}/prompts/support/runs", self.list_runs, methods=["GET"]),
                Route(f"{ours}/prompts/support/runs", self.add_run, methods=["POST"]),
                Route(f"{ours}/prompts/support/runs/{{id}}", self.run),
            ]
        )

    def counts(self) -> Counter[tuple[str, str]]:
        return Counter(self.asked)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.delay)
            return self.answer(body, request)
        finally:
            self.running -= 1

    def answer(self, body: Json, request: Request) -> Response:
        model = self.mistakes.get(body["model"], body["model"])
        prompt, _, version = model.partition("@")
        found = self.rule(version or BASE, body)
        if isinstance(found, Response):
            return found
        self.asked.append((version or BASE, question_of(body)))
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        headers = {}
        if version:
            headers = {
                "x-softprompt-name": prompt,
                "x-softprompt-version": version,
                "x-softprompt-digest": self.digests.get(version) or digest(version),
                "x-softprompt-virtual-tokens": "20",
                **self.lies,
            }
        if not body.get("stream"):
            return JSONResponse(whole(found, body), headers=headers)
        return StreamingResponse(
            self.stream(found, body), headers=headers, media_type="text/event-stream"
        )

    async def stream(self, found: Any, body: Json) -> AsyncIterator[str]:
        chat = "messages" in body
        parts = [found[:3], found[3:]] if isinstance(found, str) else found
        for part in parts:
            if chat:
                choice = {"delta": {"content": part} if isinstance(part, str) else part}
            else:
                choice = {"text": part}
            yield event(choices=[{"index": 0, "finish_reason": None, **choice}])
        if self.cut:
            return
        yield event(choices=[{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}])
        yield event(choices=[], usage=usage())
        yield "data: [DONE]\n\n"

    async def server(self, request: Request) -> Response:
        unknown = dict.fromkeys(("revision", "tokenizer_fingerprint", "chat_template_sha256"), None)
        return JSONResponse({"base_model": {**unknown, **self.base}, "served_names": [BASE]})

    async def prompt(self, request: Request) -> Response:
        versions = [
            {"version": name, "digest": digest(name), "kind": self.kinds.get(name, "soft")}
            for name in self.versions
        ]
        return JSONResponse({"name": "support", "aliases": self.aliases, "versions": versions})

    async def add_run(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return refusal(401, "invalid_admin_token")
        run = await request.json()
        new = run["id"] not in self.runs
        if not new and self.runs[run["id"]] != run:
            return refusal(409, "run_exists")
        self.runs[run["id"]] = run
        return JSONResponse(run, 201 if new else 200)

    async def list_runs(self, request: Request) -> Response:
        return JSONResponse({"data": list(self.runs.values())})

    async def run(self, request: Request) -> Response:
        return JSONResponse(self.runs[request.path_params["id"]])


def usage() -> Json:
    cached = {"cached_tokens": 10}
    return {"prompt_tokens": 50, "completion_tokens": 4, "prompt_tokens_details": cached}


def event(**parts: Any) -> str:
    return f"data: {json.dumps(parts)}\n\n"


def whole(text: str, body: Json) -> Json:
    choice = {"message": {"role": "assistant", "content": text}} if "messages" in body else {}
    choice = choice or {"text": text}
    return {"choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": usage()}
