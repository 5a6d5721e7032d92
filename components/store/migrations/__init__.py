"""The schema, step by step: Alembic revisions that are applied in one transaction."""
