"""Every query, asked of a real Prometheus that scrapes the project's real metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from observability.prometheus import Prometheus, running
from observability.queries import ask, everything, rules
from observability.traffic import TRACE, Traffic, page

AGENTS = Path(__file__).parents[2] / "docs" / "agents.md"
SECONDS = 120
ROUNDS = 4


@dataclass
class Watched:
    traffic: Traffic
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Traffic in some rounds, with a scrape before, between and after."""
    traffic = Traffic()
    with (
        page(traffic) as target,
        running(tmp_path_factory.mktemp("prometheus"), target) as prometheus,
    ):
        for _ in range(ROUNDS):
            prometheus.scraped(2)
            traffic.round()
        prometheus.scraped(2)
        yield Watched(traffic, prometheus)


def test_every_query_has_an_answer(watched: Watched) -> None:
    found = ask(watched.prometheus, SECONDS)
    assert found.errors == {}
    assert found.empty == set()
    assert found.asked > 100


def test_every_query_has_an_answer_for_one_version_in_one_place(watched: Watched) -> None:
    chosen = {
        "base_model": "base-model",
        "prompt": "support",
        "version": "(v1|v2|v3)",
        "cohort": "(default|regulated)",
        "route": "default",
    }
    found = ask(watched.prometheus, SECONDS, chosen)
    assert found.errors == {}
    assert found.empty == set()


def test_the_queries_of_the_page_on_agents_tell_routes_apart(watched: Watched) -> None:
    queries = re.findall(r"```promql\n(.*?)```", AGENTS.read_text(), re.DOTALL)
    assert len(queries) > 1
    for query in queries:
        found = watched.prometheus.query(query)
        values = {series["metric"]["route"]: float(series["value"][1]) for series in found}
        assert values.keys() == {"default", "planner"}
        assert not any(math.isnan(value) for value in values.values()), query


def test_a_query_that_asks_for_what_is_not_there_is_found_empty(watched: Watched) -> None:
    found = ask(watched.prometheus, SECONDS, {"prompt": "no-such-prompt"})
    assert found.errors == {}
    assert len(found.empty) > 60


def test_a_query_that_is_wrong_is_found(watched: Watched) -> None:
    found = ask(watched.prometheus, SECONDS, {"__rate_interval": "never"})
    assert len(found.errors) > 40


def test_recording_rules_are_evaluated(watched: Watched) -> None:
    late = {
        rule.name for rule in rules() if not rule.alert and not watched.prometheus.query(rule.name)
    }
    assert late == set()


def test_no_rule_fails(watched: Watched) -> None:
    groups = watched.prometheus.get("/rules")["groups"]
    states = {
        rule["name"]: rule["lastError"]
        for group in groups
        for rule in group["rules"]
        if rule.get("lastError")
    }
    assert len(groups) >= 6
    assert states == {}


def test_an_exemplar_of_a_slow_request_is_kept(watched: Watched) -> None:
    found = watched.prometheus.exemplars("softprompt_time_to_first_token_seconds_bucket")
    assert {exemplar["labels"]["trace_id"] for exemplar in found} == {TRACE.trace_id}


def test_every_panel_that_shows_exemplars_has_some(watched: Watched) -> None:
    shown = [(place, asked) for place, asked in everything() if asked.exemplars]
    assert len(shown) > 15
    for place, asked in shown:
        found = watched.prometheus.exemplars(asked.expr)
        assert {exemplar["labels"]["trace_id"] for exemplar in found} == {TRACE.trace_id}, place


def total(watched: Watched, place: str) -> float:
    """What a panel or an annotation shows, added up over all of its steps."""
    (asked,) = [asked for found, asked in everything() if found == place]
    series = watched.prometheus.range(asked.expr, SECONDS, 1.0)
    return sum(float(value) for found in series for _, value in found["values"])


def test_a_change_is_marked_once_and_so_is_the_first_of_its_sort(watched: Watched) -> None:
    """A counter of changes begins with 1, in which `increase` sees nothing."""
    assert total(watched, "versions / annotation / Rollbacks") == ROUNDS
    assert (
        total(watched, "versions / annotation / Promotions") == 2 * ROUNDS
    )  # ours, and a person's
    assert total(watched, "rollout / panel / Where it stands: Controller's decisions") == 4 * ROUNDS


def test_the_table_says_what_was_told(watched: Watched) -> None:
    """About, as what a series begins with is no increase."""
    columns = [
        asked.expr
        for place, asked in everything({"__range": f"{SECONDS}s"})
        if place == "versions / panel / Side by side: The whole time shown"
    ]

    def of(column: int) -> dict[str, float]:
        found = watched.prometheus.query(columns[column])
        return {series["metric"]["version"]: float(series["value"][1]) for series in found}

    assert of(1) == {"v1": 0, "v2": pytest.approx(1 / 16, abs=0.02)}
    assert of(9) == {"v1": 0, "v2": pytest.approx(0.5, abs=0.1)}


def test_an_alert_fires_at_once_where_a_version_with_traffic_is_lost(watched: Watched) -> None:
    (alert,) = [rule for rule in rules() if rule.name == "SoftpromptVersionNotResident"]
    assert watched.prometheus.query(alert.expr) == []
    watched.traffic.bank("v2")
    watched.prometheus.until(lambda: bool(watched.prometheus.query(alert.expr)))
    (found,) = watched.prometheus.query(alert.expr)
    assert found["metric"]["version"] == "v2"
    watched.traffic.bank()
    watched.prometheus.until(lambda: not watched.prometheus.query(alert.expr))
