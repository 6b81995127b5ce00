"""What a run logged, read as a release record."""

from __future__ import annotations

from typing import Any

import pytest

from softprompt_serve.release.mlflow_curves import curve_names
from softprompt_serve.release.mlflow_record import Dataset, LoggedRun, record_of
from softprompt_serve.release.records import MAX_RECORD_BYTES, ReleaseRecord

ADAPTER = {
    "peft_type": "PROMPT_TUNING",
    "base_model_name_or_path": "acme/small",
    "revision": None,
    "prompt_tuning_init": "TEXT",
}


def read(**logged: Any) -> tuple[ReleaseRecord, tuple[str, ...]]:
    empty: dict[str, Any] = {"params": {}, "tags": {}, "metrics": {}, "curves": {}, "datasets": ()}
    return record_of(LoggedRun(**{"id": "r1", "name": None, "adapter": {}, **empty, **logged}))


def record(**logged: Any) -> ReleaseRecord:
    return read(**logged)[0]


def curve_of(made: ReleaseRecord) -> list[dict[str, Any]]:
    return made.to_json()["training_curve"]


def test_what_the_adapter_says_is_in_the_record() -> None:
    made = record(adapter=ADAPTER)
    assert made.given() == {
        "base_model": "acme/small",
        "method": "prompt_tuning",
        "init": "TEXT",
        "notes": "MLflow run r1.",
    }


def test_a_parameter_or_tag_that_bears_a_fields_name_is_that_field() -> None:
    params = {"trained_from": "support@v2", "base_model": "acme/base", "dataset_sha256": "a" * 64}
    made = record(params=params, tags={"created_by": "ada"}, adapter=ADAPTER)
    assert made.given().items() >= (params | {"created_by": "ada"}).items()


def test_a_parameter_comes_before_a_tag_of_that_name() -> None:
    assert record(params={"dataset": "a"}, tags={"dataset": "b"}).dataset == "a"


def test_what_a_trainer_logs_by_itself_is_understood() -> None:
    params = {
        "optim": "adamw_torch",
        "learning_rate": "0.3",
        "num_train_epochs": "3",
        "adam_beta1": "0.9",
        "bf16": "False",
        "lr_scheduler_kwargs": "{'a': 1}",
        "warmup_steps": "None",
        "output_dir": "somewhere",
        "seed": "42",
        "_name_or_path": "acme/small",
        "peft_type": "PeftType.P_TUNING",
    }
    made = record(params=params)
    assert made.optimizer == {
        "adam_beta1": 0.9,
        "bf16": False,
        "learning_rate": 0.3,
        "lr_scheduler_kwargs": "{'a': 1}",
        "num_train_epochs": 3,
        "optim": "adamw_torch",
    }
    assert (made.seed, made.base_model, made.method) == (42, "acme/small", "p_tuning")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_a_setting_that_json_can_not_hold_stays_a_text(value: str) -> None:
    assert record(params={"weight_decay": value}).optimizer == {"weight_decay": value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "forty-two"),
        ("seed", "True"),
        ("dataset_sha256", "75280946"),
        ("trained_from", "v2"),
        ("dataset", "x" * 2000),
    ],
)
def test_what_is_no_value_for_its_field_is_left_out_and_said(name: str, value: str) -> None:
    made, remarks = read(params={name: value})
    assert getattr(made, name) is None
    assert len(remarks) == 1
    assert remarks[0].startswith(f"{name} was left out")
    assert len(remarks[0]) < 150


def test_the_data_set_that_was_trained_on_is_named_with_its_digest() -> None:
    inputs = [Dataset("held-out", "2", "validation"), Dataset("tickets", "75280946", "training")]
    made = record(datasets=inputs)
    assert (made.dataset, made.dataset_version) == ("tickets", "75280946")


def test_a_digest_is_no_version_of_another_data_set() -> None:
    made = record(params={"dataset": "mine"}, datasets=[Dataset("tickets", "1", "training")])
    assert (made.dataset, made.dataset_version) == ("mine", None)


