"""Alembic runs this module for every migration command; the connection is handed in by `Database.migrate`."""

from __future__ import annotations

from alembic import context

from components.store.tables import METADATA


def migrate() -> None:
    """Apply the wanted revisions in the caller's transaction."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
    context.run_migrations()


migrate()
