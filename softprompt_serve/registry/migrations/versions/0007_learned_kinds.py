"""Policies that ask of soft versions ask of prefixes, too."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_POLICIES = sa.table("policies", sa.column("prompt", sa.String), sa.column("document", sa.Text))


def upgrade() -> None:
    """Widen what each stored policy asks of.

    A policy is stored with every field, so one that never named its kinds says ``soft`` alone, and
    what nobody can read would be promoted unasked. An earlier release, which would answer without
    a prefix, does not start on a catalogue that has been here.
    """
    connection = op.get_bind()
    found = connection.execute(sa.select(_POLICIES.c.prompt, _POLICIES.c.document)).all()
    for prompt, document in found:
        policy = json.loads(document)
        kinds = policy.get("kinds", [])
        if "soft" not in kinds or "prefix" in kinds:
            continue
        at = kinds.index("soft") + 1
        policy["kinds"] = [*kinds[:at], "prefix", *kinds[at:]]
        # As the catalogue writes it.
        text = json.dumps(policy, ensure_ascii=False, sort_keys=True)
        connection.execute(
            sa.update(_POLICIES).where(_POLICIES.c.prompt == prompt).values(document=text)
        )