def test_of_several_training_sets_none_is_made_up() -> None:
    made, remarks = read(datasets=[Dataset("b", "1", "train"), Dataset("a", "2", "train")])
    assert made.dataset is None
    assert remarks == ("dataset was left out: the run logged several, a, b.",)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"mlflow.source.name": "train.py"}, "train.py"),
        ({"mlflow.source.name": "train.py", "mlflow.source.git.commit": "abc"}, "train.py@abc"),
        (
            {
                "mlflow.source.name": "train.py",
                "mlflow.source.git.repoURL": "https://user:secret@example.com/acme/train.git",
                "mlflow.source.git.commit": "abc",
            },
            "https://example.com/acme/train.git@abc",
        ),
        ({"mlflow.source.name": "-"}, None),
        ({"training_code": "mine", "mlflow.source.name": "train.py"}, "mine"),
    ],
)
def test_the_training_code_is_named_without_credentials(
    tags: dict[str, str], code: str | None
) -> None:
    assert record(tags=tags).training_code == code


def test_notes_keep_what_people_wrote_and_name_the_run() -> None:
    made = record(name="loud-owl-1", tags={"mlflow.note.content": "Good.", "mlflow.user": "ada"})
    assert made.notes == "Good.\n\nMLflow run r1 (loud-owl-1)."
    assert made.created_by == "ada"


def test_last_metrics_are_the_records_without_those_of_the_machine() -> None:
    metrics = {"accuracy": 1, "system/cpu": 3.0, "loss": float("nan")}
    made, remarks = read(metrics=metrics)
    assert made.metrics == {"accuracy": 1.0}
    assert remarks == ("Metrics that are no numbers were left out: loss.",)


def test_histories_become_one_curve_by_step() -> None:
    curves = {
        "train_loss": [(10, 2.0), (0, 4.0), (10, 1.0), (-1, 9.0), (20, float("nan")), (30, 0.5)],
        "eval_loss": [(10, 3.0), (30, 1.5)],
        "once": [(0, 1.0)],
        "system/gpu": [(0, 1.0), (1, 1.0)],
    }
    assert curve_of(record(curves=curves)) == [
        {"step": 0, "loss": 4.0},
        {"step": 10, "loss": 1.0, "eval_loss": 3.0},
        {"step": 30, "loss": 0.5, "eval_loss": 1.5},
    ]


def test_two_losses_of_training_keep_their_names_apart() -> None:
    curves = {"train_loss": [(0, 4.0), (1, 2.0)], "loss": [(0, 5.0), (1, 3.0)]}
    assert curve_of(record(curves=curves))[0] == {"step": 0, "loss": 5.0, "train_loss": 4.0}


def test_a_curve_without_a_loss_is_one_too() -> None:
    assert curve_of(record(curves={"reward": [(0, 1.0), (1, 2.0)]}))[1]["reward"] == 2.0


def test_a_long_curve_is_thinned_and_its_rare_values_stay() -> None:
    curves = {
        "loss": [(step, 1.0 / (step + 1)) for step in range(10_000)],
        "eval_loss": [(step, 1.0) for step in range(0, 10_000, 1_111)],
    }
    made, remarks = read(curves=curves)
    points = curve_of(made)
    assert len(points) <= 512
    assert (points[0]["step"], points[-1]["step"]) == (0, 9_999)
    assert [p["step"] for p in points if "eval_loss" in p] == list(range(0, 10_000, 1_111))
    assert remarks == (f"training_curve was thinned to {len(points)} of 10000 steps.",)


def test_a_broad_curve_is_thinned_until_the_record_is_small_enough() -> None:
    third = 1 / 3
    curves = {
        f"{letter * 40}_loss": [(step, step + third) for step in range(0, 4_000, 2)]
        for letter in "abcdefgh"
    }
    made, _ = read(curves=curves)
    assert len(made.to_text()) <= MAX_RECORD_BYTES
    assert len(curve_of(made)) >= 32


def test_losses_come_first_where_a_point_has_no_room_for_all() -> None:
    names = [f"a{number}" for number in range(10)] + ["z_loss", "training_loss", "system/x"]
    assert curve_names(names)[:3] == ["training_loss", "z_loss", "a0"]
    curves = {name: [(0, 1.0), (1, 2.0)] for name in names}
    assert set(curve_of(record(curves=curves))[0]) >= {"loss", "z_loss", "a0"}
