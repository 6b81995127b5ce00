"""Every turn of a sheet as JSON, so that tables and charts can be made again. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from cost.figures import Answer, Turn
from cost.sheets import Case

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def write(found: Mapping[Case, Mapping[str, Sequence[Turn]]]) -> str:
    """All of them, case by case."""
    return json.dumps(
        [
            {
                "case": asdict(case),
                "turns": {name: [asdict(turn) for turn in turns] for name, turns in them.items()},
            }
            for case, them in found.items()
        ]
    )


def read(text: str) -> dict[Case, dict[str, list[Turn]]]:
    """What :func:`write` wrote."""
    return {
        Case(**each["case"]): {
            name: [_turn(**turn) for turn in turns] for name, turns in each["turns"].items()
        }
        for each in json.loads(text)
    }


def _turn(answers: list[dict[str, object]], seconds: float, tokens: int, processor: float) -> Turn:
    return Turn(tuple(_answer(**answer) for answer in answers), seconds, tokens, processor)  # type: ignore[arg-type]


def _answer(first: float, gaps: list[float], sent: int, received: int) -> Answer:
    return Answer(first, tuple(gaps), sent, received)
