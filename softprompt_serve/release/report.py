"""Everything a reviewer needs to sign for a version, composed from what a server answers. Pure.

``softprompt-serve report`` fetches, :func:`compose` decides what is said, ``report_render.py``
writes it down. The same sources give the same report, to the byte: the time is one of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.release.evidence import Base
from softprompt_serve.release.policy import parse_policy
from softprompt_serve.release.report_contest import contest_of, demands_of
from softprompt_serve.release.report_costs import tolls
from softprompt_serve.release.report_data import Fact, GateRow, ReportData
from softprompt_serve.release.report_proofs import proofs
from softprompt_serve.release.report_results import boards, runs_behind
from softprompt_serve.release.report_story import (
    history,
    label_of,
    lineage,
    policy_facts,
    training_curves,
    training_facts,
    what_it_is,
)
from softprompt_serve.release.report_words import plain, when

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.release.evidence import Run
    from softprompt_serve.release.policy import Policy
    from softprompt_serve.release.report_contest import Contest
    from softprompt_serve.release.report_data import Board, Event, Toll

    Data = Mapping[str, Any]

MOST_EVENTS: Final = 60
"""Changes that are listed; how many more there are is said."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a report is made of, as the API answers it.

    Attributes:
        version: ``GET /prompts/{name}/versions/{version}``.
        versions: all of the prompt's, as ``GET /prompts/{name}`` lists them.
        runs: the prompt's evidence.
        policy: ``GET /prompts/{name}/policy``, or None if the server has no such thing.
        verdict: ``GET …/versions/{version}/gates``, or None if nobody could judge.
        unjudged: why nobody could, or "".
        server: ``GET /server``.
        audit: the prompt's changes, newest first.
        now: Unix time.
    """

    version: Data
    versions: Sequence[Data]
    runs: Sequence[Run]
    policy: Data | None
    verdict: Data | None
    server: Data
    audit: Sequence[Data]
    now: float
    unjudged: str = ""


def compose(sources: Sources) -> ReportData:
    """The whole report.

    Raises:
        BadRequest: ``invalid_policy``: the policy is none that this version of the package knows.
    """
    version, record, verdict = sources.version, sources.version["record"], sources.verdict
    document = (sources.policy or {}).get("policy")
    policy = None if document is None else parse_policy(document)
    contest = _contest(sources, policy)
    found = boards(contest, demands_of(policy, contest))
    results, anchors = _parted(found, policy, contest.runs)
    costs, cost_run = _costs(contest)
    passed, line = _verdict(version, verdict, sources.unjudged)
    events = history(version, sources.audit)
    return ReportData(
        label=label_of(version),
        digest=version["digest"],
        passed=passed,
        verdict=line,
        warnings=_warnings(verdict, found, events),
        generated=_generated(sources),
        what=what_it_is(version, sources.server),
        text=version["text"],
        gates=_gates(verdict),
        baseline=contest.baseline,
        policy=policy_facts(sources.policy),
        results=results,
        anchors=anchors,
        tolls=costs,
        toll_note=_toll_note(cost_run),
        toll_limit=None if policy is None or policy.latency is None else policy.latency.p99_seconds,
        training=training_facts(record),
        missing=tuple(version["record_missing"]),
        curves=training_curves(record),
        notes=record.get("notes"),
        lineage=lineage(version, sources.versions),
        proofs=proofs(
            runs_behind(contest.runs, found, cost_run),
            digests=contest.digests,
            objection=contest.case.objection,
            now=sources.now,
        ),
        history=events[:MOST_EVENTS],
        older=max(0, len(events) - MOST_EVENTS),
    )


def _contest(sources: Sources, policy: Policy | None) -> Contest:
    served = sources.server.get("base_model") or {}
    return contest_of(
        sources.version,
        sources.versions,
        policy,
        sources.runs,
        served=Base(**{field.name: served.get(field.name) for field in fields(Base)}),
        now=sources.now,
    )


def _parted(
    found: Sequence[Board], policy: Policy | None, runs: Sequence[Run]
) -> tuple[tuple[Board, ...], tuple[Board, ...]]:
    """What is to be won, and what is to be held: named so by the policy, or published as means."""
    win = {(it.dataset, it.evaluator) for it in (policy.win if policy is not None else ())}
    hold = {it.dataset for it in (policy.hold if policy is not None else ())}
    hold |= {run.dataset for run in runs if run.totals and not run.scores}

    def anchors(board: Board) -> bool:
        return (board.dataset, board.evaluator) not in win and board.dataset in hold

    return (
        tuple(board for board in found if not anchors(board)),
        tuple(board for board in found if anchors(board)),
    )


def _verdict(version: Data, verdict: Data | None, unjudged: str) -> tuple[bool | None, str]:
    if verdict is None:
        return None, f"Not judged{f': {unjudged}' if unjudged else ''}"
    gates = verdict["gates"]
    failed = sum(not gate["passed"] for gate in gates)
    if verdict["passed"]:
        every = "its one gate" if len(gates) == 1 else f"all {len(gates)} gates"
        return True, f"May be promoted: {every} passed"
    if not verdict.get("asked", True):
        so_far = f"; {failed} of {len(gates)} would have failed" if failed else ""
        return True, f"May be promoted: no gate is asked of a {version['kind']} version{so_far}"
    return False, f"May not be promoted: {failed} of {len(gates)} gates failed"


def _gates(verdict: Data | None) -> tuple[GateRow, ...]:
    """Failed gates first, otherwise in the verdict's order."""
    rows = [
        GateRow(
            name=gate["name"],
            passed=gate["passed"],
            found=gate["found"],
            wanted=gate["wanted"],
            hint=gate["hint"],
        )
        for gate in (verdict or {}).get("gates", ())
    ]
    return tuple(sorted(rows, key=lambda row: row.passed))


