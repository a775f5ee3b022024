"""Alembic's entry: runs the migrations on the connection that ``bridge.store.migrate`` opened."""

from __future__ import annotations

from alembic import context

from bridge.store.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
