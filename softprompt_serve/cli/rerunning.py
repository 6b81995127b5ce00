"""One rerun: ask again what a stored run asked, keep it as evidence, compare, do what follows."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.artifact.content import LEARNED
from softprompt_serve.cli import evaluating, remedies
from softprompt_serve.cli.client import prompt_path, rollout_path
from softprompt_serve.cli.drift_report import Compared, Found
from softprompt_serve.cli.stored_runs import Stored
from softprompt_serve.errors import BadRequest, Conflict, SoftpromptError
from softprompt_serve.evaluation.evaluators import evaluators_of
from softprompt_serve.evaluation.replies import base_of, targets_of
from softprompt_serve.evaluation.results import Results
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.release.policy import BASELINE, Policy, Watch, parse_policy
from softprompt_serve.release.regression import same_base, shifts_of
from softprompt_serve.release.retirement import leads_of
from softprompt_serve.release.shift import adjusted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from softprompt_serve.cli.client import Api
    from softprompt_serve.cli.evaluation_options import Judging
    from softprompt_serve.cli.session import Session
    from softprompt_serve.evaluation.dataset import Dataset
    from softprompt_serve.evaluation.replies import Target
    from softprompt_serve.release.evidence import Base, Run

MAX_TOKENS: Final = 256
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Ask:
    """What is rerun, as the options say.

    Attributes:
        prompt: whose versions.
        versions: names or aliases; none for what the prompt serves now, and the baseline.
        datasets: the items.
        evaluators: as of ``eval run``; none for those of the stored run.
        judging: who judges.
        sampling: what requests are sent with; None for the stored run's.
        asking: how the endpoint is asked.
        reference: the run that a rerun is held against, or None to find it.
        folder: where answers are kept.
    """

    prompt: str
    versions: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    evaluators: tuple[str, ...]
    judging: Judging
    sampling: Mapping[str, Any] | None
    asking: evaluating.Asking
    reference: str | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Scene:
    """What a rerun meets on the server.

    Attributes:
        server, prompt: of ``GET /server`` and of ``GET /prompts/{name}``.
        policy: what holds for the prompt, or None.
        targets: the versions that are asked.
        baseline: the version that the policy's baseline stands for, or None.
    """

    server: Mapping[str, Any]
    prompt: Mapping[str, Any]
    policy: Policy | None
    targets: tuple[Target, ...]
    baseline: str | None

    @classmethod
    def of(cls, api: Api, ask: Ask) -> Scene:
        """Read it.

        Raises:
            BadRequest: ``no_production``: there is nothing to watch by itself; or a version is
                named twice.
            NotFound: ``version_not_found``.
            ApiError, Unreachable: from the server.
        """
        server = api.get("/server").data
        prompt = api.get(prompt_path(ask.prompt)).data
        held = api.get(f"{prompt_path(ask.prompt)}/policy").data["policy"]
        policy = None if held is None else parse_policy(held)
        baseline = None if policy is None else _version(prompt, policy.baseline)
        names = [
            baseline if name == BASELINE and baseline and _version(prompt, name) is None else name
            for name in ask.versions
        ] or _served_now(prompt, baseline)
        targets = targets_of(prompt, server, names)
        return cls(server, prompt, policy, targets, baseline)

    @property
    def served(self) -> Base:
        """The base model."""
        return base_of(self.server)

    @property
    def digests(self) -> dict[str, str]:
        """Of the versions that are asked."""
        return {target.version: target.digest for target in self.targets}

    @property
    def watch(self) -> Watch:
        """What the policy says of reruns."""
        return Watch() if self.policy is None else self.policy.watch


def is_due(session: Session, ask: Ask) -> bool:
    """Whether these versions were never asked some data set on the served base model; reads alone.

    Raises:
        SoftpromptError: as :func:`rerun`, before anything is asked.
    """
    scene = Scene.of(session.api, ask)
    for dataset in ask.datasets:
        runs = Stored.of(session.api, ask.prompt, dataset).runs
        asked = [run.digests.items() for run in runs if same_base(run.base, scene.served)]
        if not any(scene.digests.items() <= digests for digests in asked):
            return True
    return False


def rerun(session: Session, ask: Ask) -> Found:
    """Ask, score and keep every data set, compare what there is to compare, and act by the policy.

    Raises:
        Aborted, Unreachable, ApiError: a later call goes on from what was answered.
        Conflict: ``base_changed``: another base model answers than when the rerun began.
        SoftpromptError: what can't be asked, scored or compared.
    """
    scene = Scene.of(session.api, ask)
    stored = [Stored.of(session.api, ask.prompt, dataset) for dataset in ask.datasets]
    plans = [_plan(session, ask, scene, one) for one in stored]
    compared = []
    for one, plan in zip(stored, plans, strict=True):
        made = _made(session, ask, plan)
        compared.append(Compared(made, one.reference(session.api, made, ask.reference)))
    found = _weighed(scene, compared)
    return _acted(session, ask, scene, found)


def _plan(session: Session, ask: Ask, scene: Scene, stored: Stored) -> evaluating.Plan:
    before = stored.latest(scene.digests, scene.served)
    options = ask.judging.options(session, ask.asking.key)
    sampling = ask.sampling if before is None or ask.sampling is not None else before.sampling
    if sampling is None:
        sampling = evaluating.sampling_of(0.0, 0, MAX_TOKENS, None)
    return evaluating.plan_of(
        session.api,
        ask.prompt,
        [target.version for target in scene.targets],
        dataset=stored.dataset,
        evaluators=evaluators_of(ask.evaluators, options)
        if ask.evaluators
        else stored.evaluators(before, options),
        sampling=dict(sampling),
    )


def _made(session: Session, ask: Ask, plan: evaluating.Plan) -> Run:
    """The run, from where a former one was stopped; uploaded when this returns."""
    dataset = re.sub(r"[^\w.-]+", "-", plan.heading.dataset)
    path = ask.folder / f"{ask.prompt}-{dataset}-watch.jsonl"
    with _opened(session, plan, path) as results:
        if results.replies:
            session.note(f"{path} has {len(results.replies)} answers already; going on from there.")
        asyncio.run(evaluating.ask_all(session.api.url, plan, results, ask.asking))
        made = results.run()
    if not same_base(base_of(session.api.get("/server").data), made.base):
        path.replace(path.with_suffix(".old.jsonl"))
        msg = "Another base model is served than when the rerun began; its answers don't count."
        raise Conflict(msg, code="base_changed")
    evaluating.upload(session.api, made, evaluating.keep(made, evaluating.run_path(path)))
    path.replace(path.with_suffix(".last.jsonl"))  # the next rerun asks everything again
    return made


def _opened(session: Session, plan: evaluating.Plan, path: Path) -> Results:
    """The results to go on from; those of another rerun, that can't go on, are put aside."""
    try:
        return Results.open(path, plan.heading)
    except Conflict as error:
        if error.code != "run_differs":
            raise
        aside = path.with_suffix(".old.jsonl")
        path.replace(aside)
        session.note(f"{error.message} It was put aside as {aside}.")
        return Results.open(path, plan.heading)


