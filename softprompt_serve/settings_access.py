"""Settings of who may do what, and how often."""

from __future__ import annotations

from typing import Annotated

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
