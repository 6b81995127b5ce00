"""From what a training run logged to MLflow to a release record. Pure.

A parameter or tag that bears the name of a record's field is that field. Beside that, names are
understood that trainers log by themselves (Transformers' ``Trainer``, PEFT's configuration, MLflow's
own tags). What was logged but is no value for its field is left out and said.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from softprompt_serve.errors import BadRequest
from softprompt_serve.release.curves import MAX_POINTS
from softprompt_serve.release.mlflow_curves import SYSTEM, Series, chosen_of, merged
from softprompt_serve.release.records import ReleaseRecord, parse_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ALSO: Final[Mapping[str, tuple[str, ...]]] = {
    "dataset": ("dataset_name",),
    "dataset_version": ("dataset_revision",),
    "base_model_revision": ("model_revision",),
    "seed": ("random_seed", "random_state"),
    "method": ("peft_type",),
    "init": ("prompt_tuning_init",),
}
_BASE_NAMES: Final = ("model_name_or_path", "_name_or_path", "model_name")
_NOWHERE: Final = "-"
"""What MLflow calls the source of code that came from standard input."""

_MAX_METRICS: Final = 500
_CURVE_POINTS: Final = tuple(MAX_POINTS >> halvings for halvings in range(5))
_OPTIMIZER: Final = frozenset(
    {
        "adafactor",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "batch_size",
        "betas",
        "bf16",
        "epochs",
        "eps",
        "fp16",
        "gradient_accumulation_steps",
        "label_smoothing_factor",
        "learning_rate",
        "lr",
        "lr_scheduler",
        "lr_scheduler_kwargs",
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
        "momentum",
        "num_epochs",
        "num_train_epochs",
        "optim",
        "optim_args",
        "optimizer",
        "per_device_train_batch_size",
        "scheduler",
        "steps",
        "train_batch_size",
        "warmup",
        "warmup_ratio",
        "warmup_steps",
        "weight_decay",
    }
)
CREDENTIALS: Final = re.compile(r"(?<=://)[^/@]*@")
_WORDS: Final = {"True": True, "False": False, "None": None}
_ALL_OF_THESE: Final = frozenset({"optimizer", "metrics", "training_curve", "notes"})
"""Fields that are no single parameter."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that the run logged as its input; ``digest`` is MLflow's own, of a few digits."""

    name: str
    digest: str
    context: str | None


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """What a run logged, as plain values.

    Attributes:
        id, name: of the run.
        params, tags: as text, as MLflow keeps them.
        metrics: the last value of each.
        curves: the history of each metric that has more than one step.
        datasets: its inputs.
        adapter: the logged adapter's ``adapter_config.json``.
    """

    id: str
    name: str | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Series]
    datasets: Sequence[Dataset]
    adapter: Mapping[str, Any]


@dataclass(slots=True)
class Reading:
    """A record in the making, and what a person should know about it."""

    fields: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def offer(self, name: str, value: Any) -> None:
        """Take ``value`` for a field, unless it has one, or that is none for it."""
        if value is None or name in self.fields:
            return
        try:
            parse_record({name: value})
        except BadRequest:
            shown = str(value)
            shown = shown if len(shown) <= len("x" * 64) else f"{shown[:64]}…"
            self.remarks.append(f"{name} was left out: {shown!r} is no value for it.")
        else:
            self.fields[name] = value


def record_of(run: LoggedRun) -> tuple[ReleaseRecord, tuple[str, ...]]:
    """The record of a run, and remarks about what was left out or thinned.

    Raises:
        BadRequest: ``code="invalid_record"``: it logged more than a record holds.
    """
    reading = Reading()
    logged = {**run.tags, **run.params}
    _by_name(reading, logged)
    _of_the_adapter(reading, run.adapter)
    for name in _BASE_NAMES:
        reading.offer("base_model", logged.get(name))
    _of_the_dataset(reading, run.datasets)
    reading.offer("optimizer", _optimizer(run.params) or None)
    reading.offer("metrics", _finite(reading, run.metrics) or None)
    reading.offer("training_code", _code(run.tags))
    reading.offer("created_by", run.tags.get("mlflow.user"))
    told = f"MLflow run {run.id}" + (f" ({run.name})" if run.name else "")
    notes = (logged.get("notes"), run.tags.get("mlflow.note.content"), f"{told}.")
    reading.offer("notes", "\n\n".join(note for note in notes if note))
    record = _with_curve(reading, run.curves)
    return record, tuple(reading.remarks)


