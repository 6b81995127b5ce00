"""A report as HTML and Markdown: whole, self-contained, and nobody's text is markup in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt
from report_example import sources

from softprompt_serve.release.report import Sources, compose
from softprompt_serve.release.report_render import escape_markdown, to_html, to_markdown

HOSTILE = (
    "</td></pre></style><script>alert(1)</script> | `x` *b* [l](http://a.b) ![i](//c) &amp;\n# h"
)
VOID = {"meta", "br", "link", "img", "input"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer"),
    *("h1", "h2", "h3", "small", "p", "strong", "code", "pre", "span", "br", "ol", "li"),
    *("div", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("figure", "figcaption", "svg", "desc", "g", "path", "line", "circle", "text"),
}


class Page(HTMLParser):
    """A page as a browser would take it apart; tags must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.captions = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def hostile(value: Any) -> Any:
    """Every text that a user may write, but names and times, with markup at its end."""
    if isinstance(value, dict):
        return {key: hostile(part) for key, part in value.items()}
    if isinstance(value, list):
        return [hostile(part) for part in value]
    return value + HOSTILE if isinstance(value, str) else value


def poisoned() -> Sources:
    base = sources()
    version = dict(base.version) | {
        "record": hostile(dict(base.version["record"]) | {"trained_from": None}),
        "created_by": HOSTILE,
        "reason": HOSTILE,
        "text": HOSTILE,
    }
    assert base.verdict is not None
    judged = dict(base.verdict) | {
        "warnings": [HOSTILE],
        "gates": [gate | {"found": HOSTILE, "hint": HOSTILE} for gate in base.verdict["gates"]],
    }
    audit = [
        dict(entry) | {"detail": hostile(entry["detail"]), "actor": HOSTILE} for entry in base.audit
    ]
    return sources(version=version, verdict=judged, audit=audit)


@pytest.fixture(scope="module")
def html() -> str:
    return to_html(compose(sources()))


@pytest.fixture(scope="module")
def markdown() -> str:
    return to_markdown(compose(sources()))


@pytest.fixture(scope="module")
def bad_html() -> str:
    return to_html(compose(poisoned()))


@pytest.fixture(scope="module")
def bad_markdown() -> str:
    return to_markdown(compose(poisoned()))


def test_the_page_is_well_formed(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert {tag for tag, _ in page.tags} <= TAGS


def test_the_page_asks_for_nothing_outside_itself_and_runs_nothing(html: str) -> None:
    page = Page(html)
    asking = {"src", "href", "srcset", "action", "data", "xlink:href", "style"}
    for tag, attributes in page.tags:
        assert not asking & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_every_table_has_a_caption_and_every_plot_a_title_and_a_description(html: str) -> None:
    page = Page(html)
    assert page.count("table") == page.count("caption")
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    plots = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(plots) == 4
    for plot in plots:
        assert plot["role"] == "img"
        assert set((plot["aria-labelledby"] or "").split()) <= ids


def test_ids_are_there_once(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_has_its_parts_in_order(html: str) -> None:
    places = re.findall(r'<h2 id="([a-z]+)"', html)
    assert places == [
        *("gates", "results", "anchors", "costs"),
        *("training", "lineage", "evidence", "history", "signature"),
    ]


def test_the_page_looks_right_in_the_dark_and_on_paper(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert "size: A4" in html


def test_no_text_of_a_users_is_markup_in_the_page(bad_html: str, html: str) -> None:
    bad = Page(bad_html)
    assert bad.open == []
    assert {tag for tag, _ in bad.tags} <= TAGS
    assert bad.count("h2") == Page(html).count("h2")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in bad_html
    assert "<script" not in bad_html


def test_no_text_of_a_users_is_markup_in_markdown(bad_markdown: str, markdown: str) -> None:
    reader = MarkdownIt("commonmark").enable("table")
    bad, good = reader.parse(bad_markdown), reader.parse(markdown)

    def kinds(tokens: list[Any]) -> list[str]:
        flat = [child for token in tokens for child in (token, *(token.children or ()))]
        return [token.type for token in flat]

    assert not {"html_block", "html_inline", "link_open", "image"} & set(kinds(bad))
    assert kinds(bad).count("em_open") == kinds(good).count("em_open")
    assert kinds(bad).count("table_open") == kinds(good).count("table_open")
    assert kinds(bad).count("heading_open") == kinds(good).count("heading_open")


def test_rows_of_a_markdown_table_keep_their_cells(bad_markdown: str) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", bad_markdown, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(bars) == 1, table


def test_both_pages_say_the_same_verdict_warnings_and_digest(html: str, markdown: str) -> None:
    for page in (html, markdown):
        assert "May not be promoted: 1 of 10 gates failed" in page
        assert sources().version["digest"] in page
        assert "Weak baseline" in page
        assert "not recorded" in page
        assert "forced past the gates" in page


def test_what_would_satisfy_a_failed_gate_is_said(html: str, markdown: str) -> None:
    for page in (html, markdown):
        assert "more items would not show it, v4 has to become better" in page


def test_a_strip_shows_where_a_difference_lies(markdown: str) -> None:
    (row,) = (line for line in markdown.splitlines() if line.startswith("| multilingual"))
    strip = re.findall(r"`([^`]+)`", row)[-1]
    assert len(strip) == 25
    assert strip.index("◆") < strip.index("┼")


def test_a_report_without_evidence_still_says_what_the_version_is() -> None:
    bare = sources(runs=(), verdict=None, audit=())
    for page in (to_html(compose(bare)), to_markdown(compose(bare))):
        assert "No evidence" in page
        assert "Not judged" in page
    assert Page(to_html(compose(bare))).open == []


def test_a_hard_versions_text_is_shown_in_full() -> None:
    text = "Be brief.\n\n    Be kind.\n# Not a heading"
    version = dict(sources().versions[1]) | {"text": text}
    page = to_markdown(compose(sources(version=version, verdict=None)))
    assert "\n    Be brief.\n    \n        Be kind.\n    # Not a heading\n" in page
    assert text in to_html(compose(sources(version=version, verdict=None)))


def test_older_changes_are_counted_on_both_pages() -> None:
    long = compose(sources(audit=[sources().audit[1]] * 75))
    assert all("15 older changes" in page for page in (to_html(long), to_markdown(long)))


def test_rendering_the_same_report_again_gives_the_same_bytes(html: str, markdown: str) -> None:
    report = compose(sources())
    assert (to_html(report), to_markdown(report)) == (html, markdown)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain text, 5 %", "plain text, 5 %"),
        ("a|b", "a\\|b"),
        ("<b>", "\\<b\\>"),
        ("two\nlines", "two lines"),
        ("http://a.b", "http\\://a.b"),
        ("www.a.b", "www\\.a.b"),
    ],
)
def test_markdown_is_escaped(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped
