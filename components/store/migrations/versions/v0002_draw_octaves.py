"""Predictions in columns that are cheaper to fill: `u` by octaves for the index of draws, runners-up without arrays."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Made anew and filled, not altered: a partition whose columns lie elsewhere than the table's is slower to write.
ASIDE = """
ALTER INDEX prediction_pkey RENAME TO prediction_0001_pkey;
ALTER INDEX prediction_draw RENAME TO prediction_0001_draw;
ALTER TABLE prediction RENAME TO prediction_0001;
DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'prediction_0001'::regclass LOOP
        EXECUTE format('ALTER TABLE %s RENAME TO %I', partition, partition::text || '_0001');
    END LOOP;
END
$$;
"""

PREDICTION = """
-- What the indexes read comes first: a row is taken apart only that far to be indexed.
CREATE TABLE prediction (
    month date NOT NULL,
    batch_number bigint NOT NULL,
    item_no integer NOT NULL,
    model_version integer NOT NULL,
    predicted smallint NOT NULL,
    conf_bin smallint NOT NULL,
    u_octave smallint NOT NULL,
    shadow boolean NOT NULL,
    needs_review boolean NOT NULL,
    u double precision NOT NULL,
    shard_id integer NOT NULL,
    shard_row integer NOT NULL,
    second_class smallint,
    third_class smallint,
    confidence real NOT NULL,
    second_confidence real,
    third_confidence real,
    ood_score real NOT NULL,
    latency_ms real NOT NULL,
    brightness real,
    contrast real,
    sharpness real,
    saturation real,
    width real,
    height real,
    aspect real,
    bytes real,
    image_id text NOT NULL,
    name text NOT NULL,
    probabilities bytea NOT NULL,
    PRIMARY KEY (batch_number, item_no, model_version, month)
) PARTITION BY RANGE (month);
CREATE INDEX prediction_draw ON prediction (predicted, conf_bin, u_octave, model_version) WHERE NOT shadow;
COMMENT ON TABLE prediction IS 'One row an item, model and batch; a repeated insert is the same row';
COMMENT ON COLUMN prediction.u IS 'Keyed hash of (batch id, item number) in [0, 1); draws take the smallest';
COMMENT ON COLUMN prediction.u_octave IS '20 for u in [1/2, 1), 19 for [1/4, 1/2), … 0 below 2^-20';
COMMENT ON COLUMN prediction.second_class IS 'The runner-up; predicted and confidence are the first of the top three';
COMMENT ON COLUMN prediction.probabilities IS 'All K calibrated probabilities, float16, little-endian';
"""

FILL = """
DO $$
DECLARE
    wanted date;
BEGIN
    FOR wanted IN SELECT DISTINCT month FROM prediction_0001 LOOP
        PERFORM ensure_prediction_month(wanted);
    END LOOP;
END
$$;
INSERT INTO prediction
SELECT month, batch_number, item_no, model_version, predicted, conf_bin,
    (SELECT count(*) FROM generate_series(1, 20) halvings WHERE u >= power(2::double precision, -halvings)),
    shadow, needs_review, u, shard_id, shard_row, top3_class[2], top3_class[3], confidence, top3_confidence[2],
    top3_confidence[3], ood_score, latency_ms, brightness, contrast, sharpness, saturation, width, height, aspect,
    bytes, image_id, name, probabilities
FROM prediction_0001;
DROP TABLE prediction_0001;
"""


def upgrade() -> None:
    """Move every prediction into the new columns, month by month of partitions, in the migration's transaction."""
    for part in (ASIDE, PREDICTION, FILL):
        op.execute(part)
