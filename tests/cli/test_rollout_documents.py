"""What a person writes for a rollout."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from softprompt_serve.cli.documents import given, headers_of, read_document, weights_of
from softprompt_serve.errors import BadRequest

DOCUMENT = {"arms": [{"version": "v1", "weight": 1}]}
JSON = '{"arms": [{"version": "v1", "weight": 1}]}'
YAML = "arms:\n- version: v1\n  weight: 1\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", JSON), ("a.yaml", YAML), ("a.yml", YAML), ("a", YAML), ("a", "\n" + JSON)],
)
def test_a_document_is_json_or_yaml(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_document(str(tmp_path / name)) == DOCUMENT


@pytest.mark.parametrize("text", [JSON, YAML])
def test_a_document_can_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert read_document("-") == DOCUMENT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"arms": [', "as JSON"),
        ("arms: [", "as YAML"),
        ('{"arms": NaN}', "as JSON"),
        ("since: 2026-01-01", "as YAML"),
        ("[]", "no object"),
        ("", "no object"),
    ],
)
def test_what_is_no_document_is_refused_and_said_why(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "rollout"
    file.write_text(text)
    with pytest.raises(BadRequest, match=why) as caught:
        read_document(str(file))
    assert caught.value.code == "invalid_document"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        read_document(str(tmp_path / "missing.json"))
    assert caught.value.code == "file_unreadable"


def test_yaml_without_pyyaml_says_to_write_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(BadRequest, match="write JSON"):
        read_document(str(tmp_path / "a.yaml"))


def test_weights_are_pairs_of_version_and_number() -> None:
    assert weights_of(["v2=90", "candidate=10", "v1=0"]) == {"v2": 90, "candidate": 10, "v1": 0}


@pytest.mark.parametrize(
    "pairs",
    [["v2"], ["=1"], ["v2="], ["v2=-1"], ["v2=0.5"], ["v2=10%"], ["v2=٣"], ["v2=1", "v2=2"]],
)
def test_weights_that_are_none_are_refused(pairs: list[str]) -> None:
    with pytest.raises(BadRequest) as caught:
        weights_of(pairs)
    assert caught.value.code == "invalid_weights"


def test_a_headers_value_may_hold_an_equals_sign() -> None:
    assert headers_of(["x-tier=gold", "x-filter=a=b", "x-none="]) == {
        "x-tier": "gold",
        "x-filter": "a=b",
        "x-none": "",
    }


def test_a_header_without_a_value_is_refused() -> None:
    with pytest.raises(BadRequest, match="x-tier=gold"):
        headers_of(["x-tier"])


def test_what_was_not_given_is_left_out_of_a_body() -> None:
    assert given(a=None, b=0, c="") == {"b": 0, "c": ""}
    assert given(a=None) is None
