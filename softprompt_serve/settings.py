"""All settings, in one frozen class; ``docs/settings.md`` is generated from it.

Precedence: environment variables (prefix ``SOFTPROMPT_``), then defaults. An unknown
``SOFTPROMPT_*`` variable or a bad value is refused by name. Every process (API servers, engine,
workers) reads the same environment, so a setting means the same everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from softprompt_serve.errors import BadRequest

PREFIX = "SOFTPROMPT_"


class Settings(BaseSettings):
    """Frozen configuration of one process; read it with :func:`load_settings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Annotated[
        Path,
        Field(description="Directory of the embedded catalogue, tensor blobs and admin token."),
    ] = Path("~/.softprompt")
    admin_token: Annotated[
        SecretStr | None,
        Field(
            min_length=8,
            description="Bearer token of the admin API. Unset: one is generated in "
            "`SOFTPROMPT_HOME/admin-token` with mode 0600.",
        ),
    ] = None
    database_url: Annotated[
        str | None,
        Field(
            pattern=r"^sqlite:///",
            description="SQLAlchemy URL of the catalogue. Unset: `SOFTPROMPT_HOME/catalogue.db` "
            "(SQLite, WAL).",
        ),
    ] = None
    bank_rows: Annotated[
        int,
        Field(ge=1, le=10_000_000, description="Virtual-token rows of the slab on each worker."),
    ] = 16_384
    host_tier_bytes: Annotated[
        int,
        Field(ge=0, description="Bytes of evicted tensors each worker keeps in host memory."),
    ] = 256 * 1024 * 1024
    max_virtual_tokens: Annotated[
        int, Field(ge=1, description="Largest n of a soft version that is accepted.")
    ] = 1024
    max_upload_bytes: Annotated[
        int, Field(ge=1024, description="Largest request body of the admin API.")
    ] = 64 * 1024 * 1024
    max_text_chars: Annotated[
        int, Field(ge=1, description="Longest text of a hard or mixed version, in characters.")
    ] = 65_536
    poll_seconds: Annotated[
        float,
        Field(gt=0.0, le=60.0, description="How often other processes' changes are looked for."),
    ] = 0.1
    drain_seconds: Annotated[
        float,
        Field(gt=0.0, description="How long an unload or removal waits for requests in flight."),
    ] = 60.0
    list_versions: Annotated[
        bool, Field(description="List every `prompt@version` in `GET /v1/models`.")
    ] = True
    allow_raw_prompt_embeds: Annotated[
        bool,
        Field(
            description="Let clients send `prompt_embeds` (base64 torch tensors) themselves. "
            "The V1 runner needs `--enable-prompt-embeds`, which would otherwise open that door."
        ),
    ] = False
    allow_unsupported_vllm: Annotated[
        bool, Field(description="Start on a vLLM version that was not checked.")
    ] = False
    allow_unverified_architecture: Annotated[
        bool,
        Field(
            description="Serve soft versions on a model architecture that was not verified; otherwise it gets none."
        ),
    ] = False
    allow_base_model_mismatch: Annotated[
        bool,
        Field(description="Accept a version whose record names another base model than served."),
    ] = False
    base_model_revision: Annotated[
        str | None,
        Field(
            description="Revision of the served base model, compared with release records. "
            "Unset: vLLM's `--revision`, else unknown."
        ),
    ] = None
    url: Annotated[
        str, Field(pattern=r"^https?://", description="Server that the CLI talks to.")
    ] = "http://127.0.0.1:8000"

    @property
    def home_dir(self) -> Path:
        """``home`` with ``~`` expanded, absolute."""
        return self.home.expanduser().absolute()


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        BadRequest: ``code="invalid_setting"``, naming each unknown variable or bad value.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(k for k in os.environ if k.startswith(PREFIX) and k not in known)
    if unknown:
        msg = f"Unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}."
        raise BadRequest(msg, code="invalid_setting", param=unknown[0])
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        problems = "; ".join(
            f"{PREFIX}{'_'.join(str(p) for p in e['loc']).upper()}: {e['msg']}"
            for e in error.errors()
        )
        msg = f"Bad setting: {problems}."
        raise BadRequest(msg, code="invalid_setting", param=name) from error
