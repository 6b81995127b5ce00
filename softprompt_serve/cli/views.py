"""The API's data as tables for a person. Pure: data in, something to print out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

_DIGEST = 12
_STATE_STYLES = {"resident": "green", "stored": "yellow", "unloaded": "dim"}
_MIB = 1024 * 1024

Data = dict[str, Any]


def prompts(data: Data) -> RenderableType:
    """All prompts, a row per version."""
    versions = [version for prompt in data["data"] for version in prompt["versions"]]
    if not versions:
        return Text("No prompts yet; `softprompt-serve import PATH --prompt NAME` adds one.")
    return _version_table(versions, with_prompt=True)


def prompt(data: Data) -> RenderableType:
    """One prompt: its aliases and versions."""
    aliases = ", ".join(f"{name} → {target}" for name, target in sorted(data["aliases"].items()))
    facts = {"prompt": data["name"], "aliases": aliases or "none"}
    facts |= unverified({v["version"]: v.get("unverified") for v in data["versions"]}, data)
    lines = new_grid(facts)
    return Group(lines, _version_table(data["versions"], with_prompt=False))


def unverified(whys: Mapping[str, str | None], data: Data) -> Data:
    """Which versions the served base model is not known to suit, and who answers for them."""
    said = [f"{name} was {why}" for name, why in whys.items() if why]
    if not said:
        return {}
    return {"unverified": "\n".join((*said, f"{data.get('stand_in') or 'nobody'} answers for it"))}


def version(data: Data) -> RenderableType:
    """One version with its release record; what nobody wrote down shows as missing."""
    facts = {
        "version": f"{data['prompt']}@{data['version']}",
        "kind": data["kind"],
        "state": _state(data),
        "aliases": ", ".join(data["aliases"]) or "none",
        "virtual tokens": data["virtual_tokens"],
        "hidden size": data["hidden_size"] or "-",
        "dtype": data["dtype"] or "-",
        "digest": data["digest"],
        "created": _by(data["created_at"], data["created_by"]),
    }
    if data.get("unverified"):
        facts["unverified"] = f"it was {data['unverified']}"
    if data["text"] is not None:
        facts["text"] = data["text"]
    if approvals := data.get("approvals"):
        facts["approved"] = "\n".join(_approval(entry) for entry in approvals)
    expected = set(data["record_missing"])
    record = {
        name: _missing(expected=name in expected) if value is None else _recorded(name, value)
        for name, value in data["record"].items()
    }
    return Group(new_grid(facts), Text("\nrelease record", style="bold"), new_grid(record))


def imported(data: Data, *, created: bool) -> RenderableType:
    """What an import made, or found to be there already."""
    found = "imported" if created else "was already there, with the same content"
    facts = {
        "kind": data["kind"],
        "virtual tokens": data["virtual_tokens"],
        "digest": data["digest"],
        "state": _state(data),
        "aliases": ", ".join(data["aliases"]) or "none",
    }
    return Group(Text(f"{data['prompt']}@{data['version']} {found}"), new_grid(facts))


def alias(data: Data) -> RenderableType:
    """Where an alias points now."""
    before = data["previous"]
    now = f"{data['prompt']}@{data['alias']} → {data['version']}"
    if before is None or before == data["version"]:
        return Text(now if before is None else f"{now} (as before)")
    return Text(f"{now} (before: {before})")


def removed(data: Data) -> RenderableType:
    """What is gone."""
    later = "; its rows are freed when the requests in flight end" if data.get("draining") else ""
    return Text(f"{data['removed']} removed{later}")


def state(data: Data) -> RenderableType:
    """A version's whereabouts after a load or unload."""
    return Text(f"{data['prompt']}@{data['version']} is ").append_text(_state(data))


def verified(data: Data) -> RenderableType:
    """That a version may have traffic."""
    return Text(f"{data['prompt']}@{data['version']} is verified on the served base model")


