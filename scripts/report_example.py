"""An example for the picture in ``docs/pictures`` and for tests: a version that is nearly there.

Everything in it is made up, seeded, and goes through the real judgement: ``support@v4`` beats the
baseline ``v1`` clearly but hurts one protected cohort, and a better text than ``v1`` exists.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.release.evidence import Answer, Base, Run, Score, Total
from softprompt_serve.release.gates import judge
from softprompt_serve.release.policy import parse_policy
from softprompt_serve.release.report import Sources
from softprompt_serve.release.verdict import Subject, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW: Final = 1_795_600_800.0
"""25 November 2026, 10:00 UTC."""

HOUR: Final = 3_600.0
PROMPT: Final = "support"
SERVED: Final = Base(
    name="HuggingFaceTB/SmolLM2-135M-Instruct",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    fingerprint=hashlib.sha256(b"weights").hexdigest(),
    tokenizer_fingerprint=hashlib.sha256(b"tokenizer").hexdigest(),
    chat_template_sha256=hashlib.sha256(b"template").hexdigest(),
)
KINDS: Final = {
    "v0": "base",
    "v1": "hard",
    "v1b": "hard",
    "v2": "soft",
    "v3": "soft",
    "v4": "soft",
}
POLICY: Final[dict[str, Any]] = {
    "baseline": "v1",
    "win": [{"evaluator": "exact_match", "dataset": "support-test", "margin": 0.05}],
    "hold": [
        {"evaluator": "exact_match", "dataset": "support-ood", "max_drop": 0.02},
        {
            "evaluator": "mmlu_pro/exact_match",
            "dataset": "mmlu_pro",
            "max_drop": 0.02,
            "against": "base",
        },
    ],
    "cohorts": {"protected": ["regulated", "multilingual", "tool_calling"]},
    "latency": {"p99_seconds": 2.0, "max_ratio": 1.1},
    "cost": {"max_ratio": 1.0},
}
_COHORTS: Final = {"default": 400, "regulated": 160, "multilingual": 120, "tool_calling": 140}
_RIGHT: Final = {
    "v0": (0.02, {}),
    "v1": (0.55, {"multilingual": 0.62}),
    "v1b": (0.63, {"multilingual": 0.60}),
    "v2": (0.66, {"multilingual": 0.57}),
    "v3": (0.73, {"multilingual": 0.55}),
    "v4": (0.81, {"multilingual": 0.53, "regulated": 0.79, "tool_calling": 0.74}),
}
_OOD: Final = {"v0": 0.02, "v1": 0.44, "v1b": 0.47, "v2": 0.50, "v3": 0.57, "v4": 0.61}
_VISIBLE: Final = {"v0": 46.0, "v1": 472.0, "v1b": 611.0}


def digest_of(version: str) -> str:
    """A stand-in for the digest of a version's content."""
    return hashlib.sha256(version.encode()).hexdigest()


def sources(**changes: Any) -> Sources:
    """What the example's report is made of; ``changes`` replace fields of :class:`Sources`."""
    runs = (_benchmark(), _run("support-ood", 3.0, _ood()), _run("support-test", 2.0, _test()))
    versions = [_version(name) for name in KINDS]
    given: dict[str, Any] = {
        "version": versions[-1],
        "versions": versions,
        "runs": runs,
        "policy": {
            "prompt": PROMPT,
            "policy": parse_policy(POLICY).to_json(),
            "default": False,
            "tag": "5f0c2a1b9d3e4f60",
            "updated_at": "2026-11-25T08:03:11Z",
            "updated_by": "ci",
        },
        "verdict": verdict(runs),
        "server": {
            "softprompt_serve": "0.6.0",
            "vllm": "vllm 0.32.0",
            "base_model": asdict(SERVED),
            "catalogue_revision": 41,
        },
        "audit": _audit(),
        "now": NOW,
    }
    return Sources(**given | changes)


def verdict(runs: tuple[Run, ...]) -> dict[str, Any]:
    """The real judgement about the example's runs, as the API answers it."""
    subjects = {name: Subject(name, kind, digest_of(name)) for name, kind in KINDS.items()}  # type: ignore[arg-type]
    judged = judge(
        parse_policy(POLICY),
        subjects["v4"],
        subjects["v1"],
        runs,
        served=SERVED,
        now=NOW,
        versions=tuple(subjects.values()),
        prompt=PROMPT,
    )
    return to_json(judged)


def _run(dataset: str, hours: float, found: tuple[tuple[Score, ...], tuple[Answer, ...]]) -> Run:
    scores, answers = found
    return Run(
        id=hashlib.sha256(dataset.encode()).hexdigest()[:32],
        prompt=PROMPT,
        dataset=dataset,
        dataset_sha256=hashlib.sha256(f"items of {dataset}".encode()).hexdigest(),
        digests={name: digest_of(name) for name in KINDS},
        evaluators={"exact_match": "1"},
        base=SERVED,
        at=NOW - hours * HOUR,
        sampling={"temperature": 0, "max_tokens": 8, "seed": 1},
        actor="ci",
        scores=scores,
        answers=answers,
    )


def _test() -> tuple[tuple[Score, ...], tuple[Answer, ...]]:
    items = [(f"{cohort}-{n}", cohort) for cohort, count in _COHORTS.items() for n in range(count)]
    return _asked(items, lambda version, cohort: _RIGHT[version][1].get(cohort, _RIGHT[version][0]))


def _ood() -> tuple[tuple[Score, ...], tuple[Answer, ...]]:
    items = [(f"ood-{n}", "default") for n in range(640)]
    return _asked(items, lambda version, _: _OOD[version])


