"""A browser without eyes: keeps cookies, reads forms, sends them as a page of the console would."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import httpx
import torch
from safetensors.torch import save

from softprompt_serve.server.service import Service
from softprompt_serve.testing import ADMIN_TOKEN, HIDDEN_SIZE

ORIGIN = "http://server"
V1 = "/softprompts/v1"


class Page(HTMLParser):
    """What a page has in it.

    Attributes:
        tags: each start tag with its attributes.
        fields: hidden fields by name, of the form below ``main``.
        text: all text, in one line.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.fields: dict[str, str] = {}
        self.text = ""
        self._main = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self._main = self._main or tag == "main"
        if self._main and tag == "input" and found.get("type") == "hidden":
            self.fields[found["name"] or ""] = found["value"] or ""

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def links(self) -> list[str]:
        return [found["href"] or "" for tag, found in self.tags if tag == "a"]

    def ids(self) -> set[str]:
        return {found["id"] or "" for _, found in self.tags if "id" in found}


class Visitor:
    """One browser at one server."""

    def __init__(self, service: Service, client: httpx.AsyncClient, root: str = "") -> None:
        self.service = service
        self.client = client
        self.root = f"{root}/softprompts"

    async def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(f"{self.root}{path}", headers=named)

    async def page(self, path: str) -> Page:
        answer = await self.get(path)
        assert answer.status_code == 200, answer.text
        return Page(answer.text)

    async def send(
        self, path: str, fields: dict[str, str], *, origin: str | None = ORIGIN
    ) -> httpx.Response:
        headers = {} if origin is None else {"origin": origin}
        return await self.client.post(f"{self.root}{path}", data=fields, headers=headers)

    async def log_in(
        self, name: str = "ada", token: str = ADMIN_TOKEN, **fields: str
    ) -> httpx.Response:
        return await self.send("/login", {"name": name, "token": token, **fields})

    async def confirmed(self, path: str, **fields: str) -> httpx.Response:
        """Look at what a change would do, and ask for it."""
        asked = await self.page(path)
        return await self.send(path.partition("?")[0], asked.fields | fields)

    async def api(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The admin API, with its token."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        answer = await self.client.request(method, f"{V1}{path}", headers=headers, **given)
        assert answer.is_success, answer.text
        return answer

    async def soft(self, version: str, *, prompt: str = "support", record: str = "{}") -> None:
        seed = torch.Generator().manual_seed(sum(map(ord, prompt + version)))
        rows = torch.randn(2, HIDDEN_SIZE, generator=seed)
        await self.learned(version, rows, prompt=prompt, record=record)

    async def learned(
        self, version: str, found: torch.Tensor, *, prompt: str = "support", record: str = "{}"
    ) -> None:
        tensor = save({"prompt": found})
        await self.api(
            "POST",
            f"/prompts/{prompt}/versions",
            files={"tensor": ("t.safetensors", tensor)},
            data={"version": version, "record": record},
        )

    async def alias(self, version: str, alias: str = "production") -> None:
        await self.api("PUT", f"/prompts/support/aliases/{alias}", json={"version": version})

    async def roll_out(self, **document: Any) -> None:
        await self.api("PUT", "/prompts/support/rollout", json=document)

    async def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api("GET", "/prompts/support/rollout")).json()
        return found

    async def audit(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.api("GET", "/audit")).json()["data"]
        return found

    async def two_versions(self) -> None:
        """`support` has v1, which is production, and v2."""
        await self.soft("v1")
        await self.soft("v2")
        await self.alias("v1")

    async def split(self, **more: Any) -> None:
        """Three quarters for v1, the rest for v2."""
        await self.two_versions()
        arms = [{"version": "v1", "weight": 75}, {"version": "v2", "weight": 25}]
        await self.roll_out(arms=arms, **more)