def _warnings(
    verdict: Data | None, found: Sequence[Board], events: Sequence[Event]
) -> tuple[str, ...]:
    """The verdict's; a weak baseline that only the boards show; each time the gates were passed by."""
    said = list((verdict or {}).get("warnings", ()))
    told = set(re.findall(r"[a-z0-9._-]+", " ".join(said)))
    stronger = {row.version: board for board in found for row in board.rows if row.stronger}
    said += [
        f"Weak baseline: the hard version {name} scores higher than the named baseline, "
        f"{board.evaluator} on {board.dataset}."
        for name, board in sorted(stronger.items())
        if name not in told
    ]
    said += [
        f"{event.action} {event.subject} was forced past the gates at {event.at} by "
        f"{event.actor or 'nobody who is recorded'}: {event.detail}."
        for event in events
        if event.forced
    ]
    return tuple(said)


def _generated(sources: Sources) -> tuple[Fact, ...]:
    server = sources.server
    return (
        Fact("generated at", when(sources.now)),
        Fact("by", f"softprompt-serve {server['softprompt_serve']}, {server['vllm']}"),
        Fact("catalogue revision", plain(server["catalogue_revision"])),
    )


def _costs(contest: Contest) -> tuple[tuple[Toll, ...], Run | None]:
    """From one run: with the baseline if there is one, and one that counts before others."""
    candidate, baseline = contest.candidate, contest.baseline
    timed = [
        run
        for run in contest.runs
        if contest.knows(run, candidate) and any(a.version == candidate for a in run.answers)
    ]
    both = (run for run in timed if baseline is not None and contest.knows(run, baseline))
    run = next(both, timed[0] if timed else None)
    if run is None:
        return (), None
    names = sorted(name for name in run.digests if contest.knows(run, name))
    # The base model has no role in a comparison, but it is what all the others are added to.
    bare = {name: "base" for name in names if contest.kinds.get(name) == "base"}
    return tolls(
        run, names, {name: contest.role(name) or bare.get(name, "") for name in names}
    ), run


def _toll_note(run: Run | None) -> str:
    if run is None:
        return ""
    return f"From run {run.id[:8]} on {run.dataset}, {when(run.at)}, as its client saw it."