def _by_name(reading: Reading, logged: Mapping[str, str]) -> None:
    for name in ReleaseRecord.model_fields:
        if name in _ALL_OF_THESE:
            continue
        for key in (name, *_ALSO.get(name, ())):
            text = logged.get(key) or None
            if text is not None and name == "seed":
                reading.offer(name, _parsed(text))
            elif text is not None and name == "method":
                reading.offer(name, text.rpartition(".")[2].lower())  # PeftType.PROMPT_TUNING
            else:
                reading.offer(name, text)


def _of_the_adapter(reading: Reading, adapter: Mapping[str, Any]) -> None:
    method = adapter.get("peft_type")
    reading.offer("method", method.lower() if isinstance(method, str) else None)
    for name, key in (
        ("base_model", "base_model_name_or_path"),
        ("base_model_revision", "revision"),
        ("init", "prompt_tuning_init"),
    ):
        reading.offer(name, adapter.get(key) or None)


def _of_the_dataset(reading: Reading, datasets: Iterable[Dataset]) -> None:
    """The one that the run says it trained on; else the only one."""
    found = list(datasets)
    trained = [d for d in found if (d.context or "").lower() in {"train", "training"}] or found
    if len(trained) == 1:
        reading.offer("dataset", trained[0].name)
        if reading.fields.get("dataset") == trained[0].name:
            reading.offer("dataset_version", trained[0].digest)
    elif trained:
        names = ", ".join(sorted(dataset.name for dataset in trained))
        reading.remarks.append(f"dataset was left out: the run logged several, {names}.")


def _optimizer(params: Mapping[str, str]) -> dict[str, Any]:
    found = {name: _parsed(params[name]) for name in sorted(_OPTIMIZER & params.keys())}
    return {name: value for name, value in found.items() if value not in {None, ""}}


def _parsed(text: str) -> Any:
    """A parameter's value as it was before MLflow made a text of it."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = json.loads(text, parse_constant=_no_number)
        json.dumps(value, allow_nan=False)  # 1e999 reads as infinity
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (int, float, str)) else text


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(reading: Reading, metrics: Mapping[str, float]) -> dict[str, float]:
    ours = {name: value for name, value in metrics.items() if not name.startswith(SYSTEM)}
    wrong = sorted(name for name, value in ours.items() if not math.isfinite(value))
    if wrong:
        reading.remarks.append(f"Metrics that are no numbers were left out: {', '.join(wrong)}.")
    names = sorted(ours.keys() - set(wrong))
    if len(names) > _MAX_METRICS:
        reading.remarks.append(f"{_MAX_METRICS} of {len(names)} metrics were kept.")
    return {name: float(ours[name]) for name in names[:_MAX_METRICS]}


def _code(tags: Mapping[str, str]) -> str | None:
    """Where the code is, without credentials, and its commit."""
    where = tags.get("mlflow.source.git.repoURL") or tags.get("mlflow.source.name") or ""
    where = "" if where == _NOWHERE else CREDENTIALS.sub("", where)
    commit = tags.get("mlflow.source.git.commit")
    return "@".join(part for part in (where, commit) if part) or None


def _with_curve(reading: Reading, curves: Mapping[str, Series]) -> ReleaseRecord:
    """The record with as much of the curve as fits it, evenly thinned."""
    chosen = chosen_of(curves)
    whole = merged(chosen, None)
    for most in _CURVE_POINTS if whole else ():
        points = whole if len(whole) <= most else merged(chosen, most // len(chosen))
        try:
            record = parse_record({**reading.fields, "training_curve": points})
        except BadRequest:  # it is too long
            continue
        if len(points) < len(whole):
            told = f"training_curve was thinned to {len(points)} of {len(whole)} steps."
            reading.remarks.append(told)
        return record
    return parse_record(reading.fields)