def _weighed(scene: Scene, compared: list[Compared]) -> Found:
    """What has shifted, all data sets taken together, and which leads there are."""
    confidence = scene.watch.confidence
    versions = [target.version for target in scene.targets]
    shifts = adjusted(
        [
            shift
            for one in compared
            if one.reference is not None
            for shift in shifts_of(
                one.reference, one.made, versions, list(one.made.evaluators), confidence
            )
        ],
        confidence,
    )
    kinds = {version["version"]: version["kind"] for version in scene.prompt["versions"]}
    runs = [one.made for one in compared]
    policy, baseline = scene.policy, scene.baseline
    leads = {
        version: leads_of(policy, runs, version, baseline)
        for version in versions
        if policy is not None and baseline in versions and kinds[version] in LEARNED
    }
    return Found(tuple(compared), scene.watch, shifts, leads, baseline)


def _acted(session: Session, ask: Ask, scene: Scene, found: Found) -> Found:
    """Do what the policy has done; what was found is shown even if that fails."""
    if scene.policy is None or not found.shifted:
        return found
    run = found.compared[0].made.id
    for left in reversed(range(_TRIES)):
        rollout = session.api.get(rollout_path(ask.prompt)).data
        remedy = remedies.remedy_of(scene.policy, scene.baseline, found.shifts, rollout, run)
        if remedy is None:
            break
        try:
            remedies.carry_out(session.api, ask.prompt, remedy, rollout["generation"])
        except SoftpromptError as error:
            if error.code == "stale_generation" and left:  # somebody else changed it meanwhile
                continue
            return found.with_remedy(remedy, error.message)
        return found.with_remedy(remedy)
    return found


def _version(prompt: Mapping[str, Any], name: str) -> str | None:
    """The version that a name stands for, or None."""
    version = prompt["aliases"].get(name, name)
    there = {version["version"] for version in prompt["versions"]}
    return version if version in there else None


def _served_now(prompt: Mapping[str, Any], baseline: str | None) -> list[str]:
    production = prompt["aliases"].get(PRODUCTION)
    if production is None:
        msg = f"{prompt['name']} has no alias {PRODUCTION}; say with --versions whom to watch."
        raise BadRequest(msg, code="no_production", param="versions")
    return list(dict.fromkeys(name for name in (production, baseline) if name is not None))
