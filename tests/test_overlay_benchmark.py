"""The side-by-side's pure parts: sheets, figures, tables, charts and what a caller sends."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx
import overlay
import pytest
import scipy.stats
import torch
from cost.asking import Writer, ask, ask_all
from cost.chart import Row, chart
from cost.figures import Answer, Turn, percentile, rates, summary, waits
from cost.processor import Process, ticks
from cost.sheets import HARD, LORA, NATIVE, OVERLAY, PLAIN, SHEETS, Case, Sheet
from cost.tables import against, means, setup, table
from cost.turns import read, write
from side_by_side import interval, student

from softprompt_serve.release.plot_frame import Words

pytestmark = pytest.mark.anyio

CASE = Case(rows=20, visible=100, concurrency=4, rounds=2)
SHEET = Sheet("Two variants", (20,), (100,), (4,), (2,), (PLAIN, OVERLAY))


def turn(seconds: float, *firsts: float) -> Turn:
    answers = tuple(Answer(first, (0.01, 0.03), sent=500, received=2000) for first in firsts)
    return Turn(answers, seconds, tokens=100, processor=seconds / 2)


FOUND = {
    CASE: {
        PLAIN: [turn(1.0, 0.1, 0.2, 0.3), turn(2.0, 0.4, 0.4, 0.4)],
        OVERLAY: [turn(2.0, 0.1, 0.1, 0.1), turn(2.0, 0.8, 0.8, 0.8)],
    }
}


@pytest.mark.parametrize("name", SHEETS)
def test_each_sheet_is_divided_by_plain_tokens_and_has_the_overlay(name: str) -> None:
    sheet = SHEETS[name]
    assert sheet.variants[0] == PLAIN
    assert OVERLAY in sheet.variants
    assert len({sheet.label(case) for case in sheet.cases()}) == len(sheet.cases())


def test_a_sheets_cases_are_all_combinations_with_the_rounds_of_their_callers() -> None:
    sheet = Sheet("", (8, 20), (32,), (1, 64), (5, 2), (PLAIN,))
    assert sheet.cases() == [
        Case(8, 32, 1, 5),
        Case(8, 32, 64, 2),
        Case(20, 32, 1, 5),
        Case(20, 32, 64, 2),
    ]
    assert sheet.label(Case(20, 32, 64, 2)) == "20 virtual, 64 at once"


def test_rounds_that_fit_no_callers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Sheet("", (8,), (32,), (1, 4, 16), (5, 2), (PLAIN,)).cases()


def test_an_answer_is_timed_from_its_tokens() -> None:
    answer = Answer.at(10.0, [10.5, 10.75, 11.75], sent=3, received=4)
    assert answer == Answer(0.5, (0.25, 1.0), 3, 4)


def test_an_answer_without_a_token_has_no_time() -> None:
    with pytest.raises(ValueError, match="without a token"):
        Answer.at(10.0, [])


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 2.5), (0.99, 3.97), (1.0, 4.0)], ids=str
)
def test_a_percentile_lies_between_its_neighbours(share: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == pytest.approx(value)


def test_no_gaps_have_no_percentile() -> None:
    assert percentile([], 0.99) == 0.0


def test_a_summary_pools_requests_and_takes_the_median_round() -> None:
    known = summary(FOUND[CASE][PLAIN])
    assert known.rate == 75.0
    assert known.firsts[0] == pytest.approx(0.35)
    assert known.gaps == pytest.approx((0.02, 0.03))
    assert (known.sent, known.received, known.requests) == (500, 2000, 6)


def test_ratios_are_taken_within_a_round() -> None:
    plain, ours = FOUND[CASE][PLAIN], FOUND[CASE][OVERLAY]
    assert rates(ours, plain) == [0.5, 1.0]
    assert waits(ours, plain) == pytest.approx([0.5, 2.0])


def test_a_table_has_a_row_for_each_variant_and_their_ratios() -> None:
    rows = table(SHEET, FOUND).splitlines()
    assert len(rows) == 4
    assert rows[0].endswith(f"| tokens/s ÷ {PLAIN} | TTFT ÷ {PLAIN} | CPU ÷ {PLAIN} |")
    assert "| overlay | 50.0 | 450.0, 800.0 | 20.0, 30.0 | 333 | 0.5, 2.0 |" in rows[3]
    assert rows[3].endswith(
        "| 0.750 (0.500 to 1.000) | 1.250 (0.500 to 2.000) | 1.500 (1.000 to 2.000) |"
    )


def test_what_ran_in_process_sent_nothing() -> None:
    quiet = [Turn((Answer(0.1),), 1.0, 10, 1.0)]
    found = {CASE: {PLAIN: quiet, OVERLAY: quiet}}
    assert table(SHEET, found).count("| in process |") == 2


def test_the_overlay_is_divided_by_each_of_the_others() -> None:
    sheet = Sheet("", (20,), (100,), (4,), (2,), (PLAIN, OVERLAY, NATIVE))
    found = {CASE: {**FOUND[CASE], NATIVE: [turn(4.0, 0.2), turn(8.0, 1.6)]}}
    (line,) = against(sheet, found, OVERLAY)
    assert line.startswith(f"- overlay ÷ {NATIVE}: tokens/s 3.000 (2.000 to 4.000)")


@pytest.mark.parametrize("freedom", [4, 9, 30])
def test_few_rounds_have_students_interval(freedom: int) -> None:
    assert student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=0.01)


def test_the_interval_of_ratios_lies_about_their_geometric_mean() -> None:
    assert interval([0.5, 2.0] * 5).startswith("1.000 (")
    assert interval([1.1] * 8) == "1.100 (1.100 to 1.100)"


def test_only_many_rounds_have_a_mean() -> None:
    many = Case(rows=20, visible=100, concurrency=4, rounds=8)
    found = {
        case: {PLAIN: FOUND[CASE][PLAIN] * 4, OVERLAY: FOUND[CASE][OVERLAY] * 4}
        for case in (CASE, many)
    }
    (line,) = means(SHEET, found)
    assert "mean of 8 rounds with its 95 % interval: tokens/s 0.707 (" in line


def test_the_setup_names_every_length() -> None:
    sheet = Sheet("", (8, 20), (1000,), (1, 4), (3,), (PLAIN, HARD))
    assert setup(sheet, "float32", 472) == (
        "8/20 virtual, 1,000 visible tokens, 16 generated, 1/4 at once, 3 rounds, float32, "
        "a hard prompt of 472 tokens."
    )


def test_turns_are_read_as_they_were_written() -> None:
    assert read(write(FOUND)) == FOUND


def test_processor_time_is_that_of_a_process_and_its_own_but_not_of_servers_it_started() -> None:
    lines = (
        "1 (bench) S 0 1 1 0 -1 0 0 0 0 0 5 1 0 0",
        "2 (en (gine) 0) S 1 1 1 0 -1 0 0 0 0 0 30 10 0 0",
        "3 (worker) R 2 1 1 0 -1 0 0 0 0 0 400 0 0 0",
        "4 (server) S 1 4 4 0 -1 0 0 0 0 0 7000 0 0 0",
        "5 (its worker) S 4 4 4 0 -1 0 0 0 0 0 0 80000 0 0",
        "6 (another shell) S 0 1 1 0 -1 0 0 0 0 0 900000 0 0 0",
    )
    processes = [Process.read(line) for line in lines]
    assert (ticks(processes, 1), ticks(processes, 4)) == (446, 87000)


class Drawn(HTMLParser):
    """Elements and texts of a picture."""

    def __init__(self, picture: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(picture)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def dots(self) -> list[float]:
        return [float(given["cx"] or 0) for tag, given in self.tags if tag == "circle"]


def picture(*rows: Row) -> Drawn:
    return Drawn(chart(Words("c", "A title", "What it is"), rows, left="speed", right="wait"))


def test_a_chart_puts_twice_as_far_from_one_as_half() -> None:
    left = [
        picture(Row("all", "x", (ratio,), (1.0,)), Row("all", "y", (0.25, 4.0), (1.0,))).dots()[0]
        for ratio in (0.5, 1.0, 2.0)
    ]
    assert left[1] - left[0] == pytest.approx(left[2] - left[1], abs=0.2)


def test_a_chart_has_both_panels_of_every_row_and_names_its_groups() -> None:
    rows = [Row(group, "a <b>", (1.0, 1.1), (2.0, 3.0)) for group in ("1 at once", "4 at once")]
    drawn = picture(*rows)
    assert len(drawn.dots()) == 4
    assert {"speed", "wait", "1 at once", "4 at once", "a <b>"} <= set(drawn.texts)
    assert drawn.tags[0][1]["xmlns"] == "http://www.w3.org/2000/svg"


def test_noise_does_not_fill_a_charts_axis() -> None:
    one, other = picture(Row("all", "x", (1.0,), (1.0,)), Row("all", "y", (1.01,), (1.0,))).dots()[
        ::2
    ]
    assert 0 < other - one < 20


def writer() -> Writer:
    return Writer(hidden_size=8, vocabulary=1000, dtype="float32", hard=472, rng=random.Random(0))


@pytest.mark.parametrize(
    ("variant", "model", "tokens"),
    [
        (PLAIN, "base", 120),
        (OVERLAY, "bench@n20", 100),
        (HARD, "base", 572),
        (LORA, "adapter", 100),
    ],
)
def test_each_variant_sends_its_tokens(variant: str, model: str, tokens: int) -> None:
    request = json.loads(writer().body(variant, CASE, 16))
    assert (request["model"], len(request["prompt"])) == (model, tokens)


def test_native_embeddings_are_as_long_as_the_overlay_with_its_virtual_tokens() -> None:
    request = json.loads(writer().body(NATIVE, CASE, 16))
    rows = torch.load(io.BytesIO(base64.b64decode(request["prompt_embeds"])), weights_only=True)
    assert rows.shape == (120, 8)
    assert "prompt" not in request


def answering(text: str, status: int = 200) -> httpx.AsyncClient:
    async def parts() -> AsyncIterator[bytes]:
        yield text.encode()

    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=parts()))
    return httpx.AsyncClient(transport=transport, base_url="http://server")


async def test_the_end_of_a_stream_is_no_token() -> None:
    stream = 'data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\n'
    async with answering(stream) as client:
        (answer,) = await ask_all(client, [b"{}"], 4)
    assert len(answer.gaps) == 1
    assert (answer.sent, answer.received) == (2, len(stream))


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('data: {"a": 1}\n\n', 200),
        ('data: {"a": 1}\n\ndata: {"error": {}}\n\ndata: [DONE]\n\n', 200),
        ("refused", 400),
    ],
    ids=["broken off", "an error", "refused"],
)
async def test_an_answer_that_is_not_whole_ends_the_run(text: str, status: int) -> None:
    async with answering(text, status) as client:
        with pytest.raises(RuntimeError, match=r"refused|data"):
            await ask(client, b"{}")


def test_sheets_of_different_models_are_not_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overlay.arguments(["--model", "model", "--sheets", "twice", "wide"])
    assert "different models" in capsys.readouterr().err


def test_the_command_line_changes_a_sheet() -> None:
    given = ["--model", "m", "--sheets", "callers", "--rows", "8", "--variants", OVERLAY, PLAIN]
    (sheet,) = overlay.chosen(overlay.arguments(given)).values()
    assert (sheet.rows, sheet.variants) == ((8,), (PLAIN, OVERLAY))
    assert sheet.visible == SHEETS["callers"].visible
