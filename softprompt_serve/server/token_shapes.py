"""Shapes of the token routes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from softprompt_serve.access.scopes import BASE, PATTERN, Scope
from softprompt_serve.server.schemas import NAME, Shape, rfc3339

if TYPE_CHECKING:
    from softprompt_serve.access.tokens import AccessToken

Pattern = Annotated[str, StringConstraints(pattern=PATTERN)]

_MOST_GRACE_SECONDS = 30 * 86_400.0


class TokenIn(Shape):
    """A token to make."""

    name: str = Field(pattern=NAME, examples=["ci"])
    scopes: list[Scope] = Field(min_length=1, max_length=6, examples=[["publisher"]])
    prompts: list[Pattern] = Field(
        default_factory=list,
        max_length=100,
        description="Prompts that it is for, `*` standing for anything; none: for all of them. For "
        "the scope `caller`, `@base` is the plain base model.",
        examples=[["support*"]],
    )
    expires_at: AwareDatetime | None = Field(
        None, description="When it ends, RFC 3339; null: never."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if len(set(self.scopes)) != len(self.scopes):
            msg = "scopes has one twice"
            raise ValueError(msg)
        if BASE in self.prompts and set(self.scopes) != {"caller"}:
            msg = f"{BASE} is for tokens of the scope caller alone"
            raise ValueError(msg)
        if self.expires is not None and self.expires <= time.time():
            msg = "expires_at is over already"
            raise ValueError(msg)
        return self

    @property
    def expires(self) -> float | None:
        """Unix time, or None."""
        return None if self.expires_at is None else self.expires_at.timestamp()


class RotateIn(Shape):
    """How to rotate."""

    grace_seconds: float = Field(
        0.0,
        ge=0.0,
        le=_MOST_GRACE_SECONDS,
        allow_inf_nan=False,
        description="How long the former text is accepted, too.",
    )


class TokenOut(Shape):
    """A token, without what it is."""

    id: str = Field(description="Stands in the token's text, after `spt_`.")
    name: str
    scopes: list[Scope]
    prompts: list[str]
    created_at: str
    created_by: str | None
    expires_at: str | None
    previous_until: str | None = Field(
        description="Until when the text before the last rotation is accepted, too."
    )
    revoked_at: str | None
    last_used_at: str | None = Field(description="To the hour.")

    @classmethod
    def of(cls, token: AccessToken) -> TokenOut:
        """From the catalogue."""
        return cls(
            id=token.id,
            name=token.name,
            scopes=list(token.scopes),
            prompts=list(token.prompts),
            created_at=token.created_at,
            created_by=token.created_by,
            expires_at=_shown(token.expires_at),
            previous_until=_shown(token.previous_until),
            revoked_at=token.revoked_at,
            last_used_at=token.last_used_at,
        )


class NewTokenOut(TokenOut):
    """A token with its text, which is shown this once."""

    token: str


class TokensOut(Shape):
    """All tokens, the newest last."""

    data: list[TokenOut]


def _shown(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)
