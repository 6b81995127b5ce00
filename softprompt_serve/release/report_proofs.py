"""The runs that a report rests on, and what speaks against each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softprompt_serve.release.report_data import Fact, Proof
from softprompt_serve.release.report_words import age, plain, when

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from softprompt_serve.release.evidence import Run


def proofs(
    runs: Iterable[Run],
    *,
    digests: Mapping[str, str],
    objection: Callable[[Run], str | None],
    now: float,
) -> tuple[Proof, ...]:
    """One for each run, newest first.

    Args:
        runs: those that something in the report is from.
        digests: version → its digest in the catalogue.
        objection: why a gate would not look at a run, or None.
        now: Unix time.
    """
    ranked = sorted(runs, key=lambda run: (-run.at, run.id))
    return tuple(_proof(run, digests, objection(run), now) for run in ranked)


def _proof(run: Run, digests: Mapping[str, str], why: str | None, now: float) -> Proof:
    objections = [] if why is None else [f"It {why}."]
    return Proof(
        id=run.id,
        source=run.source,
        at=when(run.at),
        age=age(now - run.at),
        actor=run.actor,
        dataset=run.dataset,
        dataset_sha256=run.dataset_sha256,
        versions=tuple(Fact(n, d, exact=True) for n, d in sorted(run.digests.items())),
        evaluators=tuple(Fact(n, v) for n, v in sorted(run.evaluators.items())),
        sampling=tuple(_said(run.sampling)),
        base=(
            Fact("name", run.base.name),
            Fact("revision", run.base.revision, exact=True),
            Fact("weights", run.base.fingerprint, exact=True),
            Fact("tokenizer", run.base.tokenizer_fingerprint, exact=True),
            Fact("chat template", run.base.chat_template_sha256, exact=True),
        ),
        objections=(*objections, *_other_content(run, digests)),
    )


def _said(sampling: Mapping[str, Any]) -> Iterable[Fact]:
    return (Fact(name, plain(value)) for name, value in sorted(sampling.items()))


def _other_content(run: Run, digests: Mapping[str, str]) -> Iterable[str]:
    for name, digest in sorted(run.digests.items()):
        if name in digests and digests[name] != digest:
            yield f"{name} had another content then, so what it says of {name} is left out."
