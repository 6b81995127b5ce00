"""Plots: where things are drawn, and that any input gives a drawing."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from softprompt_serve.release.plot_frame import Line, Words, ticks
from softprompt_serve.release.plots import Span, curve, ecdf, forest

WORDS = Words("plot", "A title & more", "What <it> shows")


def drawn(svg: str) -> ET.Element:
    """The plot as XML, without its namespace."""
    return ET.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in drawn(svg).iter("text")]


def circles(svg: str) -> list[tuple[float, str]]:
    return [(float(c.attrib["cx"]), c.attrib["class"]) for c in drawn(svg).iter("circle")]


def zero(svg: str) -> float:
    (line,) = (x for x in drawn(svg).iter("line") if x.attrib["class"] == "zero")
    return float(line.attrib["x1"])


def tick(value: float) -> str:
    return f"{value:g}"


def test_a_plot_has_a_title_and_a_description_that_are_escaped() -> None:
    svg = drawn(forest(WORDS, [], tick=tick))
    assert [svg.findtext("title"), svg.findtext("desc")] == ["A title & more", "What <it> shows"]
    assert svg.attrib["aria-labelledby"] == "plot-title plot-desc"


def test_a_difference_lies_on_its_side_of_zero() -> None:
    spans = [
        Span("up", value=0.2, low=0.1, high=0.3, look="better"),
        Span("down", value=-0.2, low=-0.4, high=0.0, look="open"),
    ]
    svg = forest(WORDS, spans, tick=tick)
    (up, _), (down, _) = circles(svg)
    assert down < zero(svg) < up


def test_what_is_better_worse_and_undecided_differ_in_shape() -> None:
    looks = ("better", "worse", "open")
    spans = [Span(look, value=0.1, low=0.0, high=0.2, look=look) for look in looks]
    svg = forest(WORDS, spans, tick=tick)
    assert [look for _, look in circles(svg)] == ["mark", "mark hollow"]
    assert [path.attrib["class"] for path in drawn(svg).iter("path") if "class" in path.attrib] == [
        "mark"
    ]


def test_a_limit_is_drawn_where_it_is() -> None:
    span = Span("all", value=0.1, low=0.0, high=0.2, limit=0.1, look="better")
    svg = forest(WORDS, [span], tick=tick)
    (limit,) = (x for x in drawn(svg).iter("line") if x.attrib["class"] == "limit")
    assert float(limit.attrib["x1"]) == pytest.approx(circles(svg)[0][0])


def test_a_label_is_escaped_and_cut() -> None:
    svg = forest(WORDS, [Span("<script>" + "x" * 90, value=0.1)], tick=tick)
    (label,) = (text for text in texts(svg) if text.startswith("<script>"))
    assert len(label) == 34
    assert label.endswith("…")


@pytest.mark.parametrize("spans", [[], [Span("only a heading")], [Span("zero", value=0.0)]])
def test_a_forest_of_nothing_is_still_a_drawing(spans: list[Span]) -> None:
    assert drawn(forest(WORDS, spans, tick=tick)).tag == "svg"


def heights(svg: str, look: str) -> list[float]:
    """Vertical positions of a line's steps, in order."""
    (path,) = (
        p
        for p in drawn(svg).iter("path")
        if p.attrib.get("class") == f"line {look}" and p.attrib["d"].count("V")
    )
    return [float(y) for y in re.findall(r"V([\d.]+)", path.attrib["d"])]


def test_a_distribution_rises_to_all() -> None:
    svg = ecdf(WORDS, [("v4", "candidate", [0.4, 0.1, 0.2, 0.3])])
    steps = heights(svg, "candidate")
    assert len(steps) == 4
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 26.0  # the top of the frame


def test_a_distribution_of_many_is_thinned_and_keeps_its_end() -> None:
    svg = ecdf(WORDS, [("v4", "candidate", [n / 1000 for n in range(1, 10_001)])])
    steps = heights(svg, "candidate")
    assert len(steps) <= 241
    assert steps[-1] == 26.0


def test_a_wide_range_of_times_has_a_logarithmic_axis() -> None:
    narrow = ecdf(WORDS, [("v4", "candidate", [0.5, 1.0])])
    wide = ecdf(WORDS, [("v4", "candidate", [0.01, 1.0])])
    assert "0 s" in texts(narrow)
    assert "0 s" not in texts(wide)
    assert {"0.02 s", "0.1 s", "0.5 s"} <= set(texts(wide))


def test_a_ceiling_is_drawn_unless_it_is_far_away() -> None:
    times = [("v4", "candidate", [0.5, 1.0])]
    assert "p99 at most 2 s" in texts(ecdf(WORDS, times, limit=2.0))
    assert "p99 at most 60 s" not in texts(ecdf(WORDS, times, limit=60.0))


@pytest.mark.parametrize("times", [[], [0.0], [0.5], [0.5, 0.5]])
def test_few_times_are_still_a_drawing(times: list[float]) -> None:
    assert drawn(ecdf(WORDS, [("v4", "candidate", times)], limit=1.0)).tag == "svg"


@pytest.mark.parametrize("points", [(), ((0.0, 1.0),), ((0.0, 1.0), (5.0, 1.0))])
def test_a_curve_of_few_points_is_still_a_drawing(points: tuple[tuple[float, float], ...]) -> None:
    assert drawn(curve(WORDS, [Line("loss", "candidate", points)])).tag == "svg"


def test_a_falling_loss_falls() -> None:
    svg = curve(WORDS, [Line("loss", "candidate", ((0.0, 3.0), (10.0, 1.0)))])
    path = next(p.attrib["d"] for p in drawn(svg).iter("path") if "L" in p.attrib["d"])
    (x0, y0), (x1, y1) = re.findall(r"[ML]([\d.]+) ([\d.]+)", path)
    assert float(x0) < float(x1)
    assert float(y0) < float(y1)  # downwards on a screen


@pytest.mark.parametrize(
    ("low", "high", "about", "expected"),
    [
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.2, 0.4, 5, [-0.2, 0.0, 0.2, 0.4]),
        (0.0, 480.0, 6, [0.0, 100.0, 200.0, 300.0, 400.0]),
        (3.0, 3.0, 5, [3.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, about: int, expected: list[float]) -> None:
    assert ticks(low, high, about) == expected
