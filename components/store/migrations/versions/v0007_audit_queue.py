"""A fourth queue, `audit`: images of the dataset whose labels the audit doubts. Nobody has predicted them."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TASKS = """
ALTER TABLE label_task
    ALTER COLUMN model_version DROP NOT NULL,
    ALTER COLUMN month DROP NOT NULL,
    ALTER COLUMN batch_number DROP NOT NULL,
    ALTER COLUMN item_no DROP NOT NULL,
    ALTER COLUMN shard_id DROP NOT NULL,
    ALTER COLUMN shard_row DROP NOT NULL,
    ALTER COLUMN conf_bin DROP NOT NULL,
    ADD COLUMN given smallint;
ALTER TABLE label_task DROP CONSTRAINT label_task_queue_check;
ALTER TABLE label_task ADD CONSTRAINT label_task_queue_check
    CHECK (queue IN ('accuracy', 'training', 'check', 'audit'));
ALTER TABLE label_task ADD CONSTRAINT label_task_of_prediction_check CHECK (
    CASE WHEN queue = 'audit'
    THEN num_nonnulls(model_version, month, batch_number, item_no, shard_id, shard_row, conf_bin) = 0
        AND given IS NOT NULL
    ELSE num_nulls(model_version, month, batch_number, item_no, shard_id, shard_row, conf_bin) = 0
        AND given IS NULL
    END
);
CREATE UNIQUE INDEX label_task_audited ON label_task (image_id) WHERE queue = 'audit';
COMMENT ON TABLE label_task IS
    'What people are asked: accuracy carries stratum and inclusion probability, check asks some of it again, audit asks'
    ' about images of the dataset';
COMMENT ON COLUMN label_task.window_name IS 'When it was predicted; of an audit, the dataset version that was audited';
COMMENT ON COLUMN label_task.predicted IS 'What the model said; of an audit, what the image looks like to its models';
COMMENT ON COLUMN label_task.given IS 'Of an audit: the label that is doubted';
COMMENT ON COLUMN label_task.u IS 'Orders a queue; of an audit, how far its models believe the label that was given';
COMMENT ON COLUMN label_task.state IS
    'withdrawn: nobody is asked any more, about a recalled image or a label that is no longer among the most doubted';
"""

TRAINABLE = """
CREATE OR REPLACE VIEW trainable_label AS
SELECT t.id AS task_id, t.image_id, t.settled_answer AS answer, t.window_name AS "window", t.model_version,
    c.classes[t.predicted + 1] AS predicted,
    ARRAY(SELECT DISTINCT l.annotator FROM label l WHERE l.task_id = t.id ORDER BY 1) AS annotators,
    b.scored_at AS captured_at, t.settled_at, s.name AS shard, t.shard_row AS "row", t.queue, t.exported_in
FROM label_task t
JOIN class_list c ON c.id = t.class_list_id
LEFT JOIN batch b ON b.number = t.batch_number
LEFT JOIN image_shard s ON s.id = t.shard_id
WHERE t.state = 'settled' AND t.queue <> 'check' AND NOT c.several
    AND (t.settled_answer = ANY(c.classes) OR t.queue = 'audit' AND t.settled_answer = 'other')
    AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = t.image_id);
COMMENT ON VIEW trainable_label IS
    'Verdicts that name the one class of an image, and where the pixels lie; of images in the dataset also that it is '
    'none of them';
"""


def upgrade() -> None:
    """Allow the queue, tie every other to a prediction still, and let its verdicts change the dataset."""
    for part in (TASKS, TRAINABLE):
        op.execute(part)
