"""Logs of Inspect (UK AI Security Institute), in its JSON format; checked on inspect_ai 0.3."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from datetime import datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.evaluation.dataset import canonical_json
from softprompt_serve.evaluation.imports.made import (
    Found,
    Imported,
    Mean,
    error_of,
    read_json,
    refuse,
    share,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Json = Mapping[str, Any]

_MEANS: Final = ("accuracy", "mean")
_LETTERS: Final = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's own words for right, partly right, wrong and no answer."""


def read_inspect(path: Path) -> Imported:
    """A log of one task that ended well.

    An evaluator is called ``task/scorer``. Of several epochs an item's mean counts.

    Raises:
        BadRequest: ``invalid_import``.
    """
    log = read_json(path)
    try:
        if log["status"] != "success":
            refuse(path, f"its status is {log['status']!r}")
        task = log["eval"]["task"]
        found = _found(task, log.get("samples") or [])
        means = _means(task, log["results"]["scores"])
        names = {*(mean.evaluator for mean in means), *(one.evaluator for one in found)}
        if not names:
            refuse(path, "it has no score from 0 to 1")
        versions = log["eval"].get("packages") or {}
        made = f"inspect_ai {versions.get('inspect_ai', 'unknown')}, {task} {log['eval'].get('task_version', 0)}"
        return Imported(
            source="inspect",
            dataset=log["eval"]["dataset"].get("name") or task,
            dataset_sha256=_hash(log),
            model=str(log["eval"]["model"]),
            at=datetime.fromisoformat(log["stats"]["completed_at"]).timestamp(),
            evaluators=dict.fromkeys(sorted(names), made),
            means=means,
            found=found,
            sampling=dict(log["eval"].get("model_generate_config") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        refuse(path, f"it is no log of Inspect ({type(error).__name__}: {error})", error)


def _means(task: str, scores: list[Json]) -> tuple[Mean, ...]:
    """The mean of each scorer, by whichever of its metrics is one."""
    means = []
    for score in scores:
        metrics = score["metrics"]
        values = (share(metrics[name]["value"]) for name in _MEANS if name in metrics)
        value = next((value for value in values if value is not None), None)
        if value is not None:
            error = error_of(metrics["stderr"]["value"]) if "stderr" in metrics else None
            items = int(score.get("scored_samples") or 0)
            means.append(Mean(f"{task}/{score['name']}", value, error, items))
    return tuple(means)


def _found(task: str, samples: list[Json]) -> tuple[Found, ...]:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        for scorer, score in (sample.get("scores") or {}).items():
            value = _value(score["value"])
            if value is not None:
                values[str(sample["id"]), scorer].append(value)
    return tuple(
        Found(item, f"{task}/{scorer}", fmean(epochs))
        for (item, scorer), epochs in sorted(values.items())
    )


def _value(value: object) -> float | None:
    if isinstance(value, str):
        return _LETTERS.get(value)
    return float(value) if isinstance(value, bool) else share(value)


def _hash(log: Json) -> str:
    """Over the task and its items' ids and targets; inputs may hold ids that change each time."""
    described = log["eval"]["dataset"]
    samples = {str(s["id"]): s.get("target") for s in log.get("samples") or []}
    asked = {
        "task": log["eval"]["task"],
        "version": log["eval"].get("task_version"),
        "dataset": described.get("name"),
        "items": sorted(str(name) for name in described.get("sample_ids") or samples),
        "targets": samples,
    }
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()
