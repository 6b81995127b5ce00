"""Whether a version could be promoted now: its prompt's policy held against what is stored.

Reads alone. Blocking: call it in a thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from softprompt_serve.registry.evidence import Evidence
from softprompt_serve.registry.policies import Policies
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.release.gates import Subject, Verdict, judge
from softprompt_serve.release.guarding import asks, default_policy

if TYPE_CHECKING:
    from softprompt_serve.registry.policies import Stored
    from softprompt_serve.registry.snapshot import Prompt, Version
    from softprompt_serve.release.policy import Policy
    from softprompt_serve.server.service import Service

DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class InForce:
    """What is asked of a prompt's versions.

    Attributes:
        stored: the policy that somebody has set, if anybody has.
        policy: that one, else the default, which is None for a prompt without learned versions.
    """

    stored: Stored
    policy: Policy | None

    @property
    def default(self) -> bool:
        """Whether nobody has set it."""
        return self.policy is not None and self.stored.policy is None


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said of a version.

    Attributes:
        version: the version.
        held: what it was held against.
        verdict: gate by gate; without gates where there is no policy.
        asked: whether ``production`` can't be moved to it without passing.
    """

    version: Version
    held: InForce
    verdict: Verdict
    asked: bool

    @property
    def promotable(self) -> bool:
        """Whether it could be promoted now."""
        return not self.asked or self.verdict.passed


def in_force(service: Service, prompt: Prompt) -> InForce:
    """The policy that holds for a prompt now.

    Raises:
        Unavailable: ``catalogue_unavailable``.
    """
    stored = Policies(service.catalogue.database).get(prompt.name)
    if stored.policy is not None:
        return InForce(stored, stored.policy)
    subjects = [_subject(version) for version in prompt.versions.values()]
    return InForce(stored, default_policy(subjects, prompt.aliases))


def judged(service: Service, prompt: Prompt, version: Version) -> Judged:
    """Hold the policy in force against the evidence of a version.

    Raises:
        Unavailable: ``catalogue_unavailable``.
    """
    held, candidate, now = in_force(service, prompt), _subject(version), time.time()
    if held.policy is None:
        return Judged(version, held, Verdict(candidate, None, ()), asked=False)
    found = prompt.find(held.policy.baseline)
    baseline = None if found is None else _subject(found)
    runs = Evidence(service.catalogue.database).weighed(
        prompt.name,
        {subject.name for subject in (candidate, baseline) if subject is not None},
        since=now - held.policy.max_age_days * DAY,
    )
    verdict = judge(
        held.policy,
        candidate,
        baseline,
        runs,
        served=service.served.identity,
        now=now,
        versions=[_subject(one) for one in prompt.versions.values()],
        declared=service.labels.cohorts,
        prompt=prompt.name,
    )
    asked = asks(held.policy, PRODUCTION, candidate, baseline=baseline)
    return Judged(version, held, verdict, asked=asked)


def _subject(version: Version) -> Subject:
    return Subject.of(version.version, version.kind, version.digest, loaded=version.wanted)
