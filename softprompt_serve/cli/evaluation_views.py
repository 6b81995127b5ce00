"""Runs of evaluations as tables for a person. Pure: data in, something to print out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from softprompt_serve.cli.views import Data, as_text, new_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def summary(data: Data) -> RenderableType:
    """What a run found; ``data`` of :func:`softprompt_serve.evaluation.summary.summary_of`."""
    title = f"{data['prompt']} on {data['dataset']} ({data['dataset_sha256'][:12]})"
    parts: list[RenderableType] = [Text(title, style="bold"), Text()]
    if data["scores"]:
        parts += [_scores(data), Text()]
    if data["totals"]:
        parts += [_totals(data), Text()]
    if data["answers"]:
        parts += [_answers(data), Text()]
    for row in data["unscored"]:
        parts.append(
            Text(
                f"{row['evaluator']} came to no verdict on {row['items']} answers of "
                f"{row['version']}; they have no score.",
                style="yellow",
            )
        )
    parts.append(Text(f"run {data['run']}", style="dim"))
    return Group(*parts)


def runs(data: Data) -> RenderableType:
    """Stored runs, newest first."""
    if not data["data"]:
        return Text("No evaluations yet; `softprompt-serve eval run` makes one.")
    table = new_table("run", "at", "data set", "versions", "evaluators", "source", "who")
    for run in data["data"]:
        table.add_row(
            run["id"],
            as_text(run["at"]),
            f"{run['dataset']} ({run['dataset_sha256'][:12]})",
            ", ".join(run["digests"]),
            ", ".join(run["evaluators"]),
            run["source"],
            run["actor"] or "-",
        )
    return table


def removed(data: Data) -> RenderableType:
    """A run that is gone."""
    versions = ", ".join(data["digests"])
    return Text(f"Removed run {data['id']}: {versions} on {data['dataset']}, of {data['at']}.")


def _scores(data: Data) -> Table:
    first = data["versions"][0]
    table = new_table(
        "evaluator", "cohort", "version", "items", "passed", "mean", f"to {first}", "better, worse"
    )
    before = None
    for row in data["scores"]:
        what = (row["evaluator"], row["cohort"])
        table.add_row(
            *(what if what != before else ("", "")),
            row["version"],
            as_text(row["items"]),
            as_text(row["passed"]),
            _figure(row),
            "" if row["difference"] is None else _figure(row["difference"], signed=True),
            "" if row["difference"] is None else _moved(row["difference"]),
        )
        before = what
    return table


def _totals(data: Data) -> Table:
    table = new_table("task and metric", "version", "items", "mean")
    for row in data["totals"]:
        error = "" if row["stderr"] is None else f" ± {100 * row['stderr']:.1f}"
        table.add_row(
            row["evaluator"],
            row["version"],
            as_text(row["items"]),
            f"{100 * row['mean']:.1f}{error}",
        )
    return table


def _answers(data: Data) -> Table:
    table = new_table(
        *("version", "answers", "failed", "first token, p50, p99", "last token, p50, p99"),
        *("visible", "virtual", "output tokens", "USD"),
    )
    for row in data["answers"]:
        failed = ", ".join(f"{count} {code}" for code, count in row["errors"].items())
        table.add_row(
            row["version"],
            as_text(row["items"]),
            failed or "-",
            _seconds(row["ttft_seconds"]),
            _seconds(row["e2e_seconds"]),
            *(_number(row[f"{kind}_tokens"]) for kind in ("visible", "virtual", "output")),
            "-" if row["cost_usd"] is None else f"{row['cost_usd']:.3g}",
        )
    return table


def _figure(row: Data, *, signed: bool = False) -> str:
    """A mean in per cent, or a difference of two in points, with its interval."""
    if row["mean"] is None:
        return "-"
    sign = "+" if signed else ""
    mean = f"{100 * row['mean']:{sign}.1f}{' points' if signed else ' %'}"
    if row["low"] is None:
        return mean
    low, high = (f"{100 * row[end]:{sign}.1f}" for end in ("low", "high"))
    return f"{mean} ({low} to {high})"


def _moved(difference: Data) -> str:
    return f"{difference['better']}, {difference['worse']} of {difference['pairs']}"


def _seconds(spread: Data | None) -> str:
    return "-" if spread is None else f"{spread['p50']:.3g} s, {spread['p99']:.3g} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
