"""What a rerun found, for a person. Pure: data in, something to print out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.text import Text

from softprompt_serve.cli.views import Data, as_text, new_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table

_STYLES: Final = {"worse": "red", "better": "green", "changed": "yellow", "none": "dim"}
_TINY: Final = 0.0001


def found(data: Data) -> RenderableType:
    """Each comparison with its numbers, and what follows; of ``Found.to_json``."""
    return Group(*_parts(data))


def _parts(data: Data) -> Iterator[RenderableType]:
    yield Text(f"{data['prompt']} at {data['at']}", style="bold")
    for run in data["runs"]:
        yield Text(_against(run), style="dim")
    if data["shifts"]:
        yield _shifts(data)
    yield _outcome(data)
    for version in data["retire"]:
        yield Text(_retire(data, version), style="yellow")
    if data["action"] is not None:
        yield _done(data["action"])


def _against(run: Data) -> str:
    reference, name = run["reference"], f"{run['dataset']} ({run['dataset_sha256'][:12]})"
    if reference is None:
        return (
            f"{name}: run {run['run'][:12]}; there is none to compare with, so that this run is "
            "now the reference."
        )
    return f"{name}: run {run['run'][:12]}, against {reference['run'][:12]} of {reference['at']}"


def _shifts(data: Data) -> Table:
    table = new_table(
        *("data set", "evaluator", "cohort", "version", "items", "then", "now"),
        *("difference", "better, worse", "p, adjusted", "shifted"),
    )
    for row in data["shifts"]:
        missing = f", {row['missing']} unanswered" if row["missing"] else ""
        table.add_row(
            row["dataset"],
            row["evaluator"],
            row["cohort"],
            row["version"],
            f"{as_text(row['items'])}{missing}",
            f"{row['old_mean']:.3f}",
            f"{row['new_mean']:.3f}",
            f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
            f"{row['better']}, {row['worse']}",
            ", ".join(_p_value(test) for test in row["tests"]),
            Text(row["direction"], style=_STYLES[row["direction"]]),
        )
    return table


def _p_value(test: Data) -> str:
    value = "< 0.0001" if test["adjusted"] < _TINY else f"{test['adjusted']:.2g}"
    return value if test["of"] == "mean" else f"{value} (distribution)"


def _outcome(data: Data) -> Text:
    if not data["shifts"]:
        return Text("Nothing was compared.")
    sure = (
        f"at {100 * data['confidence']:g} % confidence over all comparisons ({data['correction']})"
    )
    if not data["shifted"]:
        return Text(f"No shift {sure}.", style="green")
    directions = sorted({row["direction"] for row in data["shifts"]} - {"none"})
    style = "red" if "worse" in directions else "yellow"
    return Text(f"Shifted {sure}: {', '.join(directions)}.", style=style)


def _retire(data: Data, version: str) -> str:
    leads = [lead for lead in data["leads"] if lead["version"] == version]
    said = "; ".join(
        f"{lead['evaluator']} on {lead['dataset']} {lead['difference']:+.3f} "
        f"({lead['low']:+.3f} to {lead['high']:+.3f}) on {lead['items']} items"
        for lead in leads
    )
    return (
        f"{version} leads {data['baseline']} by less than {leads[0]['below']:g} for certain: {said}. "
        f"Retire it: `softprompt-serve alias {data['prompt']} production {data['baseline']}`."
    )


def _done(action: Data) -> Text:
    promoted, failure = action["verb"] == "promote", action["failure"]
    if failure is not None:
        wanted = (
            f"{action['version']} shall have all traffic"
            if promoted
            else f"the rollout of {action['version']} shall be rolled back"
        )
        return Text(f"By the policy {wanted}, which failed: {failure}", style="red")
    done = (
        f"production was {action['instead_of']} and is {action['version']} now"
        if promoted
        else f"the rollout of {action['version']} was rolled back"
    )
    return Text(f"By the policy {done}. {action['reason']}", style="yellow")
