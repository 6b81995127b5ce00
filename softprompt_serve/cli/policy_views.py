"""Policies and verdicts as tables for a person. Pure: data in, something to print out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.text import Text

from softprompt_serve.cli.views import Data, as_text, new_grid, new_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

_NOTHING: Final = {"win": "anything, and lose nothing", "hold": "nothing"}
"""What is asked where a policy lists nothing to win or to hold."""


def policy(data: Data) -> RenderableType:
    """A prompt's policy, and whose it is."""
    asked = data["policy"]
    if asked is None:
        return Text(f"{data['prompt']} has no policy: nothing is asked of its versions.")
    if data["default"]:
        whose = "by default, as nobody has set one"
    else:
        by = f" by {data['updated_by']}" if data["updated_by"] else ""
        whose = f"set {data['updated_at']}{by}"
    facts = {"policy": f"{data['prompt']}, {whose}"}
    return new_grid(facts | {name: _shown(name, value) for name, value in asked.items()})


def changes(before: Data | None, after: Data) -> RenderableType:
    """What a policy changes; ``before`` is the one that holds now, if any does."""
    old = before or {}
    table = new_table("field", "now", "then")
    for name, value in after.items():
        if old.get(name) != value:
            now = _shown(name, old[name]) if name in old else "-"
            table.add_row(name, now, _shown(name, value))
    if not table.row_count:
        return Text("It asks what is asked already.")
    return table


def check(data: Data) -> RenderableType:
    """Each gate with its numbers, and what would satisfy it."""
    label = f"{data['prompt']}@{data['candidate']['version']}"
    if data["baseline"] is not None:
        label += f" against {data['baseline']['version']}"
    return Group(*_parts(data, label))


def _parts(data: Data, label: str) -> Iterator[RenderableType]:
    failed = [gate for gate in data["gates"] if not gate["passed"]]
    if data["gates"]:
        table = new_table("gate", "", "found", "wanted", "numbers")
        for gate in data["gates"]:
            passed = gate["passed"]
            table.add_row(
                gate["name"],
                Text("pass", style="green") if passed else Text("FAIL", style="red"),
                gate["found"],
                gate["wanted"],
                ", ".join(_numbers(gate["numbers"])),
            )
        yield table
    for gate in failed:
        yield Text(f"{gate['name']}: {gate['hint']}", style="yellow")
    for warning in data["warnings"]:
        yield Text(f"warning: {warning}", style="yellow")
    yield _outcome(data, label, len(failed))


def _outcome(data: Data, label: str, failed: int) -> Text:
    if not data["asked"]:
        return Text(f"{label}: nothing is asked of this version; it can be promoted.")
    if data["promotable"]:
        return Text(f"{label}: passes every gate; it can be promoted.", style="green")
    return Text(f"{label}: fails {failed} of {len(data['gates'])}; it can't be promoted.", "red")


def _numbers(numbers: Data) -> Iterator[str]:
    """Those that are numbers; the words are in what was found."""
    for name, value in numbers.items():
        if not isinstance(value, str):
            yield f"{name.replace('_', ' ')} {value:.4g}"


def _shown(name: str, value: object) -> str:
    """A field for a person: what is measured in words, groups as pairs, lists with commas."""
    if isinstance(value, list):
        entries = [
            _measured(entry) if isinstance(entry, dict) else as_text(entry) for entry in value
        ]
        separator = "\n" if name in _NOTHING else ", "
        return separator.join(entries) or _NOTHING.get(name, "none")
    if isinstance(value, dict):
        given = {key: entry for key, entry in value.items() if entry is not None}
        return ", ".join(f"{key} {_shown(key, entry)}" for key, entry in given.items())
    return "-" if value is None else as_text(value)


def _measured(entry: Data) -> str:
    told = {name: value for name, value in entry.items() if name not in {"evaluator", "dataset"}}
    return f"{entry['evaluator']} on {entry['dataset']} ({_shown('', told)})"
