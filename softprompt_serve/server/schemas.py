"""Shapes of the admin API, as they appear in OpenAPI."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, model_validator

from softprompt_serve.artifact.content import Kind
from softprompt_serve.release.records import stored_record
from softprompt_serve.server.promotion import Force

if TYPE_CHECKING:
    from softprompt_serve.registry.audit import AuditEntry
    from softprompt_serve.registry.snapshot import Prompt, Version
    from softprompt_serve.server.service import Service

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
DIGEST = r"^[0-9a-f]{64}$"

Name = Annotated[str, Path(pattern=NAME, examples=["support"])]
VersionName = Annotated[str, Path(pattern=NAME, examples=["v2"])]
AliasName = Annotated[str, Path(pattern=NAME, examples=["production"])]


class Shape(BaseModel):
    """Base of all shapes: unknown fields in a request are refused."""

    model_config = ConfigDict(extra="forbid")


def rfc3339(at: float) -> str:
    """Unix time as RFC 3339 in UTC, with milliseconds."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class Refusal(Shape):
    """Why a call was refused; see docs/api.md for the codes."""

    message: str
    type: str
    param: str | None = Field(description="The field, form part or header that was wrong.")
    code: str = Field(description="Stable, for programs.")
    details: dict[str, Any] | None = Field(None, description="Absent for most codes.")


class Refused(Shape):
    """Every error, in OpenAI's shape."""

    error: Refusal


class AuditOut(Shape):
    """One change."""

    id: int
    revision: int
    at: str
    actor: str | None
    action: str
    prompt: str | None
    subject: str | None
    detail: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditOut:
        """From the catalogue."""
        return cls(
            id=entry.id,
            revision=entry.revision,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            prompt=entry.prompt,
            subject=entry.subject,
            detail=dict(entry.detail),
        )


class VersionOut(Shape):
    """One version, with its release record; what a record lacks is listed as missing."""

    prompt: str
    version: str
    digest: str = Field(description="SHA-256 over the canonical content.")
    kind: Kind
    virtual_tokens: int = Field(description="Positions that the tensor takes; 0 without one.")
    hidden_size: int = Field(description="Columns of a soft version's tensor; else 0.")
    dtype: str | None
    text: str | None
    state: Literal["resident", "stored", "unloaded"]
    reason: str | None = Field(None, description="Why it is not resident, if known.")
    unverified: str | None = Field(
        None,
        description="Why it is not known to be good on the served base model: then it gets no more "
        "traffic than the policy allows, and the prompt's `stand_in` answers.",
    )
    aliases: list[str]
    created_at: str
    created_by: str | None
    record: dict[str, Any]
    record_missing: list[str]
    approvals: list[AuditOut] | None = Field(
        None,
        description="Each time it was promoted or given an alias, from the audit, newest first; "
        "null in lists, and while the catalogue can't be read.",
    )

    @classmethod
    def of(cls, service: Service, version: Version) -> VersionOut:
        """From the snapshot."""
        prompt = service.snapshot.prompt(version.prompt)
        aliases = prompt.aliases if prompt is not None else {}
        record = stored_record(version.record)
        return cls(
            prompt=version.prompt,
            version=version.version,
            digest=version.digest,
            kind=version.kind,
            virtual_tokens=version.virtual_tokens,
            hidden_size=version.hidden_size,
            dtype=version.dtype,
            text=version.text,
            aliases=sorted(a for a, v in aliases.items() if v == version.version),
            created_at=version.created_at,
            created_by=version.created_by,
            record=record.to_json(),
            record_missing=record.missing(),
            unverified=service.verifying.why(version),
            **_residency_of(service, version),
        )


class PromptOut(Shape):
    """A prompt with its aliases and versions, oldest first."""

    name: str
    aliases: dict[str, str]
    stand_in: str | None = Field(None, description="Who answers for versions that are unverified.")
    versions: list[VersionOut]

    @classmethod
    def of(cls, service: Service, prompt: Prompt) -> PromptOut:
        """From the snapshot."""
        versions = [VersionOut.of(service, v) for v in prompt.versions.values()]
        return cls(
            name=prompt.name,
            aliases=dict(prompt.aliases),
            stand_in=service.verifying.shield(prompt.name).stand_in,
            versions=versions,
        )


class PromptList(Shape):
    """All prompts, by name, as of one catalogue revision."""

    revision: int
    data: list[PromptOut]


class Removed(Shape):
    """What is gone."""

    removed: str


class RemovedVersion(Removed):
    """A version that is gone; ``draining`` while requests in flight still use its rows."""

    draining: bool


class ForceIn(Shape):
    """Whether to overrule the prompt's policy, and why."""

    force: bool = Field(default=False, description="Promote it although it fails; with a `reason`.")
    reason: str | None = Field(None, max_length=500, description="Why; kept with the change.")

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.force and not (self.reason or "").strip():
            msg = "`force` needs a `reason`"
            raise ValueError(msg)
        return self

    @property
    def forced(self) -> Force | None:
        """By whom the gates are overruled."""
        return Force(self.reason.strip()) if self.force and self.reason else None


class AliasIn(ForceIn):
    """Where an alias shall point: a version's name or another alias."""

    version: str = Field(pattern=NAME, examples=["v3"])


class AliasOut(Shape):
    """Where an alias points now, and where it pointed before."""

    prompt: str
    alias: str
    version: str
    digest: str
    previous: str | None
    unverified: str | None = Field(None, description="Why the version gets no traffic yet.")


class ResidencyIn(Shape):
    """Whether a version shall be loaded."""

    resident: bool


class ResidencyOut(Shape):
    """What each worker holds, and the requests of this server in flight per version."""

    workers: list[dict[str, Any]]
    leases: dict[str, int]


class AuditList(Shape):
    """Changes, newest first; pass the last ``id`` as ``before`` for more."""

    data: list[AuditOut]


class Health(Shape):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Shape):
    """Whether this server may get traffic, and each check behind that."""

    ready: bool
    checks: dict[str, str] = Field(description="`ok`, or what is wrong, by check.")


class ServerOut(Shape):
    """What this server is: versions, base model and limits."""

    softprompt_serve: str
    vllm: str
    base_model: dict[str, str | None]
    served_names: list[str]
    limits: dict[str, int | str | dict[str, int] | None]
    prices: dict[str, float | None] = Field(description="USD per million tokens of each sort.")
    catalogue_revision: int
    probe: dict[str, Any]


def _residency_of(service: Service, version: Version) -> dict[str, Any]:
    """What the API says about a version's whereabouts."""
    if not version.wanted:
        return {"state": "unloaded"}
    if service.residency.is_resident(version):
        return {"state": "resident"}
    return {"state": "stored", "reason": service.keeping.unloadable.get(version.label)}
