"""Catalogues in memory for tests of the router: one prompt, three versions, a rollout."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from softprompt_serve.registry.snapshot import Prompt, Rollout, Snapshot, Version
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.plan import Plan

GENERATION, EPOCH = 12, 9


def version(name: str, prompt: str = "support", *, wanted: bool = True) -> Version:
    return Version(
        prompt=prompt,
        version=name,
        digest=name * 32,
        kind="soft",
        virtual_tokens=20,
        hidden_size=8,
        dtype="float32",
        text=None,
        wanted=wanted,
        created_at="2026-01-01T00:00:00Z",
        created_by=None,
    )


def without(*names: str) -> Callable[[Version], bool]:
    """Whether a version is resident, on a server that lacks these."""
    return lambda version: version.version not in names


def rollout(document: dict[str, Any] | None) -> Rollout:
    spec = None if document is None else RolloutSpec.model_validate(document)
    weights = {} if spec is None else {arm.version: arm.weight for arm in spec.arms}
    return Rollout(
        generation=GENERATION,
        epoch=EPOCH,
        state="static",
        reason="",
        spec=spec,
        weights=MappingProxyType(weights),
        plan=None if spec is None else Plan.of("support", spec, weights),
        step=None,
        step_since=None,
        step_base=0,
        updated_at="2026-01-01T00:00:00Z",
        updated_by=None,
    )


def snapshot(
    aliases: dict[str, str] | None = None,
    *,
    unloaded: tuple[str, ...] = (),
    routed: Rollout | None = None,
) -> Snapshot:
    """`support` with v1 (production), v2 (candidate) and v3, at revision 7."""
    names = ("v1", "v2", "v3")
    versions = {name: version(name, wanted=name not in unloaded) for name in names}
    given = {"production": "v1", "candidate": "v2"} if aliases is None else aliases
    prompt = Prompt("support", MappingProxyType(versions), MappingProxyType(given), routed)
    return Snapshot(7, MappingProxyType({"support": prompt}))


def arms(**weights: int) -> list[dict[str, Any]]:
    return [{"version": name, "weight": weight} for name, weight in weights.items()]


def split(*rules: dict[str, Any], **weights: int) -> Snapshot:
    """The same with a rollout: arms by their weights, and rules."""
    return snapshot(routed=rollout({"arms": arms(**weights), "rules": list(rules)}))


def rule(name: str = "a-rule", *, version: str | None = None, **match: Any) -> dict[str, Any]:
    return {"name": name, "match": match, "version": version or "v3"}
