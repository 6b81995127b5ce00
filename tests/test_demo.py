"""The demo: its data set is reproducible, its prompts load, its scores are right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file

from softprompt_serve.artifact import KvShape, Limits, hard, learned_from_path
from softprompt_serve.demo import prepare, scoring, seed, tickets
from softprompt_serve.demo.choose_text import read_candidates
from softprompt_serve.demo.evaluate import as_json, rows
from softprompt_serve.demo.recipes import RECIPES, Recipe
from softprompt_serve.errors import BadRequest, StartupRefused
from softprompt_serve.release.records import parse_record

PROMPTS = Path(tickets.__file__).parent / "prompts"
SOFT = ("support-v2", "support-v3")
PREFIX = "support-v4"
LEARNED = (*SOFT, PREFIX)
VERSIONS = ("support-v1", *LEARNED)
ADAPTER = "support-lora"
LIMITS = Limits(
    hidden_size=576,
    model_dtype="float32",
    max_virtual_tokens=1024,
    max_model_len=8192,
    max_text_chars=65_536,
    kv=KvShape(layers=30, kv_heads=3, head_dim=64),
)


@pytest.mark.parametrize("split", tickets.PER_LABEL)
def test_the_generator_makes_the_committed_file_byte_for_byte(split: str) -> None:
    committed = (tickets.DATA / f"{split}.jsonl").read_bytes()
    assert tickets.serialize(tickets.generate()[split]) == committed


@pytest.mark.parametrize(("split", "per_label"), tickets.PER_LABEL.items())
def test_every_label_is_equally_frequent_in_each_split(split: str, per_label: int) -> None:
    labels = [ticket.label for ticket in tickets.load(split)]
    assert {label: labels.count(label) for label in labels} == dict.fromkeys(
        tickets.LABELS, per_label
    )


def test_no_two_tickets_share_a_text_or_an_id() -> None:
    everything = [ticket for split in tickets.PER_LABEL for ticket in tickets.load(split)]
    assert len({ticket.text.casefold() for ticket in everything}) == len(everything)
    assert len({ticket.id for ticket in everything}) == len(everything)


def test_splits_share_no_sentence_of_a_request() -> None:
    wording = tickets.read_wording()
    sentences = [
        re.sub(r"\W+", " ", core).casefold()
        for split in tickets.PER_LABEL
        for label in tickets.LABELS
        for core in wording[split]["core"][label]
    ]
    assert len(set(sentences)) == len(sentences)


def test_generated_text_leaves_no_slot_or_choice_open() -> None:
    texts = [t.text for split in tickets.generate().values() for t in split]
    assert not [text for text in texts if re.search(r"[{}\[\]|]", text)]


def test_the_data_set_stays_small_and_large_enough() -> None:
    sizes = {split: len(tickets.load(split)) for split in tickets.PER_LABEL}
    assert sum(sizes.values()) >= 600
    assert sum(path.stat().st_size for path in tickets.DATA.iterdir()) < 200_000


@pytest.mark.parametrize("name", SOFT)
def test_a_committed_tensor_is_twenty_finite_rows_of_the_demo_model(name: str) -> None:
    tensors = load_file(PROMPTS / name / "adapter_model.safetensors")
    assert list(tensors) == ["prompt_embeddings"]
    assert tensors["prompt_embeddings"].shape == (20, 576)
    assert tensors["prompt_embeddings"].dtype is torch.float32
    assert bool(torch.isfinite(tensors["prompt_embeddings"]).all())


def test_the_committed_prefix_is_finite_and_half_as_long_as_it_was_trained() -> None:
    tensors = load_file(PROMPTS / PREFIX / "adapter_model.safetensors")
    assert list(tensors) == ["prompt_embeddings"]
    assert tensors["prompt_embeddings"].shape == (20, 30 * 2 * 3 * 64)
    assert tensors["prompt_embeddings"].dtype is torch.float16
    assert bool(torch.isfinite(tensors["prompt_embeddings"]).all())


@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, (20, 576)) for name in SOFT), (PREFIX, (30, 2, 20, 3, 64))],
)
def test_a_committed_adapter_folder_is_accepted_as_an_artifact(
    name: str, shape: tuple[int, ...]
) -> None:
    artifact = learned_from_path(PROMPTS / name, limits=LIMITS)
    assert artifact.content.shape == shape
    assert artifact.declared["base_model_name_or_path"] == "SmolLM2-135M-Instruct"


def test_the_lora_beside_them_is_no_version() -> None:
    with pytest.raises(BadRequest, match="LORA"):
        learned_from_path(PROMPTS / ADAPTER, limits=LIMITS)
    assert ADAPTER.removeprefix(f"{seed.PROMPT}-") not in seed.VERSIONS


def test_the_learned_versions_differ() -> None:
    digests = {learned_from_path(PROMPTS / name, limits=LIMITS).content.digest for name in LEARNED}
    assert len(digests) == len(LEARNED)


@pytest.mark.parametrize(("version", "recipe"), RECIPES.items())
def test_a_committed_record_is_that_of_its_recipe(version: str, recipe: Recipe) -> None:
    record = json.loads((PROMPTS / f"support-{version}" / "record.json").read_text())
    assert (record["method"], record["seed"]) == (recipe.method, recipe.seed)
    stated = {name: record["optimizer"][name] for name in ("learning_rate", "epochs", "augment")}
    assert stated == {name: getattr(recipe, name) for name in stated}


@pytest.mark.parametrize("name", [*VERSIONS, ADAPTER])
def test_a_committed_record_is_valid_and_names_the_training_data(name: str) -> None:
    record = parse_record((PROMPTS / name / "record.json").read_bytes()).to_json()
    assert record["dataset_sha256"] == tickets.sha256("train")
    assert record["base_model"] == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize("name", [*VERSIONS, ADAPTER])
def test_committed_metadata_names_no_machine_path(name: str) -> None:
    for path in (PROMPTS / name).glob("*.json"):
        values = re.findall(r'"(/[^"]*)"', path.read_text(encoding="utf-8"))
        assert values == []


def test_the_hard_prompt_is_one_of_the_compared_candidates() -> None:
    text = (PROMPTS / "support-v1" / "text.txt").read_text(encoding="utf-8").strip()
    assert text in read_candidates().values()
    assert hard(text, LIMITS).content.text == text


def test_preparing_again_touches_nothing_and_needs_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in prepare.FILES:
        (tmp_path / name).write_text("already here", encoding="utf-8")
    monkeypatch.setattr(prepare, "PACKAGE", "no-such-distribution")
    prepare.prepare(tmp_path, Console(quiet=True))
    assert {p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == {"already here"}


def test_preparing_refuses_a_folder_with_something_else_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(StartupRefused) as refused:
        prepare.prepare(tmp_path, Console(quiet=True))
    assert refused.value.code == "demo_model_incomplete"


def test_preparing_names_the_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "PACKAGE", "no-such-distribution")
    with pytest.raises(StartupRefused, match="pip install no-such-distribution"):
        prepare.prepare(tmp_path / "model", Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", ["billing", " Billing.\n", "**billing**", '"BILLING"'])
def test_the_label_alone_is_right_whatever_its_dress(answer: str) -> None:
    assert scoring.is_right(answer, "billing")


@pytest.mark.parametrize("answer", ["", "billing issue", "The label is billing", "shipping"])
def test_anything_but_the_label_alone_is_wrong(answer: str) -> None:
    assert not scoring.is_right(answer, "billing")


def test_wilson_agrees_with_a_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert scoring.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_accuracy_and_stays_within_bounds(counts: tuple[int, int]) -> None:
    right, total = counts
    low, high = scoring.wilson(right, total)
    assert 0.0 <= low <= high <= 1.0
    if total:
        assert low - 1e-12 <= right / total <= high + 1e-12


def test_a_score_counts_right_answers() -> None:
    found = scoring.score([("billing", "billing"), ("sales", "billing"), ("Sales.", "sales")])
    assert (found.right, found.total) == (2, 3)


def test_results_print_as_a_markdown_table() -> None:
    header, body = rows({"support@v2": {"test": scoring.Score(8, 10)}})
    assert scoring.markdown(header, body).splitlines() == [
        "| model | test |",
        "| --- | --- |",
        "| support@v2 | 80.0% (49-94) |",
    ]


def test_results_as_json_carry_counts_and_interval() -> None:
    found = json.loads(as_json({"base": {"ood": scoring.Score(0, 4)}}))["base"]["ood"]
    assert (found["right"], found["total"], found["accuracy"]) == (0, 4, 0.0)
    assert found["interval_95"] == pytest.approx([0.0, 0.4899], abs=5e-4)
