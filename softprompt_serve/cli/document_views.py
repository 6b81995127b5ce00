"""The parts of a rollout's document that stay as they were written. Pure: data in, tables out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_serve.cli.views import Data, new_grid, new_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType


def rules(data: Data) -> RenderableType | None:
    """Each rule: whom it is for, and what they get."""
    found = (data["spec"] or {}).get("rules")
    if not found:
        return None
    table = new_table("rule", "when", "then")
    for rule in found:
        split = " ".join(f"{arm['version']}={arm['weight']}" for arm in rule.get("split") or ())
        table.add_row(
            rule["name"], "; ".join(_conditions(rule["match"])), rule.get("version") or split
        )
    return table


def _conditions(match: Data) -> Iterable[str]:
    for name in ("cohort", "route"):
        if match.get(name) is not None:
            yield f"{name} {' or '.join(match[name])}"
    for header, values in (match.get("headers") or {}).items():
        yield f"{header} {' or '.join(values)}"
    if match.get("tools") is not None:
        yield "tools offered" if match["tools"] else "no tools offered"
    if (tokens := match.get("visible_tokens")) is not None:
        yield f"{_range(tokens.get('min'), tokens.get('max'))} visible tokens"


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"


def shadow(data: Data) -> RenderableType | None:
    """What gets a copy of how much, and within which limits."""
    copied = (data["spec"] or {}).get("shadow")
    if not copied:
        return None
    return new_grid(
        {
            "shadow": f"{copied['version']} gets a copy of {share(copied['sample'])} "
            f"({copied['mode']})",
            "its limits": f"{copied['max_concurrency']} at once, "
            f"{copied['max_tokens_per_second']:g} tokens/s, {copied['timeout_seconds']:g} s each",
        }
    )


def share(part: float) -> str:
    """0.1 → ``10 %``."""
    return f"{part * 100:.4g} %"
