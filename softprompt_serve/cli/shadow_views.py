"""A shadow's comparison as tables for a person. Pure: the API's data in, something to print out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.text import Text

from softprompt_serve.cli.views import Data, new_grid, new_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType
    from rich.table import Table

_GROUPS: Final = (
    ("same", "rates", {"exact": "text", "finish_equal": "ending", "tools_equal": "tool calls"}),
    ("valid JSON", "rates", {"json_valid_user": "user", "json_valid_shadow": "shadow"}),
    ("similarity", "means", {"similarity": "of texts", "word_similarity": "of words"}),
    ("longer by", "means", {"length_delta_chars": "characters", "token_delta": "tokens"}),
    ("slower by", "means", {"ttft_delta_seconds": "TTFT (s)", "e2e_delta_seconds": "whole (s)"}),
)
"""Tables that fit a terminal: title, part of the API's answer, and the columns in it."""

_QUANTILES: Final = ("p50", "p90", "p99")


def shadow(data: Data, *, samples: bool = False) -> RenderableType:
    """What was counted of a shadow, a row for all requests and one for each cohort."""
    rows = {"all": data["overall"], **data["cohorts"]}
    parts: list[RenderableType] = [_heading(data)]
    if data["overall"]["offered"]:
        parts += [Text(), _counts(rows)]
    if data["overall"]["pairs"]:
        for title, kind, columns in _GROUPS:
            parts += _figures(title, {name: row[kind] for name, row in rows.items()}, columns)
    if data["overall"]["scored"]:
        parts += [Text(), _likelihoods(rows)]
    if data["samples"]:
        parts += [Text(), *_samples(data["samples"], whole=samples)]
    return Group(*parts)


def _heading(data: Data) -> RenderableType:
    now = data["shadow"]
    if now is None:
        said = Text(f"{data['prompt']} has no shadow now")
    else:
        share = f"{now['sample'] * 100:.4g} %"
        said = Text(f"{data['prompt']}: {now['version']} gets a copy of {share} ({now['mode']})")
    if not data["overall"]["offered"]:
        return said.append("; nothing was copied yet")
    return said.append(
        f"; counted since generation {data['epoch']} on {data['replicas']} "
        f"replica{'s'[: data['replicas'] != 1]}"
    )


def _counts(rows: Mapping[str, Data]) -> Table:
    table = new_table("requests of", "drawn", "compared", "scored", "came to nothing")
    for name, row in rows.items():
        shed = ", ".join(f"{cause} {count:,}" for cause, count in row["shed"].items())
        counts = (f"{row[count]:,}" for count in ("offered", "pairs", "scored"))
        table.add_row(name, *counts, shed or "-")
    return table


def _figures(
    title: str, rows: Mapping[str, Data], columns: Mapping[str, str]
) -> list[RenderableType]:
    """A table with a column for each figure that somebody has; none without any."""
    there = [name for name in columns if any(row[name]["of"] for row in rows.values())]
    if not there:
        return []
    table = new_table(title, *(columns[name] for name in there))
    for label, row in rows.items():
        table.add_row(label, *(_figure(row[name]) for name in there))
    return [Text(), table]


def _figure(found: Data) -> str:
    return _rate(found) if "rate" in found else _mean(found)


def _rate(rate: Data) -> str:
    if rate["rate"] is None:
        return "-"
    low, high = (f"{rate[end] * 100:.3g}" for end in ("low", "high"))
    return f"{rate['rate'] * 100:.3g} % ({low} to {high}; {rate['of']:,})"


def _mean(mean: Data) -> str:
    if mean["mean"] is None:
        return "-"
    if mean["low"] is None:
        return f"{mean['mean']:.3g}"
    return f"{mean['mean']:.3g} ({mean['low']:.3g} to {mean['high']:.3g})"


def _likelihoods(rows: Mapping[str, Data]) -> Table:
    table = new_table("nats per token", "divergence", *_QUANTILES, "surprise", "of tokens")
    for name, row in rows.items():
        found = row["divergence"]
        quantiles = ("-" if found[q] is None else f"{found[q]:.3g}" for q in _QUANTILES)
        surprise = _mean(row["means"]["surprise_nats"])
        table.add_row(name, _mean(found), *quantiles, surprise, f"{found['tokens']:,}")
    return table


def _samples(samples: list[Data], *, whole: bool) -> Iterable[RenderableType]:
    if not whole:
        kept = f"{len(samples)} pair{'s'[: len(samples) != 1]} kept; --samples shows what they say."
        yield Text(kept, style="dim")
        return
    for sample in samples:
        yield Text(f"{sample['request_id']}  {sample['cohort']}, {sample['route']}", style="bold")
        yield new_grid(
            {
                f"{whose} {sample[whose]['version']}": _answer(sample[whose])
                for whose in ("user", "shadow")
            }
        )


def _answer(answer: Data) -> str:
    calls = (f"{call['name']}({call['arguments']})" for call in answer["tool_calls"])
    return "\n".join([answer["text"], *calls])
