"""Results of lm-eval (EleutherAI's harness), as its 0.4 writes them; checked on 0.4.13.

``results_DATE.json`` holds means by task, metric and filter; ``samples_TASK_DATE.jsonl`` beside it, with
``--log_samples``, what came of each document.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.evaluation.dataset import canonical_json
from softprompt_serve.evaluation.imports.made import (
    Found,
    Imported,
    Mean,
    error_of,
    read_json,
    refuse,
    share,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Json = Mapping[str, Any]

_DATED: Final = re.compile(r"_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.json")
_OF_THE_RUN: Final = frozenset({"metadata", "dataset_kwargs"})
"""Parts of a task's configuration that say where it ran, not what was asked."""

_OF_A_HUNDRED: Final = frozenset({"bleu", "chrf", "ter"})
"""Metrics that are no share, however small they come out."""


def read_lm_eval(path: Path, samples: Path | None = None) -> Imported:
    """A file of results, with the samples of the same run if their folder is given.

    A metric counts where more is better and its mean is from 0 to 1; the others are noted. An evaluator
    is called ``task/metric``, with ``,filter`` where the metric has several filters.

    Raises:
        BadRequest: ``invalid_import``.
    """
    data = read_json(path)
    try:
        names = _names(data["results"])
        means, notes = _means(data, names)
        evaluators = {mean.evaluator: _version(data, mean.evaluator) for mean in means}
        found = () if samples is None else tuple(_samples(path, samples, names, evaluators))
        if not means:
            refuse(path, "no metric of it is one of 0 to 1 of which more is better")
        return Imported(
            source="lm-eval",
            dataset=_dataset(data),
            dataset_sha256=_hash(data),
            model=str(data["model_name"]),
            at=float(data["date"]) + float(data.get("total_evaluation_time_seconds") or 0.0),
            evaluators=evaluators,
            means=tuple(means),
            found=found,
            sampling=_sampling(data),
            notes=tuple(notes),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        refuse(path, f"it is not what lm-eval 0.4 writes ({type(error).__name__}: {error})", error)


def _names(results: Json) -> dict[tuple[str, str], str]:
    """Task and ``metric,filter`` → the evaluator's name."""
    names = {}
    for task, found in results.items():
        keys = [key for key in found if "," in key and "_stderr," not in key]
        for key in keys:
            metric = key.partition(",")[0]
            filters = sum(other.startswith(f"{metric},") for other in keys)
            names[task, key] = f"{task}/{key if filters > 1 else metric}"
    return names


def _means(data: Json, names: Mapping[tuple[str, str], str]) -> tuple[list[Mean], list[str]]:
    means, left_out = [], []
    for (task, key), evaluator in names.items():
        metric, _, filter_ = key.partition(",")
        found = data["results"][task]
        mean = share(found[key])
        better = data["higher_is_better"].get(task, {}).get(metric)
        if mean is None or not better or metric in _OF_A_HUNDRED:
            left_out.append(evaluator)
            continue
        stderr = error_of(found.get(f"{metric}_stderr,{filter_}"))
        means.append(Mean(evaluator, mean, stderr, _items(data, task)))
    notes = [f"Left out, being no share of which more is better: {', '.join(left_out)}."]
    return means, notes if left_out else []


def _items(data: Json, task: str) -> int:
    """How many documents a task had, or the tasks of a group together."""
    if task in data["n-samples"]:
        return int(data["n-samples"][task]["effective"])
    return sum(_items(data, part) for part in data["group_subtasks"][task])


def _version(data: Json, evaluator: str) -> str:
    task = evaluator.partition("/")[0]
    versions = data.get("versions", {})
    told = f", {task} {versions[task]}" if versions.get(task) is not None else ""
    return f"lm-eval {data.get('lm_eval_version', 'unknown')}{told}"


def _dataset(data: Json) -> str:
    """The one task or group that was asked for, or all of them."""
    inner = {part for parts in data.get("group_subtasks", {}).values() for part in parts}
    outer = [task for task in data["results"] if task not in inner]
    return outer[0] if len(outer) == 1 else "lm-eval"


def _hash(data: Json) -> str:
    """Over what was asked: the tasks' configurations and numbers, and the prompts where logged."""
    asked = {
        task: {
            "config": {k: v for k, v in config.items() if k not in _OF_THE_RUN},
            "version": data.get("versions", {}).get(task),
            "shots": data.get("n-shot", {}).get(task),
            "items": data["n-samples"][task]["effective"],
            "prompts": data.get("task_hashes", {}).get(task),
        }
        for task, config in data["configs"].items()
    }
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()


def _sampling(data: Json) -> dict[str, Any]:
    config = data.get("config", {})
    told = {
        "model_source": data.get("model_source"),
        "gen_kwargs": config.get("gen_kwargs"),
        "limit": config.get("limit"),
        "seed": config.get("random_seed"),
        "shots": data.get("n-shot"),
        "system_instruction_sha": data.get("system_instruction_sha"),
    }
    return {name: part for name, part in told.items() if part is not None}


def _samples(
    results: Path, folder: Path, names: Mapping[tuple[str, str], str], kept: Mapping[str, str]
) -> Iterator[Found]:
    dated = _DATED.search(results.name)
    if dated is None:
        refuse(results, "its name has no date by which its samples could be told from others")
    for task in {task for task, _ in names}:
        path = folder / f"samples_{task}_{dated['date']}.jsonl"
        if path.is_file():
            yield from _of_task(path, task, names, kept)
        elif any(name.startswith(f"{task}/") for name in kept) and not _is_group(results, task):
            refuse(path, "it is not there")


def _of_task(
    path: Path, task: str, names: Mapping[tuple[str, str], str], kept: Mapping[str, str]
) -> Iterator[Found]:
    for at, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            sample = json.loads(line)
            for metric in sample["metrics"]:
                name = names.get((task, f"{metric},{sample['filter']}"), "")
                value = share(sample[metric])
                if name in kept and value is not None:
                    yield Found(f"{task}/{sample['doc_id']}", name, value)
        except (KeyError, TypeError, ValueError) as error:
            refuse(path, f"line {at} is no sample of lm-eval ({error})", error)


def _is_group(results: Path, task: str) -> bool:
    return task in read_json(results).get("group_subtasks", {})
