"""Release records and the comparison with the served base model."""

import json

import pytest

from softprompt_serve.errors import BadRequest
from softprompt_serve.release.curves import thinned
from softprompt_serve.release.records import (
    BaseModelIdentity,
    ReleaseRecord,
    check_base_model,
    parse_record,
    stored_record,
)

FULL = {
    "dataset": "tickets",
    "dataset_version": "3",
    "dataset_sha256": "a" * 64,
    "base_model": "acme/small",
    "base_model_revision": "main",
    "base_model_fingerprint": "f1",
    "tokenizer_fingerprint": "t1",
    "chat_template_sha256": "b" * 64,
    "method": "prompt_tuning",
    "optimizer": {"name": "AdamW", "lr": 0.3, "betas": [0.9, 0.99], "schedule": None},
    "seed": 7,
    "init": "text",
    "training_code": "acme/train@1234567",
    "training_curve": [{"step": 0, "loss": 4.5}, {"step": 200, "loss": 0.25, "eval_loss": 0.5}],
    "trained_from": "support@v2",
    "metrics": {"accuracy": 0.93},
    "notes": "First try.",
    "created_by": "Ada",
}
SERVED = BaseModelIdentity(name="acme/small", revision="main")


@pytest.mark.parametrize("form", [json.dumps(FULL), json.dumps(FULL).encode(), FULL])
def test_a_record_comes_back_as_it_was_given(form: bytes | str | dict) -> None:
    assert parse_record(form).to_json() == FULL


def test_a_full_record_misses_nothing() -> None:
    assert parse_record(FULL).missing() == []


@pytest.mark.parametrize("nothing", [None, "", b"  ", "{}", {}])
def test_what_is_missing_is_shown_as_missing(nothing: bytes | str | dict | None) -> None:
    record = parse_record(nothing)
    assert set(record.to_json()) == set(FULL)
    assert not any(record.to_json().values())
    assert record.missing() == [
        "dataset",
        "dataset_version",
        "base_model",
        "base_model_revision",
        "method",
        "optimizer",
        "seed",
        "training_code",
        "metrics",
        "created_by",
    ]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"datset": "x"}, "datset"),
        ({"seed": "7"}, "seed"),
        ({"seed": True}, "seed"),
        ({"dataset": ""}, "dataset"),
        ({"dataset_sha256": "abc"}, "dataset_sha256"),
        ({"metrics": {"accuracy": "high"}}, "metrics.accuracy"),
        ({"optimizer": "AdamW"}, "optimizer"),
        ("[]", "whole"),
        ("{", "JSON"),
        (b"\xff", "valid"),
        ('{"metrics": {"a": NaN}}', "metrics"),
        ('{"optimizer": {"lr": NaN}}', "valid"),
        ({"optimizer": {"lr": float("inf")}}, "valid"),
        ({"optimizer": {"lr": object()}}, "valid"),
        ({"training_curve": [{"loss": 1.0}]}, "training_curve.0.step"),
        ({"training_curve": [{"step": -1}]}, "training_curve.0.step"),
        ({"training_curve": [{"step": 1, "loss": "low"}]}, "training_curve.0.loss"),
        ('{"training_curve": [{"step": 1, "loss": NaN}]}', "training_curve.0.loss"),
        ({"training_curve": [{"step": 1, "": 1.0}]}, "training_curve.0"),
        ({"training_curve": [{"step": 1, **dict.fromkeys("abcdefghi", 1.0)}]}, "8 values"),
        ({"training_curve": [{"step": 5}, {"step": 5}]}, "steps must grow"),
        ({"training_curve": [{"step": step} for step in range(513)]}, "513 points; at most 512"),
        ({"trained_from": "v2"}, "trained_from"),
        ({"trained_from": "support@v2\n"}, "trained_from"),
        ({"notes": "\ud800"}, "valid"),
        ({"notes": "x" * 17_000}, "notes"),
        ({"optimizer": {"name": "x" * 66_000}}, "bytes"),
        (" " * 300_000 + "{}", "bytes"),
        ('{"optimizer": ' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}", "valid"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused_by_field(
    given: bytes | str | dict, named: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_record(given)
    assert refused.value.code == "invalid_record"
    assert named in refused.value.message


def test_a_record_of_an_older_release_is_handed_on_as_it_was() -> None:
    older = {name: FULL[name] for name in ("dataset", "seed", "metrics", "optimizer")}
    assert parse_record(older).given() == older


def test_lineage_may_be_a_digest() -> None:
    assert parse_record({"trained_from": "a" * 64}).trained_from == "a" * 64


@pytest.mark.parametrize(
    "given", [{"notes": "\u4f60" * 16_000}, {"optimizer": {"a": "x" * 65_500}}]
)
def test_a_record_that_was_accepted_is_accepted_wherever_it_goes(given: dict) -> None:
    record = parse_record(given)
    assert stored_record(record.to_json()) == record
    for text in (record.to_text(), json.dumps(record.to_json(), indent=4)):
        assert parse_record(text) == record


