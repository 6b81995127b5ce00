"""`shadow show` against the real admin API; the counts are what a server would have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from softprompt_serve.registry.tallies import Tally
from softprompt_serve.router.choose import Decision
from softprompt_serve.shadow.compare import Comparison, Likelihood
from softprompt_serve.shadow.counts import Counts
from softprompt_serve.shadow.types import Answer, Job
from softprompt_serve.testing import ADMIN_TOKEN, service_for_tests, settings_for_tests

if TYPE_CHECKING:
    from pathlib import Path

    from softprompt_serve.server.service import Service
    from tests.cli.conftest import Cli

SHADOWED = {
    "arms": [{"version": "v1", "weight": 1}],
    "shadow": {"version": "v2", "sample": 0.25, "mode": "both"},
}
EQUAL = Comparison(
    exact=True,
    similarity=1.0,
    word_similarity=1.0,
    length_delta=0,
    token_delta=0,
    ttft_delta=None,
    e2e_delta=0.25,
    finish_equal=True,
    tools_equal=None,
    json_valid=None,
)
OTHER = Comparison(
    exact=False,
    similarity=0.5,
    word_similarity=0.75,
    length_delta=10,
    token_delta=4,
    ttft_delta=None,
    e2e_delta=0.75,
    finish_equal=True,
    tools_equal=None,
    json_valid=None,
)


@pytest.fixture
def service(tmp_path: Path, clean_environment: None) -> Service:
    settings = settings_for_tests(tmp_path / "server", capture_content=True)
    return service_for_tests(tmp_path / "server", settings=settings)


@pytest.fixture
def support(cli: Cli) -> Cli:
    """`support` with v1 in production and v2 as its shadow."""
    prompt = f"{cli.url}/softprompts/v1/prompts/support"
    with httpx.Client(headers={"authorization": f"Bearer {ADMIN_TOKEN}"}) as admin:
        for text in ("Be brief.", "Be kind."):
            admin.post(f"{prompt}/versions", data={"text": text}).raise_for_status()
        admin.put(f"{prompt}/aliases/production", json={"version": "v1"}).raise_for_status()
        admin.put(f"{prompt}/rollout", json=SHADOWED).raise_for_status()
    return cli


def counted(service: Service, cohort: str, *pairs: Comparison, **more: Any) -> None:
    counts = Counts()
    for pair in pairs:
        counts.offer()
        counts.compare(pair)
    for cause, times in more.get("shed", {}).items():
        for _ in range(times):
            counts.offer()
            counts.drop(cause)
    for found in more.get("scored", ()):
        counts.score(found)
    row = Tally("support", 1, "a-replica", "shadow", "v2", cohort, counts.to_json())
    service.tallies.write([row])


def lines(cli: Cli, *options: str) -> list[str]:
    shown = cli("shadow", "show", "support", *options).stdout
    return [" ".join(line.split()) for line in shown.splitlines()]


def test_a_prompt_without_a_shadow_says_so(support: Cli) -> None:
    support("rollout", "remove", "support")
    assert lines(support) == ["support has no shadow now; nothing was copied yet"]


def test_a_shadow_without_counts_says_so(support: Cli) -> None:
    assert lines(support) == ["support: v2 gets a copy of 25 % (both); nothing was copied yet"]


def test_an_unknown_prompt_is_an_error(cli: Cli) -> None:
    assert "prompt_not_found" in cli("shadow", "show", "nobody", fails=1).stderr


def test_as_json_it_is_exactly_what_the_api_answers(support: Cli, service: Service) -> None:
    counted(service, "default", EQUAL, OTHER)
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    url = f"{support.url}/softprompts/v1/prompts/support/shadow"
    answer = httpx.get(url, headers=headers)
    assert support("shadow", "show", "support", "--json").stdout == answer.text + "\n"


def test_counts_have_a_row_for_all_and_one_for_each_cohort(support: Cli, service: Service) -> None:
    counted(service, "default", EQUAL, OTHER, shed={"timeout": 2, "busy": 1})
    counted(service, "tool_calling", EQUAL)
    shown = lines(support)
    assert shown[0].endswith("counted since generation 1 on 1 replica")
    assert "all 6 3 0 busy 1, timeout 2" in shown
    assert "tool_calling 1 1 0 -" in shown


def test_rates_and_means_have_intervals(support: Cli, service: Service) -> None:
    counted(service, "default", *[EQUAL] * 3, OTHER)
    shown = lines(support)
    assert "all 75 % (30.1 to 95.4; 4) 100 % (51 to 100; 4)" in shown
    assert "all 0.875 (0.63 to 1.12) 0.938 (0.815 to 1.06)" in shown


def test_what_nobody_has_gets_no_column(support: Cli, service: Service) -> None:
    counted(service, "default", EQUAL)
    shown = "\n".join(lines(support))
    assert "slower by whole (s)" in shown
    assert "TTFT" not in shown
    assert "JSON" not in shown
    assert "nats" not in shown


def test_a_mean_of_one_pair_has_no_interval(support: Cli, service: Service) -> None:
    counted(service, "default", EQUAL)
    assert "all 0 0" in lines(support)


def test_likelihoods_are_shown_where_answers_were_scored(support: Cli, service: Service) -> None:
    scored = [Likelihood(0.25, 1.5, 10), Likelihood(0.75, 2.5, 30)]
    counted(service, "default", EQUAL, scored=scored)
    shown = lines(support)
    assert "nats per token divergence p50 p90 p99 surprise of tokens" in shown
    row = next(line for line in shown if line.startswith("all 0.5 (0.01 to 0.99)"))
    assert row.endswith("40")


def captured(service: Service) -> None:
    version = service.snapshot.prompts["support"].versions
    spec = service.snapshot.prompts["support"].rollout
    assert spec is not None
    assert spec.spec is not None
    assert spec.spec.shadow is not None
    decision = Decision(version["v1"], "split", "v1", 1, epoch=1)
    job = Job("request-1", decision, version["v2"], spec.spec.shadow, False, None)
    user = Answer("It is [bold]open[/].", (), "stop", 0.1, 0.2, 4)
    shadow = Answer("It is shut.", (), "stop", 0.1, 0.2, 3, (("look_up", '{"id": 1}'),))
    assert service.capture is not None
    service.capture.keep(job, user, shadow, OTHER)


def test_pairs_that_are_kept_are_counted(support: Cli, service: Service) -> None:
    counted(service, "default", OTHER)
    captured(service)
    assert lines(support)[-1] == "1 pair kept; --samples shows what they say."


def test_pairs_are_shown_as_they_are_if_asked_for(support: Cli, service: Service) -> None:
    counted(service, "default", OTHER)
    captured(service)
    assert lines(support, "--samples")[-4:] == [
        "request-1 default, default",
        "user v1 It is [bold]open[/].",
        "shadow v2 It is shut.",
        'look_up({"id": 1})',
    ]