def residency(data: Data) -> RenderableType:
    """Each worker's bank: how full it is, and what it holds."""
    table = new_table(
        "rank", "runner", "device", "rows used", "slab", "resident", "held", "on host"
    )
    digests = new_table("digest", "rows", "requests running")
    seen: Data = {}
    for worker in data["workers"]:
        resident, held = worker["resident"], worker.get("held", {})
        table.add_row(
            as_text(worker.get("rank")),
            as_text(worker.get("runner")),
            as_text(worker.get("device")),
            f"{worker.get('used_rows', 0)} of {worker.get('capacity_rows', 0)}",
            f"{worker.get('slab_bytes', 0) / _MIB:.1f} MiB {worker.get('dtype', '')}",
            as_text(len(resident)),
            as_text(sum(held.values())),
            as_text(len(worker.get("host", ()))),
        )
        for digest, rows in resident.items():
            seen[digest] = (rows, seen.get(digest, (rows, 0))[1] + held.get(digest, 0))
    for digest, (rows, running) in seen.items():
        digests.add_row(digest[:_DIGEST], as_text(rows), as_text(running))
    leases = ", ".join(f"{label}: {count}" for label, count in data["leases"].items())
    return Group(table, digests, new_grid({"requests in flight": leases or "none"}))


def audit(data: Data) -> RenderableType:
    """Changes, newest first."""
    table = new_table("id", "at", "who", "action", "what", "detail")
    for entry in data["data"]:
        what = "@".join(part for part in (entry["prompt"], entry["subject"]) if part)
        detail = {key: value for key, value in entry["detail"].items() if value is not None}
        table.add_row(
            as_text(entry["id"]),
            entry["at"],
            entry["actor"] or "-",
            entry["action"],
            what or "-",
            ", ".join(f"{key} {_short(value)}" for key, value in detail.items()),
        )
    return table


def _version_table(versions: Sequence[Data], *, with_prompt: bool) -> Table:
    columns = ("version", "kind", "virtual tokens", "state", "aliases", "digest", "created")
    table = new_table(*(("prompt", *columns) if with_prompt else columns))
    for data in versions:
        row: list[RenderableType] = [
            data["version"],
            data["kind"],
            as_text(data["virtual_tokens"]),
            _state(data),
            ", ".join(data["aliases"]) or "-",
            data["digest"][:_DIGEST],
            _by(data["created_at"], data["created_by"]),
        ]
        table.add_row(*([data["prompt"], *row] if with_prompt else row))
    return table


def _state(data: Data) -> Text:
    text = Text(data["state"], style=_STATE_STYLES.get(data["state"], ""))
    return text.append(f" ({data['reason']})", style="") if data.get("reason") else text


def _missing(*, expected: bool) -> Text:
    return Text("missing", style="yellow" if expected else "dim")


def _approval(entry: Data) -> str:
    """Who put the version before users, and why."""
    how = "promoted" if entry["action"] == "rollout.promoted" else f"as {entry['subject']}"
    reason = entry["detail"].get("reason")
    return f"{how}, {_by(entry['at'], entry['actor'])}" + (f": {reason}" if reason else "")


def _recorded(name: str, value: Any) -> Any:
    """A record's value; of a curve, where it began and ended."""
    if name != "training_curve" or not value:
        return value
    ends = [", ".join(f"{key} {number:g}" for key, number in p.items()) for p in value]
    return f"{len(ends)} points: {ends[0]} → {ends[-1]}" if len(ends) > 1 else ends[0]


def _by(at: str, who: str | None) -> str:
    return f"{at} by {who}" if who else at


def _short(value: object) -> str:
    text = as_text(value)
    return text[:_DIGEST] if len(text) == len("0" * 64) and text.isalnum() else text


def as_text(value: object) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def new_table(*columns: str) -> Table:
    """An empty table without lines; long cells fold."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def new_grid(facts: Mapping[str, Any]) -> Table:
    """Names and values, a line each."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(name, value if isinstance(value, Text) else as_text(value))
    return grid
