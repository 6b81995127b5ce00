"""Shapes of the policy routes, as they appear in OpenAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from softprompt_serve.artifact.content import Kind  # noqa: TC001 - pydantic reads it
from softprompt_serve.release.gates import to_json
from softprompt_serve.release.policy import Policy  # noqa: TC001 - pydantic reads it
from softprompt_serve.server.schemas import Shape

if TYPE_CHECKING:
    from softprompt_serve.server.verdicts import Judged


class PolicyOut(Shape):
    """A prompt's policy, or the one that holds as long as nobody has set one."""

    prompt: str
    policy: Policy | None = Field(description="null: nothing is asked of its versions.")
    default: bool = Field(
        description="Nobody has set it; it holds for prompts with learned versions."
    )
    tag: str = Field(description="As the ETag: names the policy that was set, or `none`.")
    updated_at: str | None
    updated_by: str | None


class SubjectOut(Shape):
    """A version that is judged, or compared with."""

    version: str
    kind: Kind
    digest: str
    state: Literal["alive", "unloaded", "removed"]


class GateOut(Shape):
    """One demand of the policy, and what was found."""

    name: str
    passed: bool
    found: str
    wanted: str
    hint: str = Field(description="What would satisfy it; empty if it passed.")
    numbers: dict[str, float | int | str]


class GatesOut(Shape):
    """What is said of a version, gate by gate."""

    prompt: str
    promotable: bool = Field(description="Whether `production` could be moved to it now.")
    asked: bool = Field(description="Whether the policy asks anything of such a version.")
    default: bool = Field(description="The policy is the one that holds where nobody has set one.")
    tag: str = Field(description="Names the policy that was set, or `none`.")
    passed: bool = Field(description="Whether there are gates and all of them passed.")
    candidate: SubjectOut
    baseline: SubjectOut | None
    gates: list[GateOut]
    warnings: list[str]

    @classmethod
    def of(cls, said: Judged) -> GatesOut:
        """A judgement as it is shown."""
        version, held = said.version, said.held
        return cls.model_validate(
            {
                "prompt": version.prompt,
                "promotable": said.promotable,
                "asked": said.asked,
                "default": held.default,
                "tag": held.stored.tag,
                **to_json(said.verdict),
            }
        )
