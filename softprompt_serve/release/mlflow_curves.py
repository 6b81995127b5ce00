"""Which of the histories that a run logged to MLflow are its training curve. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.release.curves import MAX_VALUES, NAME_CHARS, thinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Series = list[tuple[int, float]]
"""Steps and values."""

SYSTEM: Final = "system/"
"""How MLflow begins the names of what it measures of the machine."""

_LOSS: Final = ("loss", "train_loss", "train/loss", "training_loss")
_MAX_CURVES: Final = 32


def curve_names(metrics: Iterable[str]) -> list[str]:
    """Metrics whose history is worth reading: training loss, other losses, then the rest."""
    names = sorted(name for name in metrics if not name.startswith(SYSTEM))
    main = _main(names)
    return sorted(names, key=lambda name: (name != main, "loss" not in name))[:_MAX_CURVES]


def _main(names: Iterable[str]) -> str | None:
    """The training loss, as trainers call it."""
    known = set(names)
    return next((name for name in _LOSS if name in known), None)


def chosen_of(curves: Mapping[str, Series]) -> dict[str, Series]:
    """What a point has room for, each by growing steps; training loss is called ``loss``."""
    usable: dict[str, Series] = {}
    for name in curve_names(curves):
        # A step that was logged twice counts as it was logged last.
        values = {step: value for step, value in curves[name] if step >= 0 and math.isfinite(value)}
        if len(values) > 1 and len(name) <= NAME_CHARS:
            usable[name] = sorted(values.items())
    main = _main(usable)
    if main is not None:
        usable = {"loss": usable.pop(main), **usable}
    return dict(list(usable.items())[:MAX_VALUES])


def merged(chosen: Mapping[str, Series], most: int | None) -> list[dict[str, Any]]:
    """Points by step, of at most ``most`` values of each series."""
    steps: dict[int, dict[str, Any]] = {}
    for name, series in chosen.items():
        for step, value in series if most is None else thinned(series, max(most, 2)):
            steps.setdefault(step, {"step": step})[name] = value
    return [steps[step] for step in sorted(steps)]
