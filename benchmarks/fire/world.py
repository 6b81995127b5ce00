"""What is served while it changes: versions come and go, and traffic is split in ever new ways."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import safetensors.torch
import torch

if TYPE_CHECKING:
    import random

    import httpx

    from fire.oracle import Tokens

PROMPT: Final = "fire"
SIZES: Final = (1, 2, 7, 16, 20, 64, 100, 127, 128, 129, 200, 255, 256, 300)
"""Virtual tokens: small ones, and those round the blocks of the KV cache."""

PREFIXES: Final = 0.3
"""Share of the uploads that bring keys and values: those that the rows would have."""

LIVE: Final = 24
_OK: Final = frozenset({200, 201, 202})


@dataclass(frozen=True, slots=True)
class Known:
    """A version as it was imported: a text, or what answers as ``rows`` ``[n, hidden_size]`` do.

    A prefix is made of the keys and values that the model itself has for rows, so that native
    embeddings of the rows say what it must answer.
    """

    name: str
    digest: str
    rows: torch.Tensor | None
    text: str | None


@dataclass
class World:
    """The prompt's versions, through the admin API. Owner of what is known of them.

    Attributes:
        prefixes: numbers of virtual tokens that a prefix may have; those that the bank can hold.
        known: every version that ever was, by digest: an answer may come from one just removed.
        live: names of those that can be asked for now.
        changes: how many of each sort were made.
    """

    admin: httpx.AsyncClient
    tokens: Tokens
    rng: random.Random
    prefixes: tuple[int, ...] = SIZES
    known: dict[str, Known] = field(default_factory=dict)
    live: list[str] = field(default_factory=list)
    changes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    count: int = 0

    async def populate(self, versions: int) -> None:
        """Make the first versions, one of them a text; the first is production."""
        for _ in range(versions):
            await self.upload()
        await self.upload_text()
        await self.alias()

    async def change(self) -> None:
        """Change something at random."""
        if len(self.live) >= LIVE:
            await self.remove()
        ways = (self.upload, self.alias, self.split, self.unsplit, self.reload, self.remove)
        await self.rng.choices(ways, weights=(4, 6, 4, 2, 3, 1))[0]()

    async def upload(self) -> None:
        """A new soft version, or a prefix."""
        self.count += 1
        generator = torch.Generator().manual_seed(self.rng.getrandbits(40))
        deep = self.rng.random() < PREFIXES
        rows = self.tokens.rows(self.rng.choice(self.prefixes if deep else SIZES), generator)
        tensor = self.tokens.keys(rows) if deep else rows
        data = safetensors.torch.save({"learned": tensor})
        name = f"v{self.count}"
        answer = await self.admin.post(
            f"/prompts/{PROMPT}/versions",
            files={"tensor": ("rows.safetensors", data)},
            data={"version": name},
        )
        self._learn("upload of a prefix" if deep else "upload", name, answer, rows=rows)

    async def upload_text(self) -> None:
        """A new hard version."""
        self.count += 1
        name, text = f"v{self.count}", f"Answer as number {self.rng.randrange(10_000)} would."
        answer = await self.admin.post(
            f"/prompts/{PROMPT}/versions", data={"version": name, "text": text}
        )
        self._learn("upload", name, answer, text=text)

    async def alias(self) -> None:
        """Swap what production means."""
        body = {"version": self.rng.choice(self.live)}
        self._count(
            "alias", await self.admin.put(f"/prompts/{PROMPT}/aliases/production", json=body)
        )

    async def split(self) -> None:
        """Split traffic between two to four versions."""
        arms = self.rng.sample(self.live, min(len(self.live), self.rng.randint(2, 4)))
        body = {"arms": [{"version": name, "weight": self.rng.randint(1, 9)} for name in arms]}
        self._count("rollout", await self.admin.put(f"/prompts/{PROMPT}/rollout", json=body))

    async def unsplit(self) -> None:
        """Have one version answer everything again."""
        answer = await self.admin.delete(f"/prompts/{PROMPT}/rollout")
        self._count("no rollout", answer)

    async def reload(self) -> None:
        """Unload a version and load it again."""
        path = f"/prompts/{PROMPT}/versions/{self.rng.choice(self.live)}/residency"
        for resident in (False, True):
            answer = await self.admin.put(path, json={"resident": resident})
            self._count("load" if resident else "unload", answer)

    async def remove(self) -> None:
        """Take away a version, if nothing names it."""
        name = self.rng.choice(self.live)
        if len(self.live) > LIVE // 2:
            answer = await self.admin.delete(f"/prompts/{PROMPT}/versions/{name}")
            if self._count("remove", answer):
                self.live.remove(name)

    def _learn(self, what: str, name: str, answer: httpx.Response, **content: Any) -> None:
        if self._count(what, answer):
            digest = answer.json()["digest"]
            content = {"rows": None, "text": None} | content
            self.known[digest] = Known(name, digest, **content)
            self.live.append(name)

    def _count(self, what: str, answer: httpx.Response) -> bool:
        """Count a change, or why it was refused; what is the server's fault is an error.

        Raises:
            RuntimeError: the server failed.
        """
        if answer.status_code in _OK:
            self.changes[what] = self.changes.get(what, 0) + 1
            return True
        code = answer.json()["error"]["code"]
        if answer.status_code not in {404, 409, 422, 503}:
            msg = f"{what}: {answer.status_code} {answer.text}"
            raise RuntimeError(msg)
        self.refused[code] = self.refused.get(code, 0) + 1
        return False
