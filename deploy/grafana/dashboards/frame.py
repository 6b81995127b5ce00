"""What surrounds the panels of every dashboard: variables, annotations, links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.models import dashboard as models

from dashboards.panels import SOURCE
from dashboards.queries import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.cog.builder import Builder

TAG: Final = "softprompt"
REQUESTS: Final = "softprompt_requests_total"

VARIABLES: Final = {
    "base_model": ("Base model", ()),
    "prompt": ("Prompt", ("base_model",)),
    "version": ("Version", ("base_model", "prompt")),
    "cohort": ("Cohort", ("base_model", "prompt")),
    "route": ("Route", ("base_model", "prompt")),
}
"""Names to labels for people, and to the variables that narrow what there is to choose."""

MARKS: Final = {
    "Promotions": ("promote", "#56A64B"),
    "Rollbacks": ("rollback", "#E02F44"),
    "Weights and steps": ("advance|weights|rollout|rollout_remove", "#3274D9"),
    "Pauses": ("pause|resume", "#FF9830"),
    "Swaps of an alias": ("alias|alias_remove", "#A352CC"),
    "Versions": ("import|load|unload|remove|verify", "#8AB8FF"),
    "Evaluations": ("evaluation|evaluation_remove", "#B0B8C4"),
    "Policies": ("policy|policy_remove", "#E0B400"),
    "Tokens": ("token_create|token_rotate|token_revoke", "#705DA0"),
}
"""Annotations: the operations that each shows, and its colour. Together they show every operation."""


def dashboard(
    uid: str, title: str, description: str, rows: Sequence[tuple[str, Sequence[Builder[Any]]]]
) -> models.Dashboard:
    """A dashboard of these rows of panels, each panel 24 or a share of 24 wide."""
    board = (
        boards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(_datasource())
        .link(
            boards.DashboardLink("softprompt-serve")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=False)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
    )
    for name, (label, narrowed) in VARIABLES.items():
        board.with_variable(_variable(name, label, narrowed))
    for name, (operations, colour) in MARKS.items():
        board.annotation(_Mark(name, operations, colour))
    for row, panels in rows:
        board.with_row(boards.Row(row))
        for panel in panels:
            board.with_panel(panel)
    return _numbered(board.build())


def _numbered(board: models.Dashboard) -> models.Dashboard:
    """With an id for each panel, by which a link to a panel names it."""
    for number, panel in enumerate(board.panels or (), start=1):
        if isinstance(panel, (models.Panel, models.RowPanel)):
            panel.id_val = number
    return board


def _datasource() -> boards.DatasourceVariable:
    chosen = models.VariableOption(selected=True, text="Prometheus", value="prometheus")
    return (
        boards.DatasourceVariable("datasource").label("Source").type("prometheus").current(chosen)
    )


def _variable(name: str, label: str, narrowed: tuple[str, ...]) -> boards.QueryVariable:
    """All values of a label; ``All`` is any value, also of series that come later."""
    selector = ", ".join(f'{other}=~"${other}"' for other in narrowed)
    series = f"{REQUESTS}{{{selector}}}" if selector else REQUESTS
    return (
        boards.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": f"label_values({series}, {name})", "refId": name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


class _Mark(boards.AnnotationQuery):
    """Lines across all panels where a change was made."""

    def __init__(self, name: str, operations: str, colour: str) -> None:
        super().__init__()
        self._internal = _Marks()
        chosen = f'{{prompt=~"$prompt", operation=~"{operations}", result="ok"}}'
        self.name(name).datasource(SOURCE).enable(enable=True).icon_color(colour)
        self.expr(counted("operations_total", "prompt, operation", chosen))


class _Marks(models.AnnotationQuery):
    """With what the Prometheus data source reads beside the schema's own fields."""

    def to_json(self) -> dict[str, object]:
        return {
            **super().to_json(),
            "step": "15s",
            "titleFormat": "{{operation}} {{prompt}}",
            "tagKeys": "prompt,operation",
        }