def test_a_thinned_curve_keeps_its_ends_and_its_order() -> None:
    kept = thinned(range(1_000), 7)
    assert (kept[0], kept[-1], len(kept)) == (0, 999, 7)
    assert kept == sorted(set(kept))


def test_a_curve_that_is_short_enough_is_not_thinned() -> None:
    assert thinned([3, 1, 2], 3) == [3, 1, 2]


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(BadRequest, match=r"seed.*method|method.*seed"):
        parse_record({"seed": 1.5, "method": 3})


@pytest.mark.parametrize(
    ("recorded", "served"),
    [
        ("acme/small", "acme/small"),
        ("Acme/Small", "acme/small"),
        ("acme/small/", "acme/small"),
        ("small", "acme/small"),
        ("acme/small", "/models/small"),
        ("./small", "acme/small"),
        ("../runs/small/", "/models/small"),
        ("C:\\models\\small", "/models/small"),
        ("/cache/hub/models--acme--small/snapshots/0123456789abcdef", "acme/small"),
    ],
)
def test_names_of_the_same_model_agree(recorded: str, served: str) -> None:
    record = ReleaseRecord(base_model=recorded, base_model_revision="main")
    assert check_base_model(record, {}, BaseModelIdentity(name=served, revision="main")) == []


@pytest.mark.parametrize(
    ("recorded", "served"),
    [
        ("acme/small", "acme/large"),
        ("acme/small", "other/small"),
        ("acme/small", "/models/large"),
        ("/cache/models--acme--small/snapshots/0123456", "other/small"),
    ],
)
def test_another_base_model_is_refused(recorded: str, served: str) -> None:
    record = ReleaseRecord(base_model=recorded)
    with pytest.raises(BadRequest, match=recorded) as refused:
        check_base_model(record, {}, BaseModelIdentity(name=served))
    assert (refused.value.code, refused.value.param) == ("base_model_mismatch", "base_model")


def test_another_revision_is_refused() -> None:
    record = ReleaseRecord(base_model="acme/small", base_model_revision="v2")
    with pytest.raises(BadRequest) as refused:
        check_base_model(record, {}, SERVED)
    assert refused.value.param == "base_model_revision"


def test_a_commit_and_its_prefix_agree() -> None:
    record = ReleaseRecord(base_model="acme/small", base_model_revision="0123456")
    served = BaseModelIdentity(name="acme/small", revision="0123456789abcdef")
    assert check_base_model(record, {}, served) == []


def test_a_commit_and_a_branch_are_noted_as_not_comparable() -> None:
    record = ReleaseRecord(base_model="acme/small", base_model_revision="0123456")
    [note] = check_base_model(record, {}, SERVED)
    assert "can't be compared" in note


@pytest.mark.parametrize(
    "field", ["base_model_fingerprint", "tokenizer_fingerprint", "chat_template_sha256"]
)
def test_a_fingerprint_that_disagrees_is_refused(field: str) -> None:
    served = BaseModelIdentity(
        name="acme/small",
        fingerprint="1" * 64,
        tokenizer_fingerprint="1" * 64,
        chat_template_sha256="1" * 64,
    )
    record = ReleaseRecord(base_model="acme/small", **{field: "2" * 64})
    with pytest.raises(BadRequest) as refused:
        check_base_model(record, {}, served)
    assert (refused.value.code, refused.value.param) == ("base_model_mismatch", field)


def test_equal_weights_under_another_name_are_only_noted() -> None:
    record = ReleaseRecord(
        base_model="mirror/copy", base_model_revision="v9", base_model_fingerprint="f1"
    )
    served = BaseModelIdentity(name="acme/small", revision="main", fingerprint="f1")
    notes = check_base_model(record, {}, served)
    assert len(notes) == 2
    assert "mirror/copy" in notes[0]


def test_the_adapter_s_base_model_counts_where_the_record_names_none() -> None:
    declared = {"base_model_name_or_path": "acme/large", "revision": None}
    with pytest.raises(BadRequest):
        check_base_model(ReleaseRecord(), declared, SERVED)


def test_the_record_s_base_model_comes_before_the_adapter_s() -> None:
    declared = {"base_model_name_or_path": "acme/large", "revision": "v9"}
    record = ReleaseRecord(base_model="acme/small", base_model_revision="main")
    assert check_base_model(record, declared, SERVED) == []


@pytest.mark.parametrize("served", [BaseModelIdentity(), SERVED])
def test_what_is_unknown_is_noted_and_not_refused(served: BaseModelIdentity) -> None:
    notes = check_base_model(ReleaseRecord(), {"base_model_name_or_path": ""}, served)
    assert len(notes) == 2
