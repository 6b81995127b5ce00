"""Run the migrations on the connection that ``registry/database.py`` hands over."""

from __future__ import annotations

from alembic import context

from softprompt_serve.registry.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite can't alter most of a table in place.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
