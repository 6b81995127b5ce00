"""`eval watch` against the real admin API; answers come by rule, and the base model is exchanged."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.sites import ITEMS, RIGHT, Site, Watching
from evaluation.fake_endpoint import refusal
from safetensors.torch import save_file

from softprompt_serve.cli.regressions import SHIFTED
from softprompt_serve.cli.session import FAILED
from softprompt_serve.testing import ADMIN_TOKEN, HIDDEN_SIZE

POLICY = {"baseline": "v1", "cohorts": {"protected": []}}
REPORTING: dict[str, Any] = POLICY | {"watch": {"on_shift": "report"}}
ROLLING_BACK: dict[str, Any] = POLICY | {"watch": {"on_shift": "rollback"}}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `support` has v1, a text, and in production v2, evaluated on base a."""
    site = Site(tmp_path_factory.mktemp("evaluated"))
    with pytest.MonkeyPatch.context() as patch:
        at_home(site, patch)
        with site.up("a"):
            site.call("import", "-p", "support", "--text", "Sort tickets.")
            site.call("import", tensor(site.folder), "-p", "support")
            forced = ("--force", "--reason", "for tests")
            site.call("alias", "support", "production", "v2", *forced)
            with_policy(site, REPORTING)
            asked = ("--dataset", site.dataset(), "-e", "exact_match", "--max-tokens", "8")
            site.call("eval", "run", "-p", "support", "--versions", "v1,v2", *asked)
    return site.folder


