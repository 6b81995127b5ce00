"""A rollout as tables for a person. Pure: the API's data in, something to print out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.text import Text

from softprompt_serve.cli.document_views import rules, shadow, share
from softprompt_serve.cli.gate_views import gates
from softprompt_serve.cli.views import Data, as_text, new_grid, new_table, unverified

if TYPE_CHECKING:
    from rich.console import RenderableType

_STATE_STYLES = {
    "pending": "cyan",
    "progressing": "cyan",
    "paused": "yellow",
    "promoted": "green",
    "rolled_back": "red",
}
_ENDED = frozenset({"promoted", "rolled_back"})
_BAR = 20


def rollout(data: Data, *, brief: bool = False) -> RenderableType:
    """A prompt's rollout, a section each; what there is none of is left out.

    ``brief`` leaves out what does not change while one watches.
    """
    settled = () if brief else (rules(data), shadow(data))
    sections = (_heading(data), _arms(data), *settled, _steps(data), gates(data), _replicas(data))
    parts: list[RenderableType] = []
    for section in sections:
        if section is not None:
            parts += [section, Text()]
    return Group(*parts[:-1])


def line(data: Data) -> str:
    """The same in one line, for a log."""
    weights = " ".join(f"{version}={weight}" for version, weight in data["weights"].items())
    parts = [f"generation {data['generation']}", _state(data).plain, weights]
    if (step := data["step"]) is not None:
        parts.append(
            f"{step['requests']}/{step['min_requests']} answers, "
            f"{step['since_seconds']:.0f}/{step['min_duration_seconds']:.0f} s"
        )
    parts.append("applied" if data["applied"] else f"not applied: {'; '.join(behind(data))}")
    return ", ".join(part for part in parts if part)


def behind(data: Data) -> list[str]:
    """Why a rollout is not applied: a clause for each replica that is not there yet."""
    if data["note"] is not None:
        return [data["note"]]
    if not data["observed"]:
        return ["no live replica has reported yet"]
    found = []
    for replica in data["observed"]:
        if replica["applied"]:
            continue
        if replica["generation"] != data["generation"]:
            what = f"serves generation {replica['generation']} of {data['generation']}"
        else:
            missing = sorted(_named(data["spec"]) - set(replica["resident"]))
            what = f"does not hold {', '.join(missing) or 'all versions'} yet"
        found.append(f"{replica['name']} {what}")
    return found


def history(data: Data) -> RenderableType:
    """The states that a prompt's traffic was in, newest first."""
    table = new_table("generation", "at", "who", "what", "weights", "production", "settled")
    for entry in data["data"]:
        weights = entry["weights"]
        table.add_row(
            as_text(entry["generation"]),
            entry["at"],
            entry["actor"] or "-",
            entry["action"],
            " ".join(f"{version}={weight}" for version, weight in weights.items()) or "-",
            entry["production"] or "-",
            "yes" if entry["settled"] else "no",
        )
    return table


def explained(data: Data) -> RenderableType:
    """What a request would be answered by, or refused with, and how that came about."""
    refusal = data["refusal"]
    facts: dict[str, Any] = {"refused": _refused(refusal)} if refusal else _answer(data)
    facts |= {name: data[name] for name in ("cohort", "route", "generation")}
    if data["passed_over"] is not None:
        facts["passed over"] = f"{data['passed_over']} (not resident)"
    if refusal is None:
        facts["resident"] = "yes" if data["resident"] else "no"
    steps = Text("\n".join(f"{number}. {step}" for number, step in enumerate(data["steps"], 1)))
    return Group(new_grid(facts), Text(), steps)


def _answer(data: Data) -> dict[str, Any]:
    return {
        "answered by": f"{data['version']} ({data['kind']}, {data['digest'][:12]})",
        "because of": data["reason"] if data["rule"] is None else f"rule {data['rule']}",
        "arm": data["arm"],
    }


def _refused(refusal: Data) -> Text:
    return Text(f"{refusal['status']} {refusal['code']}: {refusal['message']}", style="red")


