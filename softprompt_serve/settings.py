"""All settings, in one frozen class; ``docs/settings.md`` is generated from it.

Precedence: environment variables (prefix ``SOFTPROMPT_``), then defaults. An unknown
``SOFTPROMPT_*`` variable or a bad value is refused by name. Every process (API servers, engine,
workers) reads the same environment, so a setting means the same everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from softprompt_serve.errors import BadRequest
from softprompt_serve.setting_types import Headers, Limit, Names
from softprompt_serve.settings_access import AccessSettings
from softprompt_serve.settings_telemetry import TelemetrySettings

PREFIX = "SOFTPROMPT_"
SERVICE_LINKS = "SOFTPROMPT_SERVE_"
"""Variables that Kubernetes sets in every pod beside a Service named ``softprompt-serve``."""

_ABOVE = {
    "replica_ttl_seconds": "heartbeat_seconds",
    "controller_lease_seconds": "controller_seconds",
}
"""Durations that must be longer than others."""


class Settings(AccessSettings, TelemetrySettings):
    """Frozen configuration of one process; read it with :func:`load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        # Values may be secrets; the name of the setting says enough.
        hide_input_in_errors=True,
    )

    home: Annotated[
        Path,
        Field(description="Directory of the embedded catalogue, tensor blobs and admin token."),
    ] = Path("~/.softprompt")
    database_url: Annotated[
        str | None,
        Field(
            pattern=r"^(sqlite:///|postgresql(\+psycopg)?://)",
            repr=False,
            description="SQLAlchemy URL of the catalogue: `sqlite:///PATH` or `postgresql://USER:"
            "PASSWORD@HOST:PORT/DATABASE`. Unset: `SOFTPROMPT_HOME/catalogue.db` (SQLite, WAL).",
        ),
    ] = None
    blob_url: Annotated[
        str | None,
        Field(
            pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/[^?#]*)?|file:///[^?#]+)$",
            description="Where tensors are kept: `s3://BUCKET/PREFIX`, with region, endpoint and "
            "credentials from `AWS_*` variables, or `file:///PATH`. Unset: `SOFTPROMPT_HOME/blobs`.",
        ),
    ] = None
    bank_rows: Annotated[
        int,
        Field(ge=1, le=10_000_000, description="Virtual-token rows of the slab on each worker."),
    ] = 16_384
    deep_prompts: Annotated[
        bool,
        Field(description="Serve versions of kind `prefix`: a KV connector of ours in the engine."),
    ] = True
    host_tier_bytes: Annotated[
        int,
        Field(ge=0, description="Bytes of evicted tensors each worker keeps in host memory."),
    ] = 256 * 1024 * 1024
    max_virtual_tokens: Annotated[
        int, Field(ge=1, description="Largest n of a learned version that is accepted.")
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
    cohorts: Annotated[
        Names,
        Field(
            description="Cohorts that a request may declare in `x-softprompt-cohort`, separated by "
            "commas. Others count as `other`; `long_context`, `tool_calling` and `default` are "
            "derived."
        ),
    ] = ()
    routes: Annotated[
        Names,
        Field(
            description="Routes that a request may declare in `x-softprompt-route`, separated by "
            "commas. Others count as `other`, none as `default`."
        ),
    ] = ()
    rule_headers: Annotated[
        Headers,
        Field(description="Request headers that a rollout's rules may look at, by commas."),
    ] = ()
    long_context_tokens: Annotated[
        int,
        Field(ge=1, description="Visible tokens from which a request is `long_context`."),
    ] = 4096
    arm_not_resident: Annotated[
        Literal["fallback", "unavailable"],
        Field(
            description="What becomes of an arm's share where its version is not resident yet: the "
            "other arms take it (`fallback`), or it is answered 503 (`unavailable`)."
        ),
    ] = "fallback"
    warm_up: Annotated[
        bool,
        Field(
            description="Send a version that comes into production through the engine once, so that "
            "its virtual tokens are in the prefix cache before users come."
        ),
    ] = True
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
    allow_client_priority: Annotated[
        bool,
        Field(
            description="Let clients set `priority`. Priority scheduling is on for shadow traffic's "
            "sake, which would otherwise let any client jump the queue."
        ),
    ] = False
    replica_name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="What `observed` calls this replica, such as its pod's name. Unset: host "
            "and process id.",
        ),
    ] = None
    heartbeat_seconds: Annotated[
        float,
        Field(gt=0.0, le=60.0, description="How often a replica says that it lives."),
    ] = 1.0
    replica_ttl_seconds: Annotated[
        float,
        Field(
            gt=0.0,
            le=600.0,
            validate_default=True,
            description="How long a silent replica counts as live; above the heartbeat.",
        ),
    ] = 5.0
    controller_seconds: Annotated[
        float,
        Field(gt=0.0, le=60.0, description="How often rollouts with steps or gates are judged."),
    ] = 1.0
    controller_lease_seconds: Annotated[
        float,
        Field(
            gt=0.0,
            le=600.0,
            validate_default=True,
            description="How long one replica's controller acts alone; another takes over after "
            "that if it falls silent. Above `SOFTPROMPT_CONTROLLER_SECONDS`.",
        ),
    ] = 10.0
    shadow_busy_requests: Annotated[
        Limit,
        Field(
            description="Users' requests in flight on this server from which shadows make room: "
            "those that run end, and none begins. `0`: always, so that there are none; `none`: never."
        ),
    ] = 8
    shadow_pending: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Copies kept in memory at once, of all prompts; they wait for the user's "
            "answer.",
        ),
    ] = 256
    promotion_gates: Annotated[
        Literal["enforce", "off"],
        Field(
            description="Whether a version has to pass its prompt's policy before it is promoted, or "
            "a policy is only looked at."
        ),
    ] = "enforce"
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

    @field_validator(*_ABOVE)
    @classmethod
    def _above(cls, value: float, info: ValidationInfo) -> float:
        shorter = _ABOVE[info.field_name or ""]
        if value <= info.data.get(shorter, 0.0):
            msg = f"{value:g} is not above {PREFIX}{shorter.upper()} ({info.data[shorter]:g})"
            raise ValueError(msg)
        return value

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
    given = (k for k in os.environ if k.startswith(PREFIX) and not k.startswith(SERVICE_LINKS))
    unknown = sorted(k for k in given if k not in known)
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