@pytest.fixture
def site(
    evaluated: Path, tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """The same, for one test to change."""
    site = Site(Path(shutil.copytree(evaluated, tmp_path / "site")))
    at_home(site, monkeypatch)
    return site


def at_home(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(site.folder)
    patch.setenv("SOFTPROMPT_HOME", str(site.folder / "client"))
    patch.setenv("SOFTPROMPT_URL", f"http://127.0.0.1:{site.port}")
    patch.setenv("SOFTPROMPT_ADMIN_TOKEN", ADMIN_TOKEN)
    patch.delenv("OPENAI_API_KEY", raising=False)


def tensor(folder: Path) -> str:
    path = folder / "v2.safetensors"
    save_file({"rows": torch.full((3, HIDDEN_SIZE), 0.5)}, path)
    return str(path)


def with_policy(site: Site, policy: dict[str, Any]) -> None:
    path = site.folder / "policy.json"
    path.write_text(json.dumps(policy))
    site.call("policy", "set", "support", str(path))


def named(site: Site) -> tuple[str, ...]:
    return ("-p", "support", "--dataset", str(site.folder / "tickets.jsonl"))


def watch(site: Site, *more: str, fails: int = 0) -> Any:
    return site.json("eval", "watch", *named(site), *more, fails=fails)


def refused(site: Site, *arguments: str) -> str:
    shown = site.call("eval", "watch", *arguments, fails=1).stderr
    return " ".join(shown.split())


def directions(found: Any) -> dict[str, str]:
    return {row["version"]: row["direction"] for row in found["shifts"]}


def runs(site: Site) -> list[Any]:
    found: list[Any] = site.json("eval", "list", "support")["data"]
    return found


def test_where_nothing_has_changed_there_is_no_shift(site: Site) -> None:
    with site.up("a"):
        found = watch(site)
        first, last = runs(site)[-1], runs(site)[0]
    assert directions(found) == {"v1": "none", "v2": "none"}
    assert not found["shifted"]
    assert found["runs"][0]["reference"]["run"] == first["id"]
    assert found["runs"][0]["run"] == last["id"]
    assert last["sampling"] == first["sampling"]
    assert last["evaluators"] == {"exact_match": "1"}


def test_a_loss_is_reported_and_nothing_else_happens(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        found = watch(site, fails=SHIFTED)
        assert site.production() == "v2"
    assert directions(found) == {"v1": "none", "v2": "worse"}
    assert found["action"] is None
    (row,) = [row for row in found["shifts"] if row["version"] == "v2"]
    assert (row["old_mean"], row["new_mean"]) == (RIGHT["v2"] / ITEMS, 17 / ITEMS)
    assert row["low"] < row["difference"] < row["high"] < 0.0
    assert row["tests"][0]["adjusted"] == pytest.approx(2 * row["tests"][0]["p_value"])


def test_a_loss_stays_reported_until_somebody_takes_it_for_the_new_standard(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        watch(site, fails=SHIFTED)
        again = watch(site, fails=SHIFTED)
        newest = runs(site)[0]["id"]
        taken = watch(site, "--reference", newest[:12])
    assert again["runs"][0]["reference"]["base"]["fingerprint"] == "a" * 64
    assert taken["runs"][0]["reference"]["run"] == newest


def test_a_gain_is_a_shift_too(site: Site) -> None:
    site.right["v1"] = 34
    with site.up("b"):
        assert directions(watch(site, fails=SHIFTED)) == {"v1": "better", "v2": "none"}


def test_a_loss_in_production_gives_all_traffic_to_the_baseline_if_the_policy_says_so(
    site: Site,
) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        with_policy(site, ROLLING_BACK)
        found = watch(site, fails=SHIFTED)
        assert site.production() == "v1"
        (entry, *_) = site.json("audit", "--prompt", "support")["data"]
    assert (found["action"]["version"], found["action"]["instead_of"]) == ("v1", "v2")
    assert entry["action"] == "rollout.promoted"
    assert (entry["detail"]["production"], entry["detail"]["previous"]) == ("v1", "v2")
    assert "v2 has got worse by exact_match on tickets" in entry["detail"]["reason"]
    assert entry["actor"]


def test_what_was_rolled_back_is_not_rolled_back_again(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        with_policy(site, ROLLING_BACK)
        watch(site, fails=SHIFTED)
        assert watch(site)["versions"] == ["v1"]
        assert watch(site, "--versions", "v2", fails=SHIFTED)["action"] is None


def test_a_loss_of_the_baseline_alone_changes_nothing(site: Site) -> None:
    site.right["v1"] = 1
    with site.up("b"):
        with_policy(site, ROLLING_BACK)
        assert watch(site, fails=SHIFTED)["action"] is None
        assert site.production() == "v2"


def test_a_loss_on_a_data_set_that_does_not_count_is_only_reported(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        policy = POLICY | {"watch": {"on_shift": "rollback", "datasets": ["others"]}}
        with_policy(site, policy)
        assert watch(site, fails=SHIFTED)["action"] is None
        assert site.production() == "v2"


def test_a_candidate_that_got_worse_loses_its_rollout(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        with_policy(site, ROLLING_BACK)
        site.call("alias", "support", "production", "v1")
        steps = [{"weight": 50, "min_duration_seconds": 3600}]
        document = {
            "arms": [{"version": "v1", "weight": 99}, {"version": "v2", "weight": 1}],
            "steps": steps,
        }
        (site.folder / "rollout.json").write_text(json.dumps(document))
        site.call("rollout", "set", "support", str(site.folder / "rollout.json"))
        found = watch(site, "--versions", "v1,v2", fails=SHIFTED)
        rollout = site.json("rollout", "show", "support")
    assert found["action"]["verb"] == "rollback"
    assert (rollout["state"], rollout["weights"]) == ("rolled_back", {"v1": 100})


def test_a_production_that_got_worse_goes_also_in_the_middle_of_a_rollout(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        with_policy(site, ROLLING_BACK)
        site.call("rollout", "weights", "support", "v2=90", "v1=10")
        watch(site, fails=SHIFTED)
        rollout = site.json("rollout", "show", "support")
    assert rollout["production"] == "v1"
    assert {name for name, weight in rollout["weights"].items() if weight} == {"v1"}


def test_a_lead_that_has_closed_is_a_reason_to_retire_the_version(site: Site) -> None:
    site.right |= {"v1": 39, "v2": 20}
    with site.up("b"):
        found = watch(site, fails=SHIFTED)
        shown = " ".join(site.call("eval", "watch", *named(site), fails=SHIFTED).stdout.split())
    (lead,) = found["leads"]
    assert found["retire"] == ["v2"]
    assert lead["closed"]
    assert lead["high"] < lead["below"] == 0.02
    assert "v2 leads v1 by less than 0.02 for certain" in shown
    assert "softprompt-serve alias support production v1" in shown


def test_a_version_that_leads_is_kept(site: Site) -> None:
    with site.up("a"):
        found = watch(site)
    assert found["retire"] == []
    assert not found["leads"][0]["closed"]


def test_other_items_under_the_same_name_are_refused_with_what_was_expected(site: Site) -> None:
    site.dataset(items=ITEMS + 1)
    with site.up("a"):
        expected = runs(site)[0]["dataset_sha256"][:12]
        asked = len(site.fake.asked)
        said = refused(site, *named(site))
    assert "code: dataset_differs" in said
    assert f"expected {expected}" in said
    assert len(site.fake.asked) == asked


def test_the_first_run_of_a_data_set_is_the_reference_from_then_on(site: Site) -> None:
    with site.up("a"):
        others = ("eval", "watch", "-p", "support", "--dataset", site.dataset("others", 40))
        said = refused(site, *others[2:])
        assert "--evaluators" in said
        shown = " ".join(site.call(*others, "-e", "exact_match").stdout.split())
        again = site.json(*others)
        first = runs(site)[1]
    assert "this run is now the reference" in shown
    assert again["runs"][0]["reference"]["run"] == first["id"]
    assert first["sampling"] == {"temperature": 0.0, "seed": 0, "max_tokens": 256}


def test_several_data_sets_are_judged_together(site: Site) -> None:
    with site.up("a"):
        others = ("--dataset", f"others={site.dataset('more', 40)}")
        watch(site, *others, "-e", "exact_match")
        found = watch(site, *others)
    assert {row["dataset"] for row in found["shifts"]} == {"tickets", "others"}
    assert len(found["shifts"]) == 4


def test_a_reference_that_asked_something_else_is_refused(site: Site) -> None:
    with site.up("a"):
        pinned = ("--reference", runs(site)[0]["id"])
        assert "run_differs" in refused(site, *named(site), *pinned, "--max-tokens", "9")
        assert "run_not_found" in refused(site, *named(site), "--reference", "0" * 32)


def test_a_prompt_without_production_has_nothing_to_watch_by_itself(site: Site) -> None:
    with site.up("a"):
        site.call("unalias", "support", "production")
        assert "no_production" in refused(site, *named(site))


@pytest.mark.parametrize("wrong", ["6", "6 h", "0s", "soon", "-1h"])
def test_a_time_has_a_unit(site: Site, wrong: str) -> None:
    shown = site.call("eval", "watch", *named(site), f"--every={wrong}", fails=2).stderr
    assert "such as 90s" in " ".join(shown.replace("│", " ").split())


def test_once_and_again_and_again_exclude_each_other(site: Site) -> None:
    assert "--once or --every" in refused(site, *named(site), "--once", "--every", "6h")


def test_only_after_a_change_of_the_base_model_is_rerun_if_that_is_asked(site: Site) -> None:
    asked = ("eval", "watch", *named(site), "--once", "--on-base-change")
    with site.up("a"):
        assert "on this base model already" in site.call(*asked).stdout
        assert len(runs(site)) == 1
    with site.up("b"):
        site.call(*asked)
        assert len(runs(site)) == 2
        assert "on this base model already" in site.call(*asked).stdout


def test_a_rerun_that_was_stopped_goes_on_and_asks_nothing_twice(site: Site) -> None:
    rule, before = site.fake.rule, len(site.fake.asked)
    site.fake.rule = lambda version, body: (
        refusal(401, "no_key") if len(site.fake.asked) > before + 30 else rule(version, body)
    )
    with site.up("a"):
        refused(site, *named(site))
        assert len(runs(site)) == 1
        site.fake.rule = rule
        shown = site.call("eval", "watch", *named(site)).stdout
        assert "going on from there" in shown
        assert len(runs(site)) == 2
    # What was in flight when the server went is asked again, nothing else.
    again = [count for count in site.fake.counts().values() if count > 1]
    assert len(again) <= 2


def test_what_was_answered_on_another_base_model_is_put_aside(site: Site) -> None:
    rule, before = site.fake.rule, len(site.fake.asked)
    site.fake.rule = lambda version, body: (
        refusal(401, "no_key") if len(site.fake.asked) > before + 30 else rule(version, body)
    )
    with site.up("a"):
        refused(site, *named(site))
    site.fake.rule = rule
    with site.up("b"):
        asked = len(site.fake.asked)
        assert "put aside" in site.call("eval", "watch", *named(site)).stdout
    assert len(site.fake.asked) == asked + 2 * ITEMS
    assert (site.folder / "support-tickets-watch.old.jsonl").is_file()


def test_every_rerun_asks_anew(site: Site) -> None:
    with site.up("a"):
        watch(site)
        watch(site)
        assert len({run["id"] for run in runs(site)}) == 3
    assert set(site.fake.counts().values()) == {2}


def test_by_the_clock_it_reruns_until_it_is_ended(site: Site) -> None:
    with (
        site.up("a"),
        Watching(*named(site), "--every", "0.1s", "--look", "0.1s", "--json") as watching,
    ):
        assert {watching.found()["shifted"] for _ in range(3)} == {False}
        assert watching.end(signal.SIGTERM) == 0
        assert any("goes on from there" in line for line in watching.lines)


def test_a_server_that_is_gone_is_waited_for_and_its_new_base_model_is_seen(site: Site) -> None:
    asked = (*named(site), "--on-base-change", "--look", "0.1s", "--json")
    with Watching(*asked) as watching:
        watching.until(lambda line: "No server answers" in line)
        with site.up("b"):
            found = watching.found()
            assert found["base"]["fingerprint"] == "b" * 64
            assert not found["shifted"]
        watching.until(lambda line: "Looking again" in line)
        site.right["v2"] = 17
        with site.up("c"):
            found = watching.found()
            assert found["base"]["fingerprint"] == "c" * 64
            assert directions(found) == {"v1": "none", "v2": "worse"}
            assert watching.end(signal.SIGINT) == 0


def test_a_server_that_goes_in_the_middle_of_a_rerun_is_waited_for(site: Site) -> None:
    site.fake.delay = 0.05
    asked = (*named(site), "--every", "1h", "--look", "0.1s", "--json", "--concurrency", "2")
    with Watching(*asked) as watching:
        with site.up("a"):
            answers = site.folder / "support-tickets-watch.jsonl"
            while not answers.is_file() or answers.read_text().count('"answer"') < 10:
                assert watching.process.poll() is None, list(watching.lines)
        assert len(site.fake.asked) < 2 * ITEMS
        watching.until(lambda line: "Looking again" in line)
        site.fake.delay = 0.0
        with site.up("a"):
            assert not watching.found()["shifted"]
            assert watching.end(signal.SIGTERM) == 0
    assert set(site.fake.counts().values()) == {1}


def test_what_was_answered_before_it_was_ended_is_kept(site: Site) -> None:
    site.fake.delay = 0.05
    answers = site.folder / "support-tickets-watch.jsonl"
    with site.up("a"), Watching(*named(site), "--every", "1h", "--concurrency", "2") as watching:
        while not answers.is_file() or answers.read_text().count('"answer"') < 10:
            assert watching.process.poll() is None, list(watching.lines)
        assert watching.end(signal.SIGTERM) == 0
        assert [line for line in watching.lines if "Traceback" in line] == []
        assert 10 <= answers.read_text().count('"answer"') < 2 * ITEMS
        assert len(runs(site)) == 1


def test_what_an_evaluator_is_can_not_be_guessed_from_its_name_alone(site: Site) -> None:
    with site.up("a"):
        others = ("-p", "support", "--dataset", site.dataset("others"))
        site.call("eval", "watch", *others, "-e", "f1:0.7")
        said = refused(site, *others)
        assert "invalid_evaluator" in said
        assert "give --evaluators" in said.lower()
        assert not site.json("eval", "watch", *others, "-e", "f1:0.7")["shifted"]


def test_a_person_reads_what_was_found_and_done(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        with_policy(site, ROLLING_BACK)
        shown = site.call("eval", "watch", *named(site), fails=SHIFTED).stdout
    words = " ".join(shown.split())
    assert "exact_match all v2 40 0.850 0.425 -0.425" in words
    assert "Shifted at 99 % confidence over all comparisons (Holm): worse." in words
    assert "By the policy production was v2 and is v1 now." in words


def test_what_could_not_be_done_is_told_beside_what_was_found(site: Site) -> None:
    site.right["v2"] = 17
    with site.up("b"):
        with_policy(site, ROLLING_BACK)
        site.broken = "/rollout/promote"
        found = watch(site, fails=FAILED)
        assert site.production() == "v2"
        shown = site.call("eval", "watch", *named(site), fails=FAILED).stdout
    assert (found["action"]["version"], found["shifted"]) == ("v1", True)
    assert "status 503" in found["action"]["failure"]
    assert "v1 shall have all traffic, which failed" in " ".join(shown.split())
