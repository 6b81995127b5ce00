"""The files under data/ were written by lm-eval 0.4.13 and by inspect_ai 0.3 themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from evaluation.conftest import target

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.imports import read_inspect, read_lm_eval
from softprompt_serve.evaluation.imports.made import Imported, check_model
from softprompt_serve.evaluation.replies import Target
from softprompt_serve.release.evidence import Base, Run
from softprompt_serve.release.evidence_shapes import parse_run, to_document

DATA = Path(__file__).parent / "data"
LM_EVAL = DATA / "lm_eval"
(RESULTS,) = LM_EVAL.glob("results_*.json")
INSPECT = DATA / "inspect.json"


def run_of(found: Imported, about: Target | None = None, base: Base | None = None) -> Run:
    return found.run("support", about or target("v1"), base or Base("acme/tiny"), None, "ada")


def changed(path: Path, folder: Path, **parts: Any) -> Path:
    data = json.loads(path.read_text())
    data.update(parts)
    copy = folder / path.name
    copy.write_text(json.dumps(data))
    return copy


def test_lm_evals_means_are_totals_by_task_metric_and_filter() -> None:
    run = run_of(read_lm_eval(RESULTS))
    found = {total.evaluator: (total.mean, total.items) for total in run.totals}
    third = pytest.approx(1 / 3)
    assert found == {
        "tiny_a/exact_match,strict": (0.0, 6),
        "tiny_a/exact_match,lower": (third, 6),
        "tiny_b/exact_match,strict": (0.0, 6),
        "tiny_b/exact_match,lower": (third, 6),
        "tiny_group/exact_match,strict": (0.0, 12),
        "tiny_group/exact_match,lower": (third, 12),
    }
    errors = {total.evaluator: total.stderr for total in run.totals}
    assert errors["tiny_group/exact_match,lower"] == pytest.approx(0.1491, abs=1e-4)


def test_a_metric_of_one_filter_goes_without_it(tmp_path: Path) -> None:
    task = {"acc,none": 0.25, "acc_stderr,none": "N/A"}
    path = changed(
        RESULTS,
        tmp_path,
        results={"tiny_a": task},
        higher_is_better={"tiny_a": {"acc": True}},
        group_subtasks={},
    )
    (total,) = run_of(read_lm_eval(path)).totals
    assert (total.evaluator, total.mean, total.stderr) == ("tiny_a/acc", 0.25, None)


def test_what_is_no_share_or_better_when_less_is_left_out_and_noted(tmp_path: Path) -> None:
    task = {"acc,none": 0.25, "perplexity,none": 0.5, "words,none": 12.0, "bleu,none": 0.9}
    better = {"acc": True, "perplexity": False, "words": True, "bleu": True}
    path = changed(RESULTS, tmp_path, results={"tiny_a": task}, higher_is_better={"tiny_a": better})
    found = read_lm_eval(path)
    assert [mean.evaluator for mean in found.means] == ["tiny_a/acc"]
    (note,) = found.notes
    for name in ("perplexity", "words", "bleu"):
        assert f"tiny_a/{name}" in note


def test_lm_evals_samples_are_scores_that_agree_with_its_means() -> None:
    run = run_of(read_lm_eval(RESULTS, LM_EVAL))
    assert len(run.scores) == 24
    lower = [s for s in run.scores if s.evaluator == "tiny_b/exact_match,lower"]
    assert [s.item for s in lower] == [f"tiny_b/{n}" for n in range(6)]
    assert sum(s.value for s in lower) / 6 == pytest.approx(1 / 3)
    assert all(s.passed is (s.value == 1.0) for s in lower)


def test_samples_of_another_day_are_not_taken(tmp_path: Path) -> None:
    shutil.copytree(LM_EVAL, tmp_path / "out")
    samples = next((tmp_path / "out").glob("samples_tiny_a_*"))
    samples.rename(samples.with_name("samples_tiny_a_2025-01-01T00-00-00.0.jsonl"))
    with pytest.raises(BadRequest, match="not there"):
        read_lm_eval(tmp_path / "out" / RESULTS.name, tmp_path / "out")


def test_a_data_set_is_called_as_the_one_task_or_group_that_was_asked(tmp_path: Path) -> None:
    assert read_lm_eval(RESULTS).dataset == "tiny_group"
    results = json.loads(RESULTS.read_text())["results"]
    results.pop("tiny_group")
    two = changed(RESULTS, tmp_path, group_subtasks={}, results=results)
    assert read_lm_eval(two).dataset == "lm-eval"


def test_the_hash_is_of_what_was_asked_not_of_who_answered(tmp_path: Path) -> None:
    data = json.loads(RESULTS.read_text())
    for config in data["configs"].values():
        config["metadata"]["model"] = "support@v2"
    other = changed(RESULTS, tmp_path, configs=data["configs"], model_name="support@v2")
    assert read_lm_eval(other).dataset_sha256 == read_lm_eval(RESULTS).dataset_sha256
    data["configs"]["tiny_a"]["num_fewshot"] = 5
    shots = changed(RESULTS, tmp_path, configs=data["configs"])
    assert read_lm_eval(shots).dataset_sha256 != read_lm_eval(RESULTS).dataset_sha256


def test_the_time_is_that_of_its_end_and_versions_are_told() -> None:
    run = run_of(read_lm_eval(RESULTS))
    data = json.loads(RESULTS.read_text())
    assert run.at == data["date"] + float(data["total_evaluation_time_seconds"])
    assert run.evaluators["tiny_a/exact_match,lower"] == "lm-eval 0.4.13, tiny_a 1.0"


def test_an_inspect_log_has_means_and_scores() -> None:
    run = run_of(read_inspect(INSPECT))
    (total,) = run.totals
    assert (total.evaluator, total.mean, total.items) == ("tiny_tickets/match", 0.5, 2)
    assert {(s.item, s.value) for s in run.scores} == {("a", 1.0), ("2", 0.0)}
    assert (run.source, run.dataset) == ("inspect", "tiny")
    assert run.at == pytest.approx(1795602285.0)


def test_several_epochs_of_an_item_are_one_score(tmp_path: Path) -> None:
    log = json.loads(INSPECT.read_text())
    again = [{**s, "epoch": 2, "scores": {"match": {"value": "C"}}} for s in log["samples"]]
    path = changed(INSPECT, tmp_path, samples=[*log["samples"], *again])
    run = run_of(read_inspect(path))
    assert {(s.item, s.value, s.passed) for s in run.scores} == {("a", 1.0, True), ("2", 0.5, True)}


def test_an_inspect_log_that_did_not_end_well_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="'error'"):
        read_inspect(changed(INSPECT, tmp_path, status="error"))


@pytest.mark.parametrize("read", [read_lm_eval, read_inspect])
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"results": {"a": 1}}', '{"status": "success"}']
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, read: Any, content: str) -> None:
    path = tmp_path / "results_2026-01-01T00-00-00.json"
    path.write_text(content)
    with pytest.raises(BadRequest) as refused:
        read(path)
    assert refused.value.code == "invalid_import"


@pytest.mark.parametrize("found", [read_lm_eval(RESULTS, LM_EVAL), read_inspect(INSPECT)])
def test_an_import_is_a_run_that_a_server_takes(found: Imported) -> None:
    run = run_of(found)
    assert to_document(parse_run(to_document(run))) == to_document(run)


@pytest.mark.parametrize("found", [read_lm_eval(RESULTS, LM_EVAL), read_inspect(INSPECT)])
def test_the_same_file_about_the_same_version_is_the_same_run(found: Imported) -> None:
    run = run_of(found)
    assert run_of(found).id == run.id
    assert run_of(found, target("v2")).id != run.id
    assert run_of(found, base=Base("acme/other")).id != run.id


def test_results_of_another_model_are_not_taken_for_the_versions() -> None:
    for found in (read_lm_eval(RESULTS), read_inspect(INSPECT)):
        check_model(found, target("v1"), ["base-model"])
        with pytest.raises(BadRequest, match="--any-model") as refused:
            check_model(found, target("v2"), ["base-model"])
        assert refused.value.code == "other_model"
        with pytest.raises(BadRequest):
            check_model(found, target("base"), ["base-model"])
