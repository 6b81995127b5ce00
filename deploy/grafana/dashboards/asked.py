"""What a dashboard's JSON asks Prometheus, with its variables put in as Grafana does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ALL: Final = ".*"
VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
VALUES: Final = re.compile(r"label_values\((.+), (\w+)\)")

Kind = Literal["panel", "variable", "annotation"]


@dataclass(frozen=True)
class Asked:
    """One query.

    Attributes:
        kind: what asks it.
        where: the panel's row and title, the variable's or the annotation's name.
        expr: PromQL; of a variable, the series whose label is listed.
        legend: how series are named, with labels in ``{{}}``; of a variable, the label.
        instant: whether only the last value is wanted.
        exemplars: whether exemplars are asked for, too.
        panel: the panel as it is in the JSON.
    """

    kind: Kind
    where: str
    expr: str
    legend: str = ""
    instant: bool = False
    exemplars: bool = False
    panel: Mapping[str, Any] | None = None


def queries(board: Mapping[str, Any], given: Mapping[str, str]) -> Iterator[Asked]:
    """Every query of a dashboard.

    Args:
        board: its JSON.
        given: values of variables, ``__rate_interval`` and the like included. A variable of the
            dashboard that isn't given is ``All``.

    Raises:
        KeyError: a query has a variable that neither the dashboard nor ``given`` has.
    """
    listed = [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
    values = {variable["name"]: variable["allValue"] for variable in listed} | dict(given)
    for variable in listed:
        found = VALUES.fullmatch(put_in(variable["query"]["query"], values))
        if found is None:
            raise ValueError(variable["query"]["query"])
        yield Asked("variable", variable["name"], found[1], found[2])
    for annotation in board["annotations"]["list"]:
        expr = put_in(annotation["expr"], values)
        yield Asked("annotation", annotation["name"], expr, annotation["titleFormat"])
    for row, panel in panels(board):
        for target in panel["targets"]:
            yield Asked(
                "panel",
                f"{row}: {panel['title']}",
                put_in(target["expr"], values),
                target.get("legendFormat", ""),
                target.get("instant", False),
                target.get("exemplar", False),
                panel,
            )


def panels(board: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each panel with the title of its row."""
    row = ""
    for panel in board["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            yield row, panel


def put_in(expr: str, values: Mapping[str, str]) -> str:
    """The expression with its variables' values."""
    return VARIABLE.sub(lambda found: values[found[1] or found[2]], expr)


def named(legend: str, labels: Mapping[str, str]) -> str:
    """A series' name: the legend with its labels' values."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)
