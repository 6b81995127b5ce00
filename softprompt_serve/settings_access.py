"""Settings of who may do what, and how often."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from softprompt_serve.setting_types import Rate


class AccessSettings(BaseSettings):
    """One part of :class:`~softprompt_serve.settings.Settings`."""

    admin_token: Annotated[
        SecretStr | None,
        Field(
            min_length=8,
            description="Bearer token of the admin API that may do everything and is in no "
            "catalogue. Unset: one is generated in `SOFTPROMPT_HOME/admin-token` with mode 0600.",
        ),
    ] = None
    feedback_token: Annotated[
        SecretStr | None,
        Field(
            min_length=8,
            description="Bearer token with which applications send feedback and evaluations, and "
            "can do nothing else. Tokens of scope `feedback` may as well.",
        ),
    ] = None
    caller_access: Annotated[
        Literal["open", "tokens"],
        Field(
            description="Whether vLLM's endpoints are open to all (or to `--api-key`), or each call "
            "bears a token, of scope `caller`, that may be for some prompts alone."
        ),
    ] = "open"
    tenant_salt: Annotated[
        str,
        Field(
            pattern=r"^(off|token|header:[A-Za-z0-9-]{1,100})$",
            description="Who shares cached prefixes: all (`off`), the bearers of one token "
            "(`token`), or requests with the same value of a header (`header:x-tenant`).",
        ),
    ] = "off"
    wrong_tokens_per_minute: Annotated[
        Rate,
        Field(
            description="Wrong tokens from one address, to the admin API and to callers' "
            "endpoints; more are answered 429. `none`: no limit."
        ),
    ] = 30
    changes_per_minute: Annotated[
        Rate,
        Field(
            description="Changes by one token of the admin API, on each server process; more are "
            "answered 429. Feedback is not counted. `none`: no limit."
        ),
    ] = 600