def _asked(
    items: list[tuple[str, str]], chance: Any
) -> tuple[tuple[Score, ...], tuple[Answer, ...]]:
    """Every version on every item; an item is as hard for one version as for another."""
    dice = random.Random(7)  # noqa: S311 - seeded, so that the picture stays as it is
    scores: list[Score] = []
    answers: list[Answer] = []
    for item, cohort in items:
        hard = dice.random()
        for version in KINDS:
            own = 0.75 * hard + 0.25 * dice.random()
            right = own < chance(version, cohort)
            scores.append(Score(item, version, cohort, "exact_match", float(right), right))
            answers.append(_answer(dice, item, version, cohort))
    return tuple(scores), tuple(answers)


def _answer(dice: random.Random, item: str, version: str, cohort: str) -> Answer:
    visible = round(_VISIBLE.get(version, 46.0) + dice.uniform(-12, 40))
    virtual = 20 if KINDS[version] == "soft" else 0
    ttft = 0.05 + 0.0004 * (visible + virtual) * dice.lognormvariate(0.0, 0.35)
    output = dice.choice((2, 2, 2, 3, 4))
    return Answer(
        item,
        version,
        cohort,
        ttft_seconds=ttft,
        e2e_seconds=ttft + 0.055 * output * dice.lognormvariate(0.0, 0.3),
        visible_tokens=visible,
        virtual_tokens=virtual,
        output_tokens=output,
        cost_usd=(visible + virtual) * 1.5e-7 + output * 6e-7,
    )


def _benchmark() -> Run:
    """What a public harness found, imported."""
    means = {"v0": 0.1172, "v1": 0.1094, "v4": 0.1151}
    return Run(
        id=hashlib.sha256(b"mmlu_pro").hexdigest()[:32],
        prompt=PROMPT,
        dataset="mmlu_pro",
        dataset_sha256=hashlib.sha256(b"items of mmlu_pro").hexdigest(),
        digests={name: digest_of(name) for name in means},
        evaluators={"mmlu_pro/exact_match": "lm-eval 0.4.9"},
        base=SERVED,
        at=NOW - 30 * HOUR,
        source="lm-eval",
        sampling={"num_fewshot": 5},
        actor="grace",
        totals=tuple(
            Total(name, "mmlu_pro/exact_match", mean, 0.0029, 12_032)
            for name, mean in means.items()
        ),
    )


def _version(name: str) -> dict[str, Any]:
    kind = KINDS[name]
    record = _record(name)
    expected = ("dataset", "base_model", "method", "seed", "training_code", "created_by")
    return {
        "prompt": PROMPT,
        "version": name,
        "digest": digest_of(name),
        "kind": kind,
        "virtual_tokens": 20 if kind == "soft" else 0,
        "hidden_size": 576 if kind == "soft" else 0,
        "dtype": "float32" if kind == "soft" else None,
        "text": "Sort the customer's ticket. Answer with one word." if kind == "hard" else None,
        "state": "resident",
        "reason": None,
        "aliases": {"v3": ["production"], "v4": ["candidate"]}.get(name, []),
        "created_at": "2026-11-24T16:12:40.120Z",
        "created_by": "ada",
        "record": record,
        "record_missing": [field for field in expected if record[field] is None],
    }


def _record(name: str) -> Mapping[str, Any]:
    soft = KINDS[name] == "soft"
    curve = [
        {"step": step, "loss": loss, **({"eval_loss": loss * 0.9 + 0.16} if step % 40 == 0 else {})}
        for step in range(0, 481, 10)
        for loss in [round(0.41 + 2.6 * 0.985**step + 0.05 * ((step * 7) % 5) / 5, 4)]
    ]
    return {
        "dataset": "tickets-2026-11" if soft else None,
        "dataset_version": "3" if soft else None,
        "dataset_sha256": digest_of("tickets") if soft else None,
        "base_model": SERVED.name,
        "base_model_revision": SERVED.revision,
        "base_model_fingerprint": SERVED.fingerprint,
        "tokenizer_fingerprint": SERVED.tokenizer_fingerprint,
        "chat_template_sha256": SERVED.chat_template_sha256,
        "method": "prompt_tuning" if soft else "hand_written",
        "optimizer": {"name": "AdamW", "learning_rate": 0.02, "batch_size": 8} if soft else None,
        "seed": 4 if soft else None,
        "init": {"v2": "text: Sort this support ticket", "v3": "rows of v2"}.get(name, "rows of v3")
        if soft
        else None,
        "training_code": None if name == "v4" else "acme/prompts@4f1c2aa",
        "training_curve": curve if name == "v4" else None,
        "trained_from": {"v3": "support@v2", "v4": "support@v3"}.get(name),
        "metrics": {"train_loss": 0.43} if soft else None,
        "notes": "All tickets of the quarter, half of them with typos." if name == "v4" else None,
        "created_by": "ada",
    }


def _audit() -> list[dict[str, Any]]:
    changes = (
        (41, "2026-11-25T08:03:11Z", "ci", "policy.set", "policy", {"baseline": "v1"}),
        (38, "2026-11-24T16:14:02Z", "ada", "alias.set", "candidate", {"version": "v4"}),
        (37, "2026-11-24T16:12:40Z", "ada", "version.imported", "v4", {"kind": "soft"}),
        (
            29,
            "2026-11-20T09:41:55Z",
            "linus",
            "alias.set",
            "production",
            {
                "version": "v3",
                "previous": "v2",
                "forced": True,
                "reason": "INC-2117: v2 answers in the wrong language",
            },
        ),
    )
    return [
        {
            "id": number,
            "revision": number,
            "at": at,
            "actor": actor,
            "action": action,
            "prompt": PROMPT,
            "subject": subject,
            "detail": detail,
        }
        for number, at, actor, action, subject, detail in changes
    ]
