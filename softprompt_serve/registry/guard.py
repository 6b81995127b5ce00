"""The gate before promotions, inside the transaction that makes one.

Whether a version may be promoted takes evidence, which is read before and outside: who has judged it
hands in a :class:`Pass`. Here is checked that the pass is for this very content under the very policy
that is in force, so that nothing can change in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from softprompt_serve.errors import Conflict
from softprompt_serve.registry.lookup import aliases_of
from softprompt_serve.registry.policies import stored_policy, tag_of
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.registry.states import ROLLED_BACK, only_arm
from softprompt_serve.registry.tables import RolloutHistoryRow
from softprompt_serve.release.guarding import asks, default_policy
from softprompt_serve.release.verdict import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.standing import Standing
    from softprompt_serve.registry.states import Next
    from softprompt_serve.registry.tables import VersionRow


@dataclass(frozen=True, slots=True)
class Pass:
    """A version was judged, or somebody took the responsibility.

    Attributes:
        version: the version's name.
        digest: of its content.
        tag: of the policy that it was held against.
        failed: names of the gates that it failed; only where it was forced.
        reason: why it was forced, or None if it passed.
    """

    version: str
    digest: str
    tag: str
    failed: tuple[str, ...] = ()
    reason: str | None = None

    def told(self) -> dict[str, Any]:
        """What the audit says of it."""
        if self.reason is None:
            return {"gates": "passed", "policy": self.tag}
        return {
            "gates": "forced",
            "policy": self.tag,
            "failed": self.failed,
            "forced": self.reason,
        }


class Ungranted(Exception):
    """A change would promote a version for which no valid pass was handed in; nothing was changed.

    Between the registry and whoever can judge; no caller of the API sees it.
    """

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version


def check_alias(
    session: Session,
    prompt: str,
    *,
    alias: str,
    version: str,
    rows: Mapping[str, VersionRow],
    aliases: Mapping[str, str],
    granted: Pass | None,
) -> dict[str, Any]:
    """Whether an alias may be moved to a version; returns what the audit shall say of it.

    Raises:
        Ungranted: a verdict is needed, and ``granted`` is none for this.
    """
    subjects = {
        row.name: Subject.of(row.name, row.kind, row.digest, loaded=row.wanted)
        for row in rows.values()
    }
    policy = stored_policy(session, prompt).policy or default_policy(
        list(subjects.values()), aliases
    )
    if policy is None:
        return {}
    candidate = subjects[version]
    baseline = subjects.get(aliases.get(policy.baseline, policy.baseline))
    held = _held(session, prompt) if alias == PRODUCTION and not candidate.learned else ()
    if not asks(policy, alias, candidate, baseline=baseline, held=held):
        return {}
    if granted is None or granted != Pass(
        version, candidate.digest, tag_of(policy), granted.failed, granted.reason
    ):
        raise Ungranted(version)
    return granted.told()


def check_next(
    session: Session, standing: Standing, new: Next, granted: Pass | None
) -> dict[str, Any]:
    """The same for a rollout's next state: who gets ``production``, or all of the split, is promoted.

    Going back is never asked for evidence.

    Raises:
        Ungranted: a verdict is needed, and ``granted`` is none for this.
    """
    if new.action == ROLLED_BACK:
        return {}
    told: dict[str, Any] = {}
    whole = only_arm(new.weights)
    promoted = {
        version
        for version, before in ((new.production, standing.production), (whole, standing.only_arm))
        if version is not None and version not in {before, standing.production}
    }
    for version in sorted(promoted):
        told |= check_alias(
            session,
            standing.prompt,
            alias=PRODUCTION,
            version=version,
            rows=standing.rows,
            aliases=standing.names.aliases,
            granted=granted,
        )
    return told


def check_not_baseline(session: Session, prompt: str, version: str) -> None:
    """Refuse to take away what a prompt's versions are measured against.

    Raises:
        Conflict: ``version_is_baseline``.
    """
    policy = stored_policy(session, prompt).policy
    if policy is None:
        return
    aliases = {alias.name: alias.version for alias in aliases_of(session, prompt)}
    if aliases.get(policy.baseline, policy.baseline) == version:
        msg = (
            f"{prompt}@{version} is the baseline of the prompt's policy; name another one there, or "
            "remove the policy, first."
        )
        raise Conflict(msg, code="version_is_baseline", param="version")


def _held(session: Session, prompt: str) -> set[str]:
    """Versions that ``production`` has stood for."""
    query = select(RolloutHistoryRow.production).where(RolloutHistoryRow.prompt == prompt)
    return {name for name in session.scalars(query.distinct()) if name is not None}
