"""Put the demo's versions into a running server, through its API as anybody would."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from softprompt_serve.cli.client import Api, ApiError, alias_path, prompt_path
from softprompt_serve.cli.upload import CONFIG, as_parts, import_version, read_text
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.release.policy import parse_policy

if TYPE_CHECKING:
    from rich.console import Console

PROMPTS: Final = Path(__file__).parent / "prompts"
PROMPT: Final = "support"
VERSIONS: Final = ("v1", "v2", "v3", "v4")
"""What a server of the demo begins with."""
FIRST_PRODUCTION: Final = "v2"
POLICY: Final = f"{PROMPT}-policy.yaml"
EVIDENCE: Final = f"{PROMPT}-evidence"
UNPROVEN: Final = (
    "The demo's evidence is for the model that it prepares, and another one is served."
)


def seed(api: Api, console: Console, folder: Path = PROMPTS) -> list[str]:
    """Import the demo's versions that the server lacks; returns the labels that are new.

    What they were measured with on the demo's model comes along, and promotes the first one.
    """
    versions, aliases = _present(api)
    added = []
    for version in VERSIONS:
        source = folder / f"{PROMPT}-{version}"
        text, record = source / "text.txt", source / "record.json"
        if version in versions or not (text.is_file() or (source / CONFIG).is_file()):
            continue
        path, form = as_parts(text if text.is_file() else source, kind=None, text=None)
        form["version"] = version
        if record.is_file():
            form["record"] = read_text(record)
        import_version(api, PROMPT, path, form, console)
        versions.add(version)
        added.append(f"{PROMPT}@{version}")
    if PRODUCTION not in aliases and FIRST_PRODUCTION in versions:
        _prove(api, folder)
        _promote(api)
    return added


def _prove(api: Api, folder: Path) -> None:
    """Hand in the policy and the evidence, as far as the server takes them."""
    base = prompt_path(PROMPT)
    if (policy := folder / POLICY).is_file():
        document = parse_policy(policy.read_text()).to_json()
        api.change("PUT", f"{base}/policy", json_body=document)
    for run in sorted((folder / EVIDENCE).glob("*.json")):
        with contextlib.suppress(ApiError):  # without it the promotion says what is missing
            api.change("POST", f"{base}/runs", json_text=run.read_bytes())


def _promote(api: Api) -> None:
    """Have the first version answer, by its evidence; else by force, which the audit shows."""
    path, target = alias_path(PROMPT, PRODUCTION), {"version": FIRST_PRODUCTION}
    try:
        api.change("PUT", path, json_body=target)
    except ApiError as error:
        if error.code != "gates_failed":
            raise
        api.change("PUT", path, json_body={**target, "force": True, "reason": UNPROVEN})


def _present(api: Api) -> tuple[set[str], set[str]]:
    try:
        data = api.get(prompt_path(PROMPT)).data
    except ApiError as error:
        if error.code != "prompt_not_found":
            raise
        return set(), set()
    return {version["version"] for version in data["versions"]}, set(data["aliases"])
