"""A slice of BIG-Bench Hard as a data set: which items, in which words, with which examples.

BIG-Bench Hard (Suzgun et al. 2022) is 27 of BIG-bench's tasks, asked with three solved examples.
Of these, 22 are here: three more are programs that make their items up, and two (``word_sorting``,
``dyck_languages``) want long answers, of which a small model gets none right whatever stands before
the question, so that they could only make a drop look smaller.

Everything is chosen by hashes of content and a seed, so neither the order of a file's items nor the
version of Python changes the slice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.dataset import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SETS: Final[Mapping[str, int]] = {"bbh": 3, "bbh-plain": 0}
"""Data sets, as evidence and policies call them, and how many solved examples stand before a
question: as many as BIG-Bench Hard has, or none, as people ask. Their items are the same."""

SHA256: Final[Mapping[str, str]] = {
    "bbh": "b3fff16e121ef2bbb9487e16387bac47d682e35a564c9552862c54770fffa9e8",
    "bbh-plain": "56fcc70a06351707cba82f729f233320be4e4b538a422845303f3a30d35cc58f",
}
"""Of what this makes of BIG-bench 1.0.0, and of what was measured."""

SEED: Final = "bbh-1"
PER_TASK: Final = 12
MAX_CHARACTERS: Final = 1_200
"""Of a question; four of them, a text and the answer fit into 2,048 tokens."""

MAX_OPTIONS: Final = 18
_ID_DIGITS: Final = 12


class Form(Enum):
    """How a task is asked; its value is what the model is told."""

    LETTERS = "Answer with the letter of the right option."
    WORDS = "Answer with the right option alone."
    NUMBER = "Answer with a number alone."


TASKS: Final[Mapping[str, Form]] = {
    "causal_judgment": Form.WORDS,
    "date_understanding": Form.LETTERS,
    "disambiguation_qa": Form.LETTERS,
    "formal_fallacies_syllogisms_negation": Form.WORDS,
    "geometric_shapes": Form.LETTERS,
    "hyperbaton": Form.WORDS,
    "logical_deduction/five_objects": Form.LETTERS,
    "logical_deduction/seven_objects": Form.LETTERS,
    "logical_deduction/three_objects": Form.LETTERS,
    "movie_recommendation": Form.LETTERS,
    "navigate": Form.WORDS,
    "object_counting": Form.NUMBER,
    "penguins_in_a_table": Form.LETTERS,
    "reasoning_about_colored_objects": Form.LETTERS,
    "ruin_names": Form.LETTERS,
    "salient_translation_error_detection": Form.LETTERS,
    "snarks": Form.WORDS,
    "sports_understanding": Form.WORDS,
    "temporal_sequences": Form.LETTERS,
    "tracking_shuffled_objects/five_objects": Form.LETTERS,
    "tracking_shuffled_objects/seven_objects": Form.LETTERS,
    "tracking_shuffled_objects/three_objects": Form.LETTERS,
}
"""Tasks by their folders. Where the options are words of their own or stand in the question, as
``a`` and ``b``, they are answered as they are."""


@dataclass(frozen=True, slots=True)
class Question:
    """One item, worded.

    Attributes:
        key: 64 hexadecimal digits; places it among its task's.
        source: the item's input, after the words that its task puts before it.
        text: what is asked.
        answer: what a solved example says.
        expected: what counts as right.
    """

    key: str
    source: str
    text: str
    answer: str
    expected: str | list[str]


def lines(
    name: str, tasks: Mapping[str, Mapping[str, Any]], per_task: int = PER_TASK
) -> Iterator[str]:
    """A data set's lines, task by task, so that a prefix cache finds the examples again.

    Args:
        name: one of :data:`SETS`.
        tasks: each folder's ``task.json``.
        per_task: how many items of each.

    Raises:
        BadRequest: ``bbh_unexpected``: a task is missing, not of the form that is known, or has
            too few items.
    """
    for folder, form in TASKS.items():
        if folder not in tasks:
            msg = f"{folder} is not in the archive; expected {', '.join(TASKS)}."
            raise BadRequest(msg, code="bbh_unexpected", param=folder)
        try:
            found = questions(folder, form, tasks[folder])
            about = str(tasks[folder].get("task_prefix", "")).strip()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = f"{folder} has an item that is not of the form that is known: {error!r}."
            raise BadRequest(msg, code="bbh_unexpected", param=folder) from error
        examples = _examples(found)
        asked = [question for question in found if question not in examples][:per_task]
        if len(asked) < per_task:
            least = max(SETS.values()) + per_task
            msg = f"{folder} has {len(found)} usable items; expected {least} or more."
            raise BadRequest(msg, code="bbh_unexpected", param=folder)
        opening = "\n\n".join(part for part in (about, form.value) if part)
        for question in asked:
            task = folder.replace("/", "_")
            yield _line(task, opening, examples[: SETS[name]], question)


def questions(folder: str, form: Form, task: Mapping[str, Any]) -> list[Question]:
    """The usable items of a task, one of each input, in the seed's order.

    Left out are items with several right answers or none, with more than :data:`MAX_OPTIONS`
    options, and with questions over :data:`MAX_CHARACTERS`.
    """
    before = str(task.get("example_input_prefix", "")).strip()
    worded = (_worded(folder, form, before, example) for example in task["examples"])
    found: dict[str, Question] = {}
    for question in sorted(filter(None, worded), key=lambda question: question.key):
        # The same text with other options is no independent item.
        found.setdefault(question.source, question)
    return list(found.values())


def _worded(folder: str, form: Form, before: str, example: Mapping[str, Any]) -> Question | None:
    source = f"{before} {example['input'].strip()}".strip()
    known = {name: example.get(name) for name in ("input", "target", "target_scores")}
    key = _sha(SEED, folder, canonical_json(known))
    if form is Form.NUMBER:
        targets = [str(target) for target in example["target"]]
        number = next((target for target in targets if target.isdecimal()), None)
        return None if number is None else Question(key, source, source, number, targets)
    scores: Mapping[str, float] = example["target_scores"]
    right = [option for option, score in scores.items() if score == 1]
    if len(right) != 1 or len(scores) > MAX_OPTIONS:
        return None
    if form is Form.WORDS:
        options, answer = [f"- {option}" for option in sorted(scores)], right[0]
    else:
        # Two of the tasks always name the right one first.
        order = sorted(scores, key=lambda option: _sha(key, option))
        options = [f"({_letter(at)}) {option}" for at, option in enumerate(order)]
        answer = f"({_letter(order.index(right[0]))})"
    text = "\n".join([source, "Options:", *options])
    return Question(key, source, text, answer, answer) if len(text) <= MAX_CHARACTERS else None


def _examples(found: Sequence[Question]) -> list[Question]:
    """The first questions with differing answers; where there are too few of these, any."""
    by_answer: dict[str, Question] = {}
    for question in found:
        by_answer.setdefault(question.answer, question)
    different = list(by_answer.values())
    return [*different, *(q for q in found if q not in different)][: max(SETS.values())]


def _line(task: str, opening: str, examples: Sequence[Question], asked: Question) -> str:
    messages = []
    for example in examples:
        messages.append({"role": "user", "content": example.text})
        messages.append({"role": "assistant", "content": example.answer})
    messages.append({"role": "user", "content": asked.text})
    messages[0]["content"] = f"{opening}\n\n{messages[0]['content']}"
    item = {
        "id": f"{task}-{_sha(task, asked.source)[:_ID_DIGITS]}",
        "messages": messages,
        "expected": asked.expected,
        "metadata": {"task": task},
    }
    return json.dumps(item, ensure_ascii=False) + "\n"


def _letter(at: int) -> str:
    return chr(ord("A") + at)


def _sha(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
