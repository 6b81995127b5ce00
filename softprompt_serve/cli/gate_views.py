"""What a rollout's controller found, gate by gate. Pure: data in, something to print out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from softprompt_serve.cli.views import Data, new_table

if TYPE_CHECKING:
    from rich.console import RenderableType

_MUCH = 10_000
_BOUNDS = ("max", "max_increase", "max_ratio")


def gates(data: Data) -> RenderableType | None:
    """Each gate with its numbers, wherever it is held; without numbers yet, what is asked for."""
    asked = (data["spec"] or {}).get("gates")
    found = (data["findings"] or {}).get("gates")
    if not asked:
        return None
    if not found:
        return Text(f"gates  {', '.join(map(_label, asked))}: no numbers yet")
    table = new_table("gate", "of", "candidate", "baseline", "evidence", "so far")
    for gate in found:
        broken = gate["broken"]
        table.add_row(
            gate["gate"],
            gate["cohort"] or "all",
            figures(gate["candidate"], gate["unit"]),
            figures(gate["baseline"], gate["unit"]),
            f"{_evidence(gate['evidence'])} of {gate['needed']:.4g}",
            Text("broken", style="red") if broken else Text("holds", style="green"),
        )
    age = data["findings_seconds_ago"]
    note = "A gate is broken when the evidence against it reaches what is needed."
    return Group(table, Text(note if age is None else f"{note} {age:.0f} s ago.", style="dim"))


def figures(arm: Data | None, unit: str) -> str:
    """An arm's figure with its interval and how many answers it rests on."""
    if arm is None or not arm["n"]:
        return "-"
    estimate, low, high = (value(arm[name], unit) for name in ("estimate", "low", "high"))
    return f"{estimate} ({low} to {high}; {arm['n']:,})"


def value(number: float | None, unit: str) -> str:
    """A number in its unit; a share in per cent."""
    if number is None:
        return "?"
    return f"{number * 100:.3g} %" if unit == "share" else f"{number:.3g} {unit}"


def _evidence(number: float) -> str:
    return f"{number:.3g}" if number < _MUCH else f"more than {_MUCH:,}"


def _label(gate: Data) -> str:
    at = "" if gate.get("quantile") is None else f" p{gate['quantile'] * 100:g}"
    bound = next((name for name in _BOUNDS if gate.get(name) is not None), "")
    return f"{gate['metric']}{at} {bound} {gate.get(bound, 0.0):g}"
