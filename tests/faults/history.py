"""What a client asked of one prompt, what was acknowledged, and so what may be found afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import requests
import torch
from safetensors.torch import save

from softprompt_serve.artifact import Limits, learned_from_bytes
from softprompt_serve.testing import HIDDEN_SIZE

State = dict[str, Any]


class Server(Protocol):
    """Whoever answers for the admin API."""

    def call(self, method: str, path: str, **request: Any) -> requests.Response: ...


def tensor(rows: int, seed: int, hidden_size: int = HIDDEN_SIZE) -> bytes:
    """A safetensors file of ``[rows, hidden_size]``."""
    values = torch.randn(rows, hidden_size, generator=torch.Generator().manual_seed(seed))
    return save({"prompt": values})


@dataclass(frozen=True, slots=True)
class Step:
    """One call, and the state that it makes of another."""

    name: str
    method: str
    path: str
    becomes: Callable[[State], State]
    request: dict[str, Any] = field(default_factory=dict)


@dataclass
class History:
    """One prompt as its only client knows it.

    Attributes:
        state: what was acknowledged last: versions (digest, wanted, seed), production, the
            rollout's generation and weights (None without one).
        pending: a call that was not answered, or with 503: it may have been made or not.
        acknowledged: how many were.
    """

    prompt: str
    chance: random.Random
    hidden_size: int = HIDDEN_SIZE
    state: State = field(
        default_factory=lambda: {
            "versions": {},
            "production": None,
            "generation": 0,
            "weights": None,
        }
    )
    pending: Step | None = None
    acknowledged: int = 0
    made: int = 0

    def go_on(self, server: Server) -> bool:
        """Make one call; whether it was acknowledged."""
        assert self.pending is None
        self.pending = step = self._next()
        try:
            answer = server.call(step.method, f"/prompts/{self.prompt}{step.path}", **step.request)
        except requests.RequestException:
            return False
        if answer.status_code == 503:
            return False
        assert answer.status_code in {200, 201, 202}, (step.name, answer.text, self.state)
        self.state, self.pending = step.becomes(deepcopy(self.state)), None
        self.acknowledged += 1
        return True

    def settle(self, server: Server) -> None:
        """Find all that was acknowledged and nothing that is half there; then go on from it."""
        found = look(server, self.prompt)
        possible = [self.state]
        if self.pending is not None:
            possible.append(self.pending.becomes(deepcopy(self.state)))
        assert found in possible, (self.pending and self.pending.name, possible, found)
        self.state, self.pending = found, None

    def _next(self) -> Step:
        free = [v for v in self.state["versions"] if v not in self._serving()]
        loaded = [v for v in free if self.state["versions"][v][1]]
        can = [self._upload]
        if loaded:
            can += [self._unload, *([self._promote] if self.state["weights"] else [self._swap])]
            if self.state["production"]:
                can.append(self._weights)
        if self.state["weights"]:
            can.append(self._no_rollout)
        if len(free) > 3:
            can += [self._remove] * 2
        if set(free) - set(loaded):
            can.append(self._load)
        return self.chance.choice(can)(free, loaded)

    def _serving(self) -> set[str]:
        return {self.state["production"], *(self.state["weights"] or ())}

    def _upload(self, *_: Any) -> Step:
        self.made += 1
        name, seed = f"v{self.made}", self.chance.randrange(2**31)
        data = tensor(self.chance.randrange(1, 9), seed, self.hidden_size)
        limits = Limits(self.hidden_size, "float32", 64, 4096, 100)
        digest = learned_from_bytes(data, filename=None, limits=limits).content.digest

        def becomes(state: State) -> State:
            state["versions"][name] = [digest, True, seed]
            return state

        parts = {"version": name, "record": f'{{"seed": {seed}}}'}
        return Step(
            "upload", "POST", "/versions", becomes, {"files": {"tensor": data}, "data": parts}
        )

    def _swap(self, _free: list[str], loaded: list[str]) -> Step:
        to = self.chance.choice(loaded)
        return Step(
            "swap",
            "PUT",
            "/aliases/production",
            lambda state: state | {"production": to},
            {"json": {"version": to}},
        )

    def _residency(self, name: str, *, wanted: bool) -> Step:
        def becomes(state: State) -> State:
            state["versions"][name][1] = wanted
            return state

        path = f"/versions/{name}/residency"
        what = "load" if wanted else "unload"
        return Step(what, "PUT", path, becomes, {"json": {"resident": wanted}})

    def _unload(self, _free: list[str], loaded: list[str]) -> Step:
        return self._residency(self.chance.choice(loaded), wanted=False)

    def _load(self, free: list[str], loaded: list[str]) -> Step:
        return self._residency(self.chance.choice(sorted(set(free) - set(loaded))), wanted=True)

    def _remove(self, free: list[str], _loaded: list[str]) -> Step:
        name = self.chance.choice(free)

        def becomes(state: State) -> State:
            del state["versions"][name]
            return state

        return Step("remove", "DELETE", f"/versions/{name}", becomes)

    def _weights(self, _free: list[str], loaded: list[str]) -> Step:
        weight = self.chance.randrange(1, 100)
        weights = {self.state["production"]: 100 - weight, self.chance.choice(loaded): weight}

        def becomes(state: State) -> State:
            return state | {"weights": weights, "generation": state["generation"] + 1}

        return Step("weights", "PUT", "/rollout/weights", becomes, {"json": weights})

    def _promote(self, _free: list[str], _loaded: list[str]) -> Step:
        names = sorted(self.state["weights"])
        to = self.chance.choice(
            [name for name in names if name != self.state["production"]] or names
        )

        def becomes(state: State) -> State:
            weights = {name: 100 if name == to else 0 for name in state["weights"]}
            return state | {
                "weights": weights,
                "production": to,
                "generation": state["generation"] + 1,
            }

        return Step("promote", "POST", "/rollout/promote", becomes, {"json": {"version": to}})

    def _no_rollout(self, *_: Any) -> Step:
        return Step(
            "no rollout",
            "DELETE",
            "/rollout",
            lambda state: state | {"weights": None, "generation": state["generation"] + 1},
        )


def look(server: Server, prompt: str) -> State:
    """The prompt as the server has it; each version's content is there and is what it should be."""
    answer = server.call("GET", f"/prompts/{prompt}")
    if answer.status_code == 404:
        return {"versions": {}, "production": None, "generation": 0, "weights": None}
    found = answer.json()
    rollout = server.call("GET", f"/prompts/{prompt}/rollout").json()
    versions = {}
    for version in found["versions"]:
        assert version["state"] in {"resident", "unloaded"}, version
        path = f"/prompts/{prompt}/versions/{version['version']}/bundle?evaluations=false"
        assert server.call("GET", path).status_code == 200  # its bytes have its digest
        wanted = version["state"] == "resident"
        versions[version["version"]] = [version["digest"], wanted, version["record"]["seed"]]
    return {
        "versions": versions,
        "production": found["aliases"].get("production"),
        "generation": rollout["generation"],
        "weights": None if rollout["spec"] is None else rollout["weights"],
    }
