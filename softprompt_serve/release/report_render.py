"""A report as one HTML page and as one Markdown page, by templates that decide nothing.

Whatever a user may have written is escaped: by Jinja's autoescape in HTML, and in Markdown by
``finalize``, through which every expression of the template goes. The HTML has no script and asks
for nothing outside itself, which its content security policy says to the browser, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from softprompt_serve.release import plots
from softprompt_serve.release import report_words as words
from softprompt_serve.release.plot_frame import Line, Words
from softprompt_serve.release.report_costs import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from softprompt_serve.release.report_data import Board, Curve, Difference, Fact, ReportData

_SAYS: Final = {"better": "better", "worse": "worse", "open": "undecided"}
_PLOTTED: Final = frozenset({"candidate", "baseline", "base"})
"""Three lines can be told apart; the table beside the plot has every version."""

_LEGEND: Final = (
    "Each row is the mean difference on the same items with its interval. Filled circle: all of "
    "the interval is above 0. Diamond: all of it is below 0. Open circle: 0 is in it. Dashed "
    "line: the least that the policy asks for."
)
_MARKS: Final = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("unjudged", "⚠")}
_TEMPLATES: Final = PackageLoader("softprompt_serve", "release/templates")
_STRIP: Final = 25
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
_AUTOLINK: Final = re.compile(r"(?i)(://|\bwww\.|\bmailto:)")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SIMPLE: Final = re.compile(r"[A-Za-z0-9@./:,+= \[\]-]+")


class Raw(str):
    """Markdown of ours, which is not escaped."""

    __slots__ = ()


def to_html(report: ReportData) -> str:
    """The page; self-contained."""
    pages = _loaded(Environment(loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined))
    css, _, _ = _TEMPLATES.get_source(pages, "report.css")
    state, mark = _MARKS[report.passed]
    return pages.get_template("report.html").render(
        it=report,
        css=Markup(css),  # noqa: S704 - a file of this package
        state=state,
        mark=mark,
        says=_SAYS,
        legend=_LEGEND,
        quantiles=tuple(QUANTILES),
        interval=lambda low, high, share: words.interval(low, high, share=share),
        forest_results=_forest("forest-results", "Candidate minus baseline", report.results),
        forest_anchors=_forest(
            "forest-anchors", "Candidate minus what it is held against", report.anchors
        ),
        ecdf=_ecdf(report),
        curves=_curves(report.curves),
    )


def to_markdown(report: ReportData) -> str:
    """The page for a review, a wiki or a ticket; plots are strips of characters."""
    pages = Environment(
        loader=_TEMPLATES,
        autoescape=False,  # noqa: S701 - Markdown has an escape of its own
        finalize=escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    _loaded(pages).filters |= {
        "code": code,
        "block": block,
        "raw": Raw,
        "fact": _fact,
        "course": _course,
    }
    _, mark = _MARKS[report.passed]
    none = "No evidence: no run of such data has scores of this version with its present content."
    text = pages.get_template("report.md").render(
        it=report,
        mark=mark,
        quantiles=tuple(QUANTILES),
        interval=lambda low, high, share: words.interval(low, high, share=share) or "—",
        strip=strip,
        parts=(
            ("Results against the baseline", report.results, none),
            ("Out of distribution and public benchmarks", report.anchors, none),
        ),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape_markdown(value: Any) -> str:
    """A text on one line that Markdown and HTML in it mean nothing in, in or out of a table."""
    if isinstance(value, Raw):
        return value
    flat = _CONTROL.sub(" ", str(value))
    return _AUTOLINK.sub(_broken, _SPECIAL.sub(r"\\\1", flat))


def code(value: str) -> str:
    """A text in code style; one that could end that style is escaped instead."""
    if _SIMPLE.fullmatch(value) or set(value) <= set("·─●◆○┼├┤╎ "):
        return Raw(f"`{value}`")
    return Raw(escape_markdown(value))


def block(value: str) -> str:
    """A text of many lines, as code: indented, so that nothing in it can end it."""
    lines = re.split(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", value)
    return Raw("\n".join("    " + _CONTROL.sub(" ", line) for line in lines))


def strip(board: Board, row: Difference) -> str:
    """A difference's place among its board's, in characters: ``····┼··├──●──┤``."""
    edges = [edge for d in board.differences for edge in (d.low, d.high)]
    low, high = min(0.0, *edges), max(0.0, *edges)

    def place(value: float) -> int:
        return round((value - low) / ((high - low) or 1.0) * (_STRIP - 1))

    cells = ["·"] * _STRIP
    cells[place(0.0)] = "┼"
    start, end = place(row.low), place(row.high)
    for at in range(start, end + 1):
        cells[at] = "─"
    cells[start], cells[end] = "├", "┤"
    cells[place(row.difference)] = {"better": "●", "worse": "◆", "open": "○"}[row.standing]
    return "".join(cells)


def _broken(found: re.Match[str]) -> str:
    text = found.group()
    return text.replace(":", "\\:") if ":" in text else text.replace(".", "\\.")


def _fact(fact: Fact) -> str:
    if fact.value is None:
        return Raw("*not recorded*")
    return code(fact.value) if fact.exact else fact.value


def _course(curve: Curve) -> str:
    values = [value for _, value in curve.points]
    return (
        f"{values[0]:.4g} at first, {min(values):.4g} at least, {values[-1]:.4g} at the end, "
        f"{len(values)} points"
    )


def _loaded(pages: Environment) -> Environment:
    pages.filters |= {
        "level": lambda value, share: words.level(value, share=share),
        "percent": lambda value: f"{value * 100:g} %",
        "change": lambda value, share: words.change(value, share=share),
        "seconds": words.seconds,
        "dollars": words.dollars,
        "chance": words.chance,
    }
    return pages


def _forest(name: str, title: str, boards: Iterable[Board]) -> Markup | None:
    """One forest for all boards whose values are shares; others have their own scales."""
    shown = [board for board in boards if board.differences and board.share]
    if not shown:
        return None
    spans: list[plots.Span] = []
    for board in shown:
        spans.append(plots.Span(f"{board.name}  (against {board.against})"))
        spans += [_span(row) for row in board.differences]
    said = "; ".join(
        f"{board.name}, {row.cohort or 'all items'}: {_numbers(row)}"
        for board in shown
        for row in board.differences
    )
    about = Words(name, title, f"In percentage points. {said}.")
    return Markup(plots.forest(about, spans, tick=_tick))  # noqa: S704 - plots escape


def _tick(value: float) -> str:
    return words.signless(f"{value * 100:+g}") if value else "0"


def _span(row: Difference) -> plots.Span:
    guarded = " (protected)" if row.protected else ""
    return plots.Span(
        label=(row.cohort or "all items") + guarded,
        numbers=_numbers(row),
        value=row.difference,
        low=row.low,
        high=row.high,
        limit=row.limit,
        look=row.standing,
        strong=row.cohort is None,
    )


def _numbers(row: Difference) -> str:
    value, low, high = (words.change(v, share=True) for v in (row.difference, row.low, row.high))
    return f"{value} ({low} to {high}), n = {row.items}"


def _ecdf(report: ReportData) -> Markup | None:
    tolls = [toll for toll in report.tolls if toll.seconds and toll.role in _PLOTTED]
    if not tolls:
        return None
    said = "; ".join(
        f"{toll.version}: "
        + ", ".join(f"{name} {words.seconds(value)}" for name, value in toll.e2e.items())
        for toll in tolls
    )
    about = Words("ecdf", "Share of answers complete within a time", f"{said}.")
    lines = [(f"{toll.version} ({toll.role})", toll.role, toll.seconds) for toll in tolls]
    return Markup(plots.ecdf(about, lines, limit=report.toll_limit))  # noqa: S704 - plots escape


def _curves(curves: Sequence[Curve]) -> list[Markup]:
    """Losses share a plot, as they share a scale; every other figure has its own."""
    losses = [curve for curve in curves if "loss" in curve.name.lower()]
    others = [[curve] for curve in curves if curve not in losses]
    return [_curve(n, group) for n, group in enumerate([losses, *others]) if group]


def _curve(index: int, group: Sequence[Curve]) -> Markup:
    looks = ("candidate", "baseline")
    lines = [
        Line(curve.name, looks[n] if n < len(looks) else "other", curve.points)
        for n, curve in enumerate(group)
    ]
    about = Words(
        f"curve-{index}",
        f"{', '.join(curve.name for curve in group)} while training",
        "; ".join(f"{curve.name}: {_course(curve)}" for curve in group) + ".",
    )
    return Markup(plots.curve(about, lines))  # noqa: S704 - plots escape
