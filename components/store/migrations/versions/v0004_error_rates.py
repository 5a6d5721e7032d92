"""False positive and false negative rates beside every class's precision and recall."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RATES = """
ALTER TABLE accuracy_estimate
    ADD COLUMN false_positive_value double precision,
    ADD COLUMN false_positive_low double precision,
    ADD COLUMN false_positive_high double precision,
    ADD COLUMN false_negative_value double precision,
    ADD COLUMN false_negative_low double precision,
    ADD COLUMN false_negative_high double precision;
COMMENT ON TABLE accuracy_estimate IS 'Per-class rates with 95 % intervals; NULL where nothing can be said';
"""


def upgrade() -> None:
    """Add the columns; estimates made before have none."""
    op.execute(RATES)