def _heading(data: Data) -> RenderableType:
    name = Text(f"{data['prompt']} ").append_text(_state(data))
    if data["reason"]:
        name.append(f": {data['reason']}")
    facts: dict[str, Any] = {"generation": data["generation"]}
    if data["epoch"] not in {0, data["generation"]}:
        facts["generation"] = f"{data['generation']} (arms compared since {data['epoch']})"
    facts["production"] = data["production"] or "-"
    if data["candidate"] is not None:
        facts["candidate"] = data["candidate"]
    if data["updated_at"]:
        who = f" by {data['updated_by']}" if data["updated_by"] else ""
        facts["changed"] = f"{data['updated_at']}{who}"
    if (found := data["findings"]) is not None and data["state"] not in _ENDED:
        facts["controller"] = Text(found["reason"])
        if found["trouble"] is not None:
            facts["trouble"] = Text(found["trouble"], style="red")
    facts |= unverified(data.get("unverified", {}), data)
    if data["applied"]:
        facts["applied"] = Text("yes", style="green")
    else:
        facts["applied"] = Text(f"no: {'; '.join(behind(data))}", style="yellow")
    return Group(name, new_grid(facts))


def _state(data: Data) -> Text:
    shown = {"none": "has no rollout", "rolled_back": "rolled back"}.get(data["state"])
    text = Text(shown or data["state"], style=_STATE_STYLES.get(data["state"], "bold"))
    if data["step"] is not None:
        text.append(f" (step {data['step']['index'] + 1} of {data['step']['of']})")
    return text


def _arms(data: Data) -> RenderableType | None:
    total = sum(data["weights"].values())
    if not total:
        return None
    written = {arm["version"]: arm.get("alias") for arm in (data["spec"] or {}).get("arms", ())}
    table = new_table("arm", "weight", "share", "", "what")
    for version, weight in data["weights"].items():
        roles = [role for role in ("production", "candidate") if data[role] == version]
        alias = written.get(version)
        if alias not in {None, "production", *roles}:  # which means another by now
            roles.append(f"written as {alias}")
        bar = ProgressBar(total=total, completed=weight, width=_BAR)
        table.add_row(version, f"{weight:,}", share(weight / total), bar, ", ".join(roles))
    return table


def _steps(data: Data) -> RenderableType | None:
    steps = (data["spec"] or {}).get("steps")
    if not steps:
        return None
    now = data["step"]
    table = new_table("step", "weight", "answers", "", "seconds", "")
    for index, step in enumerate(steps):
        answers, seconds = step["min_requests"], step["min_duration_seconds"]
        row: list[RenderableType] = [f"{step['weight']:,}", f"{answers:,}", "", f"{seconds:g}", ""]
        style, name = "dim", str(index + 1)
        if now is not None and index == now["index"]:
            seen, since = now["requests"], now["since_seconds"]
            style, name = "bold", f"{name} now"
            row[1:3] = f"{seen:,} of {answers:,}", _bar(seen, answers)
            row[3:5] = f"{since:.0f} of {seconds:g}", _bar(since, seconds)
        elif data["state"] == "promoted" or (now is not None and index < now["index"]):
            name = f"{name} done"
        table.add_row(name, *row, style=style)
    return table


def _bar(seen: float, wanted: float) -> ProgressBar:
    # What asks for nothing is full at once.
    return ProgressBar(total=wanted or 1, completed=min(seen, wanted) if wanted else 1, width=_BAR)


def _replicas(data: Data) -> RenderableType | None:
    if not data["observed"]:
        return None
    table = new_table("replica", "id", "generation", "holds", "since", "seen", "applied")
    for replica in data["observed"]:
        table.add_row(
            replica["name"],
            replica["replica"],
            as_text(replica["generation"]),
            ", ".join(replica["resident"]) or "-",
            replica["since"] or "-",
            f"{replica['seen_seconds_ago']:.1f} s ago",
            Text("yes", style="green") if replica["applied"] else Text("no", style="yellow"),
        )
    return table


def _named(spec: Data | None) -> set[str]:
    """Every version that a document names."""
    if spec is None:
        return set()
    named = {arm["version"] for arm in spec["arms"]}
    for rule in spec.get("rules") or ():
        named |= {arm["version"] for arm in rule.get("split") or ()}
        named |= {rule["version"]} if rule.get("version") else set()
    return named | ({spec["shadow"]["version"]} if spec.get("shadow") else set())
