"""Put the demo's versions into a running server, through its API as anybody would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from softprompt_serve.cli.client import Api, ApiError, alias_path, prompt_path
from softprompt_serve.cli.upload import CONFIG, as_parts, import_version, read_text
from softprompt_serve.registry.snapshot import PRODUCTION

if TYPE_CHECKING:
    from rich.console import Console

PROMPTS: Final = Path(__file__).parent / "prompts"
PROMPT: Final = "support"
FIRST_PRODUCTION: Final = "v2"


def seed(api: Api, console: Console, folder: Path = PROMPTS) -> list[str]:
    """Import the demo's versions that the server lacks; returns the labels that are new."""
    versions, aliases = _present(api)
    added = []
    for source in sorted(folder.glob(f"{PROMPT}-v*")):
        version = source.name.removeprefix(f"{PROMPT}-")
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
        target = {"version": FIRST_PRODUCTION}
        api.change("PUT", alias_path(PROMPT, PRODUCTION), json_body=target)
    return added


def _present(api: Api) -> tuple[set[str], set[str]]:
    try:
        data = api.get(prompt_path(PROMPT)).data
    except ApiError as error:
        if error.code != "prompt_not_found":
            raise
        return set(), set()
    return {version["version"] for version in data["versions"]}, set(data["aliases"])
