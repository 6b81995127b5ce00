"""Evaluations through a real engine: the demo's own numbers, a judge, and lm-eval itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from e2e.harness import BASE, Admin, Server

from softprompt_serve.demo import tickets
from softprompt_serve.evaluation.imports import read_lm_eval

LM_EVAL = "lm_eval[api]==0.4.13"
TASK = """
task: demo_tickets
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{label}}}}"
generation_kwargs: {{until: ["<end>"], max_gen_toks: 8, temperature: 0.0, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true,
     ignore_case: true, ignore_punctuation: true}}
metadata: {{version: 1.0}}
"""

Evaluate = Callable[..., Any]


@pytest.fixture
def evaluate(server: Server, support: dict[str, Any], tmp_path: Path) -> Evaluate:
    """The command line in a folder of its own; answers its JSON."""
    assert support

    return partial(server.command_line, "eval", folder=tmp_path)


def asked(split: str, versions: str, *more: str) -> list[str]:
    data = ("--dataset", str(tickets.DATA / f"{split}.jsonl"), "--dataset-name", f"demo-{split}")
    scored = ("-e", "exact_match", "--max-tokens", "8", "--concurrency", "16")
    return ["run", "-p", "support", "--versions", versions, *data, *scored, *more]


def means(data: dict[str, Any]) -> dict[str, float]:
    return {row["version"]: row["mean"] for row in data["scores"] if row["cohort"] == "all"}


def test_the_demos_numbers_come_out_of_an_evaluation(evaluate: Evaluate, admin: Admin) -> None:
    data = evaluate(*asked("test", "v3"))
    # As the README has them; float32 in other batches may turn an answer or two.
    assert means(data) == pytest.approx({"v3": 0.731}, abs=0.02)
    kept = admin.http.get(f"/prompts/support/runs/{data['run']}").json()
    assert Counter(a["version"] for a in kept["answers"]) == {"v3": 160}
    assert {a["virtual_tokens"] for a in kept["answers"]} == {20}
    assert {a["error"] for a in kept["answers"]} == {None}
    assert all(0 < a["ttft_seconds"] <= a["e2e_seconds"] for a in kept["answers"])
    assert kept["digests"] == {"v3": admin.version("support", "v3")["digest"]}


def test_base_and_hard_versions_stand_beside_soft_ones(evaluate: Evaluate) -> None:
    found = means(evaluate(*asked("ood", "base,v1,v2,v3", "--limit", "24", "--no-upload")))
    assert found["base"] == 0.0
    assert found["v1"] < found["v2"] < found["v3"]


def test_the_served_base_model_can_be_the_judge(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "topic.md").write_text("Score 1 if the answer is one word, else 0.")
    data = evaluate(
        *asked("test", "v2", "--limit", "4", "--no-upload"),
        *("-e", "judge:topic", "--rubric", "topic=topic.md", "--judge-model", BASE),
    )
    judged = {row["evaluator"]: row["items"] for row in data["scores"]}
    unread = sum(row["items"] for row in data["unscored"])
    assert judged.get("judge:topic", 0) + unread == 4


@pytest.fixture(scope="session")
def lm_eval(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The harness: LM_EVAL names it, or it is on the path, or it is installed for this session.

    It brings 0.8 GB of data tools that nothing else here needs, and so is no test dependency.
    """
    if given := os.environ.get("LM_EVAL") or shutil.which("lm_eval"):
        return given
    folder = tmp_path_factory.mktemp("lm-eval")
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", LM_EVAL]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"lm-eval can't be installed here: {done.stderr[-500:]}")
    return str(folder / "bin" / "lm_eval")


@pytest.mark.parametrize(
    ("through", "path", "more"),
    [
        ("local-chat-completions", "chat/completions", ""),
        ("local-completions", "completions", ",tokenizer_backend=None"),
    ],
)
def test_lm_eval_itself_runs_against_a_version_and_its_results_are_evidence(
    *,
    lm_eval: str,
    server: Server,
    evaluate: Evaluate,
    admin: Admin,
    tmp_path: Path,
    through: str,
    path: str,
    more: str,
) -> None:
    items = 24
    lines = (tickets.DATA / "test.jsonl").read_text().splitlines()[:items]
    data = tmp_path / "demo.jsonl"
    data.write_text("\n".join(lines))
    (tmp_path / "demo_tickets.yaml").write_text(TASK.format(data=data))
    chat = path.startswith("chat")
    subprocess.run(
        [
            *(lm_eval, "run", "--model", through),
            "--model_args",
            f"model=support@v3,base_url={server.url}/v1/{path},num_concurrent=8{more}",
            *("--tasks", "demo_tickets", "--include_path", str(tmp_path)),
            *("--output_path", str(tmp_path / "out"), "--log_samples"),
            *(("--apply_chat_template",) if chat else ()),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        check=True,
        timeout=600,
    )
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = read_lm_eval(results, results.parent)
    assert (found.model, found.means[0].items, len(found.found)) == ("support@v3", items, items)
    whose = ("-p", "support", "--version", "v3")
    samples = ("--samples", str(results.parent))
    shown = evaluate("import", *whose, "--lm-eval", str(results), *samples)
    kept = admin.http.get(f"/prompts/support/runs/{shown['run']}").json()
    assert kept["totals"][0]["evaluator"] == "demo_tickets/exact_match"
    if chat:
        ours = means(evaluate(*asked("test", "v3", "--limit", str(items), "--no-upload")))["v3"]
        assert kept["totals"][0]["mean"] == pytest.approx(ours, abs=2 / items)
