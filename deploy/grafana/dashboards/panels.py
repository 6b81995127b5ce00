"""Panels as all dashboards have them: the same colours, legends and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
BY_VERSION: Final = "{{prompt}}@{{version}}"
BY_ROLE: Final = "{{prompt}}@{{version}} ({{role}})"

WIDTH: Final = 8
HEIGHT: Final = 8


@dataclass(frozen=True)
class Query:
    """What one line of a panel asks, and what it is called.

    Attributes:
        expr: PromQL with Grafana's variables.
        legend: the series' name; labels stand in ``{{}}``.
        exemplars: whether traces are shown beside it, as dots to click.
    """

    expr: str
    legend: str = BY_VERSION
    exemplars: bool = False


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = WIDTH,
    most: float | None = None,
    steps: bool = False,
) -> timeseries.Panel:
    """Lines over time, from 0; ``most`` fixes the axis' upper end, ``steps`` joins values by steps."""
    join = look.LineInterpolation.STEP_AFTER if steps else look.LineInterpolation.LINEAR
    panel = _chart(title, description, unit, queries, width)
    panel = (
        panel.line_interpolation(join).line_width(2).fill_opacity(6).span_nulls(span_nulls=False)
    )
    return panel if most is None else panel.max(most)


def bars(
    title: str, description: str, unit: str, *queries: Query, width: int = WIDTH
) -> timeseries.Panel:
    """Stacked bars over time: for what is rare, or adds up."""
    panel = _chart(title, description, unit, queries, width)
    stacking = common.StackingConfig().mode(look.StackingMode.NORMAL).group("A")
    return panel.draw_style(look.GraphDrawStyle.BARS).fill_opacity(60).stacking(stacking)


def by_class(panel: timeseries.Panel) -> timeseries.Panel:
    """With colours of their own for HTTP statuses that are series' names."""
    for statuses, colour in (("/^2/", "#56A64B"), ("/^4/", "#FF9830"), ("/^5/", "#E02F44")):
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_regexp(statuses, [models.DynamicConfigValue(id_val="color", value=fixed)])
    return panel


def number(title: str, description: str, unit: str, query: Query, *, width: int = 4) -> stat.Panel:
    """The last value alone."""
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(values=False)
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(HEIGHT // 2)
        .span(width)
        .reduce_options(reduced)
        .color_mode(look.BigValueColorMode.NONE)
        .graph_mode(look.BigValueGraphMode.AREA)
        .with_target(_target("A", query))
    )


def timeline(
    title: str,
    description: str,
    query: Query,
    values: Sequence[tuple[str, str]],
    *,
    width: int = 12,
) -> statetimeline.Panel:
    """States over time, one line each; ``values`` are names and colours of 0, 1, 2, …."""
    options = {
        str(value): models.ValueMappingResult(text=text, color=colour, index=value)
        for value, (text, colour) in enumerate(values)
    }
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(HEIGHT)
        .span(width)
        .mappings([models.ValueMap(options=options)])
        .color_scheme(boards.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .merge_values(merge_values=True)
        .row_height(0.8)
        .show_value(look.VisibilityMode.AUTO)
        .fill_opacity(80)
        .with_target(_target("A", query))
    )


def table(
    title: str, description: str, columns: Mapping[str, tuple[str, str]], *, height: int = 6
) -> tables.Panel:
    """One row for each version; ``columns`` are names to units and queries over the whole range."""
    panel = (
        tables.Panel().title(title).description(description).datasource(SOURCE).height(height)
    ).span(24)
    renamed = {"prompt": "Prompt", "version": "Version"}
    for ref, (name, (unit, expr)) in zip(ascii_uppercase, columns.items(), strict=False):
        renamed[f"Value #{ref}"] = name
        panel.with_target(_target(ref, Query(expr)).instant().format(PromQueryFormat.TABLE))
        panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    order = {name: place for place, name in enumerate(renamed)}
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": order,
                "renameByName": renamed,
            },
        )
    )
    return panel


def _chart(
    title: str, description: str, unit: str, queries: Sequence[Query], width: int
) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .display_mode(look.LegendDisplayMode.TABLE)
        .placement(look.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
        .calcs(["mean", "lastNotNull"])
    )
    tooltip = (
        common.VizTooltipOptions()
        .mode(look.TooltipDisplayMode.MULTI)
        .sort(look.SortOrder.DESCENDING)
    )
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .height(HEIGHT)
        .span(width)
        # One version has one colour, on every panel and whatever else is shown.
        .color_scheme(boards.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(legend)
        .tooltip(tooltip)
    )
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_target(ref, query))
    return panel


def _target(ref: str, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend).range()
    return target.datasource(SOURCE).exemplar(query.exemplars)
