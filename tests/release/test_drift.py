"""Whether the served base model is one that a version was made for."""

from __future__ import annotations

from typing import Any

import pytest

from softprompt_serve.release.drift import Acceptance, Prints, drift
from softprompt_serve.release.records import BaseModelIdentity

A, B, C = "a" * 64, "b" * 64, "c" * 64


def served(
    weights: str | None = A, tokenizer: str | None = A, template: str | None = A
) -> BaseModelIdentity:
    return BaseModelIdentity("owner/model", None, weights, tokenizer, template)


def record(**fields: str) -> dict[str, Any]:
    return dict(fields)


def test_what_was_trained_on_the_served_weights_has_not_drifted() -> None:
    assert drift(record(base_model_fingerprint=A), (), served()) is None


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("base_model_fingerprint", "weights"),
        ("tokenizer_fingerprint", "tokenizer"),
        ("chat_template_sha256", "chat template"),
    ],
)
def test_each_fingerprint_of_the_record_is_compared(field: str, said: str) -> None:
    why = drift(record(**{field: B}), (), served())
    assert why == f"trained with {said} {B[:12]}, served are {A[:12]}"


def test_what_is_unknown_on_either_side_is_not_compared() -> None:
    assert drift(record(), (), served()) is None
    assert drift(record(base_model_fingerprint=B), (), served(weights=None)) is None


def test_without_a_recorded_fingerprint_the_model_that_it_came_for_counts() -> None:
    came = Acceptance(Prints(A, A, A), "imported")
    assert drift(record(), [came], served()) is None
    why = drift(record(), [came], served(weights=B))
    assert why == f"imported on weights {A[:12]}, served are {B[:12]}"


def test_who_was_accepted_on_the_served_model_has_not_drifted() -> None:
    accepted = [Acceptance(Prints(A, A, A), "imported"), Acceptance(Prints(B, A, A), "evaluated")]
    trained = record(base_model_fingerprint=A)
    assert drift(trained, accepted, served(weights=B)) is None
    assert drift(trained, accepted, served()) is None
    assert drift(trained, accepted, served(weights=C)) is not None


def test_an_acceptance_holds_for_all_three_together() -> None:
    accepted = [Acceptance(Prints(B, A, A), "evaluated")]
    assert drift(record(base_model_fingerprint=A), accepted, served(B, A, C)) is not None


def test_all_that_differs_is_named() -> None:
    trained = record(base_model_fingerprint=B, chat_template_sha256=C)
    why = drift(trained, (), served())
    assert why is not None
    assert "weights" in why
    assert "chat template" in why
