"""``doctor``: what is installed, supported and active, and what to do about what isn't."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import httpx
import typer
from rich.table import Table
from rich.text import Text

from softprompt_serve import __version__
from softprompt_serve.cli.client import Api, ApiError, Unreachable
from softprompt_serve.cli.findings import Finding, configured, installed
from softprompt_serve.cli.session import Json, Token, Url, output, settings_for
from softprompt_serve.errors import SoftpromptError
from softprompt_serve.vllm_plugin.seams import installed_vllm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from softprompt_serve.cli.findings import Level

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "red"}
_SHORT: Final = 12


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(doctor)


def doctor(url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Check the installation and the running server.

    Exit status 1 if something failed.
    """
    found = list(installed())
    settings, about = configured()
    found += about
    if settings is not None:
        found += _server(url, token)
    failed = any(finding.level == "fail" for finding in found)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in found]}))
    else:
        output().print(_view(found))
    raise typer.Exit(int(failed))


def _server(url: str | None, token: str | None) -> Iterator[Finding]:
    try:
        settings, address, bearer = settings_for(url, token)
        with Api(address, bearer, drain_seconds=settings.drain_seconds) as api:
            yield from live(api)
    except SoftpromptError as error:
        yield Finding("server", "fail", error.message)


def live(api: Api) -> Iterator[Finding]:
    """What a running server says of itself."""
    try:
        api.get("/healthz")
    except Unreachable as error:
        yield Finding("server", "fail", f"none at {api.url}", error.message)
        return
    except ApiError as error:
        yield Finding("server", "fail", f"{api.url} answers otherwise", error.message)
        return
    yield Finding("server", "ok", f"answers at {api.url}")
    yield from readiness(_readiness(api))
    try:
        about = api.get("/server").data
        residency = api.get("/residency").data
    except ApiError as error:
        advice = "The server logs the cause."
        if error.http_status == httpx.codes.UNAUTHORIZED:
            advice = (
                "Use the token of the server's own SOFTPROMPT_HOME (file admin-token) or its "
                "SOFTPROMPT_ADMIN_TOKEN."
            )
        yield Finding("admin API", "fail", error.message, advice)
        return
    yield Finding("admin API", "ok", "the token is accepted")
    yield from identity(about)
    yield from workers(residency)


def readiness(data: dict[str, Any]) -> Iterator[Finding]:
    """A finding per check of ``readyz`` that is not ok, or one that all are."""
    checks: dict[str, str] = data.get("checks", {})
    bad = {name: found for name, found in checks.items() if found != "ok"}
    if data.get("ready"):
        yield Finding("readiness", "ok", "ready")
    elif not bad:
        yield Finding("readiness", "fail", "not ready, without a reason", "See the server's log.")
    for name, found in bad.items():
        # A server goes on serving without its catalogue, but can't be changed.
        level: Level = "warn" if data.get("ready") else "fail"
        yield Finding(f"readiness: {name}", level, found, _READY_ADVICE.get(name, ""))


_READY_ADVICE: Final = {
    "startup": "Wait; if it stays so, the server's log says where it stands.",
    "workers": "The engine may be dead; see the server's log and restart it.",
    "production": "`softprompt-serve show PROMPT` says why; load it, or move the alias.",
    "catalogue": "Look at the disk and SOFTPROMPT_DATABASE_URL; requests are still served.",
}


def identity(about: dict[str, Any]) -> Iterator[Finding]:
    """Base model, start-up probe, and whether the server's versions are those installed here."""
    probe: dict[str, Any] = about["probe"]
    shown = ", ".join(f"{name} {value}" for name, value in probe.items())
    if probe:
        yield Finding("overlay probe", "ok", shown)
    else:
        yield Finding("overlay probe", "fail", "no result", "See the server's log.")
    model = about["base_model"]
    facts = [f"revision {model['revision'] or 'unknown'}"]
    if model["fingerprint"]:
        facts.append(f"weights {model['fingerprint'][:_SHORT]}")
    advice = ""
    if model["revision"] is None:
        advice = "SOFTPROMPT_BASE_MODEL_REVISION names it, so that records are compared with it."
    yield Finding("base model", "ok", f"{model['name']}, {', '.join(facts)}", advice)
    here = {"softprompt_serve": __version__, "vllm": " ".join(installed_vllm() or ("none",))}
    for name, expected in here.items():
        if about[name] != expected:
            found = f"the server runs {about[name]}, installed here is {expected}"
            advice = "Fine for a server elsewhere; else restart it to use what is installed."
            yield Finding(f"{name} of the server", "warn", found, advice)


def workers(residency: dict[str, Any]) -> Iterator[Finding]:
    """Each worker: whether it is patched and how full its bank is."""
    for worker in residency["workers"]:
        subject = f"worker {worker.get('rank', 0)}"
        if problem := worker.get("problem"):
            yield Finding(subject, "fail", str(problem), "The server must be restarted.")
            continue
        used, capacity = worker.get("used_rows", 0), worker.get("capacity_rows", 0)
        found = (
            f"runner {worker.get('runner')} on {worker.get('device')}, {used} of {capacity} rows "
            f"of the bank used by {len(worker['resident'])} version(s)"
        )
        yield Finding(subject, "ok", found)


def _readiness(api: Api) -> dict[str, Any]:
    """``readyz`` answers 503 with the same body while it isn't ready."""
    try:
        data = api.get("/readyz").data
    except ApiError as error:
        data = json.loads(error.answer)
    except Unreachable as error:
        data = {"ready": False, "checks": {"workers": error.message}}
    return data if isinstance(data, dict) else {}


def _view(found: list[Finding]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for finding in found:
        text = Text(finding.found)
        if finding.advice:
            text.append(f"\n→ {finding.advice}", style="dim" if finding.level == "ok" else "")
        level = Text(finding.level, style=_STYLES[finding.level])
        grid.add_row(level, finding.subject, text)
    return grid
