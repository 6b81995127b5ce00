"""A bundle's manifest: which version it carries, and the size and hash of each member."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt_serve.artifact.content import Kind
from softprompt_serve.release.members import refuse
from softprompt_serve.release.records import BaseModelIdentity, Sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "softprompt-bundle/1"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Member(_Shape):
    """A member's size and SHA-256."""

    size: Annotated[int, Field(ge=0, description="Bytes.")]
    sha256: Sha256

    @classmethod
    def of(cls, data: bytes) -> Member:
        """Measure ``data``."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())


class Base(_Shape):
    """What was served where the bundle was exported; None is unknown."""

    name: str | None
    revision: str | None
    fingerprint: str | None
    tokenizer_fingerprint: str | None
    chat_template_sha256: str | None


class Manifest(_Shape):
    """What stands in ``manifest.json``.

    Attributes:
        format: of the bundle; another one is refused.
        prompt, version, kind, digest: the version's own.
        base_model: what was served where it was exported.
        members: by name, all but the manifest and a signature.
    """

    format: Literal["softprompt-bundle/1"] = FORMAT
    prompt: Name
    version: Name
    kind: Kind
    digest: Sha256
    base_model: Base
    members: dict[str, Member]

    def to_bytes(self) -> bytes:
        """JSON for people, too; equal manifests give equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)
        return f"{text}\n".encode("ascii")

    def check(self, found: Mapping[str, bytes]) -> None:
        """Hold the members against what is said of them.

        Raises:
            BadRequest: ``code="invalid_bundle"``, naming the first that is missing, unexpected,
                or of other content.
        """
        for name in sorted(self.members.keys() ^ found.keys()):
            known = "is missing" if name in self.members else "is not in the manifest"
            refuse(f"{name} {known}")
        for name, member in self.members.items():
            if Member.of(found[name]) != member:
                refuse(f"{name} has not the size and SHA-256 that the manifest states")

    @property
    def identity(self) -> BaseModelIdentity:
        """What was served where it was exported."""
        return BaseModelIdentity(**self.base_model.model_dump())


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in its JSON.

    Raises:
        BadRequest: ``code="invalid_bundle"``.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        if where == "format":
            refuse(f"its format is {first['input']!r}; this release reads {FORMAT}", error)
        refuse(f"{MANIFEST}, {where}: {first['msg']}", error)
