"""What an export wrote and what an import made of it, for a person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from softprompt_serve.cli.views import new_grid

if TYPE_CHECKING:
    from rich.console import RenderableType

Data = dict[str, Any]


def exported(data: Data) -> RenderableType:
    """Which file was written, and what is in it."""
    facts = {"SHA-256": data["sha256"], **_facts(data), "signed by": data["signed_by"] or "nobody"}
    title = f"{data['prompt']}@{data['version']} written to {data['file']}"
    return Group(Text(title), new_grid(facts))


def imported(data: Data) -> RenderableType:
    """Which versions there are now, and what became of their evaluations."""
    return Group(*(_imported(part) for part in data["data"]))


def _imported(data: Data) -> RenderableType:
    bundle, version, evidence = data["bundle"], data["version"], data["evaluations"]
    made = "imported" if data["created"] else "was already there, with the same content and record"
    signer = bundle["signed_by"]
    checked = "verified" if data["verified"] else "not verified: no key was given"
    facts = {
        **_facts(bundle),
        "exported from": bundle["base_model"] or "an unnamed base model",
        "signed by": "nobody" if signer is None else f"{signer} ({checked})",
        "state": version["state"],
        "evaluations": f"{len(evidence['imported'])} imported, {len(evidence['known'])} known, "
        f"{len(evidence['left_out'])} left out",
    }
    left_out = [
        Text(f"left out: {run}: {why}", style="yellow") for run, why in evidence["left_out"].items()
    ]
    title = f"{version['prompt']}@{version['version']} {made}"
    return Group(Text(title), new_grid(facts), *left_out)


def _facts(bundle: Data) -> Data:
    return {
        "kind": bundle["kind"],
        "digest": bundle["digest"],
        "evaluations": len(bundle["evaluations"]),
    }
