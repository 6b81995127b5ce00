"""A real engine of which a process is killed, and callers who must never be fooled by it."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import requests
from e2e.harness import Server
from fire.memory import members, name_of

ASKED = {
    "prompt": "The weather today is",
    "max_tokens": 48,
    "temperature": 0,
    "ignore_eos": True,
}
STREAMED = 0.7
CALLERS = 4
EXIT_SECONDS = 90.0


def answer_of(server: Server, label: str) -> str:
    """What a healthy server's version answers."""
    answer = httpx.post(
        f"{server.url}/v1/completions", json={"model": label, **ASKED}, timeout=120, trust_env=False
    )
    assert answer.status_code == httpx.codes.OK, answer.text
    return str(answer.json()["choices"][0]["text"])


def kill(server: Server, what: str) -> None:
    """SIGKILL for the server's ``engine core`` or ``worker``."""
    assert server.process is not None
    (victim,) = [pid for pid in members(server.process.pid) if name_of(pid) == what]
    os.kill(victim, signal.SIGKILL)


@dataclass
class Callers:
    """Ask for ``wanted``'s models again and again, in one piece and streamed.

    Attributes:
        wanted: what each version's answer is, by its label.
        came: how many calls ended how.
        wrong: what must not be: another's answer, or a part of one that looks like the whole.
    """

    server: Server
    names: list[str]
    wanted: dict[str, str]
    came: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def asking(self, seed: int) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._ask, args=(random.Random(seed + n),))
            for n in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def wait_answered(self, times: int) -> None:
        """Until so many answers came in full."""
        deadline = time.monotonic() + EXIT_SECONDS
        while self.came["answered"] < times:
            assert time.monotonic() < deadline, (self.came, self.wrong)
            time.sleep(0.05)

    def _ask(self, chance: random.Random) -> None:
        with httpx.Client(base_url=self.server.url, timeout=120, trust_env=False) as http:
            while not self._ended.is_set():
                how = one_answer(http, chance.choice(self.names), self.wanted, chance)
                if how in {"answered", "refused", "broken off"}:
                    self.came[how] += 1
                else:
                    self.wrong.append(how)
                if how != "answered":
                    self._ended.wait(0.05)


def one_answer(
    http: httpx.Client, model: str, wanted: dict[str, str], chance: random.Random
) -> str:
    """How a call ended: ``answered``, ``refused``, ``broken off``, or what is wrong with it."""
    body = {"model": model, **ASKED, "stream": chance.random() < STREAMED}
    try:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = list(answer.iter_lines())
    except httpx.TransportError:
        return "broken off"
    if answer.status_code != httpx.codes.OK:
        return "refused" if answer.status_code >= 500 else f"{answer.status_code} {lines}"
    told = [
        json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line
    ]
    if any("error" in one for one in told):
        return "refused"
    choices = [choice for one in told for choice in one["choices"]]
    if not choices or choices[-1]["finish_reason"] != "length":
        return f"{model}: a part that looks like the whole: {lines[-3:]}"
    label = f"{answer.headers['x-softprompt-name']}@{answer.headers['x-softprompt-version']}"
    text = "".join(choice["text"] for choice in choices)
    return "answered" if text == wanted[label] else f"{label}: {text!r}, not {wanted[label]!r}"


class Publisher:
    """Calls the admin API as `faults.history` has it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["authorization"] = f"Bearer {server.token()}"

    def call(self, method: str, path: str, **request: Any) -> requests.Response:
        url = f"{self.server.url}/softprompts/v1{path}"
        return self._session.request(method, url, timeout=120, **request)


def until_gone(server: Server) -> tuple[float, int, set[int]]:
    """Wait for a server whose engine was killed to end.

    Returns:
        Seconds until it had, its exit status, and what `readyz` said until then.
    """
    assert server.process is not None
    began, said = time.monotonic(), set()
    while server.process.poll() is None:
        assert time.monotonic() - began < EXIT_SECONDS, server.tail()
        try:
            ready = httpx.get(f"{server.url}/softprompts/v1/readyz", timeout=5, trust_env=False)
            said.add(ready.status_code)
        except httpx.TransportError:
            said.add(0)
        time.sleep(0.05)
    return time.monotonic() - began, server.process.returncode, said
