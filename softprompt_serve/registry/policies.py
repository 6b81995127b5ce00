"""Policies in the catalogue: what each prompt asks of a version before it is promoted.

Each change is one transaction, one step of the revision and one audit row, which keeps the whole
document: what a promotion was held against can be read later.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import BadRequest, Stale
from softprompt_serve.registry.audit import Change, step
from softprompt_serve.registry.lookup import aliases_of, live_versions
from softprompt_serve.registry.policy_tables import PolicyRow
from softprompt_serve.registry.tables import now, to_json
from softprompt_serve.release.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.database import Database
    from softprompt_serve.registry.tables import VersionRow

NO_POLICY: Final = "none"
"""The tag of a prompt that has no policy."""

SUBJECT: Final = "policy"
_TAG_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Stored:
    """A prompt's policy as it is now.

    Attributes:
        policy: the policy, or None if nobody has set one.
        updated_at: RFC 3339, UTC; None without a policy.
        updated_by: who set it, or None.
    """

    policy: Policy | None
    updated_at: str | None = None
    updated_by: str | None = None

    @property
    def tag(self) -> str:
        """Names this very policy: whoever sends it along changes that one or nothing."""
        return tag_of(self.policy)


def tag_of(policy: Policy | None) -> str:
    """The first digits of the SHA-256 of a policy's JSON; the same on every server."""
    if policy is None:
        return NO_POLICY
    return hashlib.sha256(to_json(policy.to_json()).encode()).hexdigest()[:_TAG_DIGITS]


class Policies:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``).

    Those that change something raise ``NotFound`` (``prompt_not_found``), and ``Stale``
    (``stale_policy``) where ``if_match`` is neither None nor the present policy's tag.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, prompt: str) -> Stored:
        """The policy as it is now; also of a prompt that does not exist."""
        with self._database.reading() as session:
            return _stored(session, prompt)

    def put(
        self, prompt: str, policy: Policy, *, if_match: str | None = None, actor: str | None = None
    ) -> tuple[Stored, bool]:
        """Set a policy; returns what is stored now and whether that is a change.

        Raises:
            BadRequest: ``invalid_policy``: its baseline is no hard version that answers.
        """
        with self._database.writing() as session:
            live = live_versions(session, prompt)
            before = _checked(session, prompt, if_match)
            aliases = {alias.name: alias.version for alias in aliases_of(session, prompt)}
            check_baseline(prompt, policy, live, aliases)
            if before.policy == policy:
                return before, False
            document = policy.to_json()
            row = PolicyRow(
                prompt=prompt, document=to_json(document), updated_at=now(), updated_by=actor
            )
            session.merge(row)
            detail = {"policy": document, "changed": changed(before.policy, policy)}
            step(session, Change(actor, "policy.set", prompt, SUBJECT, detail))
            return Stored(policy, row.updated_at, actor), True

    def remove(
        self, prompt: str, *, if_match: str | None = None, actor: str | None = None
    ) -> Stored:
        """Have no policy any more; returns what was stored. Without one nothing changes."""
        with self._database.writing() as session:
            live_versions(session, prompt)
            before = _checked(session, prompt, if_match)
            if before.policy is not None:
                session.delete(session.get_one(PolicyRow, prompt))
                detail = {"policy": before.policy.to_json()}
                step(session, Change(actor, "policy.remove", prompt, SUBJECT, detail))
            return before


def changed(before: Policy | None, after: Policy) -> list[str]:
    """Names of the fields that differ; all that are not as they are by default without a former."""
    fields = type(after).model_fields
    if before is None:
        return sorted(after.model_fields_set)
    return sorted(name for name in fields if getattr(before, name) != getattr(after, name))


def check_baseline(
    prompt: str,
    policy: Policy,
    live: Mapping[str, VersionRow],
    aliases: Mapping[str, str],
) -> None:
    """Refuse a policy whose baseline could not take over.

    Raises:
        BadRequest: ``invalid_policy``, ``param`` is ``baseline``.
    """
    name = aliases.get(policy.baseline, policy.baseline)
    version = live.get(name)
    if version is None:
        problem = f"{prompt} has no version or alias {policy.baseline!r}"
    elif version.kind != "hard":
        problem = f"{prompt}@{name} is {version.kind}; a baseline is a hard version"
    elif not version.wanted:
        problem = f"{prompt}@{name} is unloaded; a baseline must be able to answer"
    else:
        return
    msg = f"The policy's baseline can't be held against anything: {problem}."
    raise BadRequest(msg, code="invalid_policy", param="baseline")


def _stored(session: Session, prompt: str) -> Stored:
    row = session.get(PolicyRow, prompt)
    if row is None:
        return Stored(None)
    return Stored(Policy.model_validate(json.loads(row.document)), row.updated_at, row.updated_by)


def _checked(session: Session, prompt: str, if_match: str | None) -> Stored:
    found = _stored(session, prompt)
    if if_match is not None and if_match != found.tag:
        msg = (
            f"{prompt}'s policy is {found.tag} by now, not {if_match}; look again, then change it."
        )
        raise Stale(msg, code="stale_policy", param="If-Match")
    return found
