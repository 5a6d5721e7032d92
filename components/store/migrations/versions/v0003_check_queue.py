"""A third queue, `check`: images of the accuracy sample asked again, to learn how often annotators are wrong."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

QUEUES = """
ALTER TABLE label_task DROP CONSTRAINT label_task_queue_check;
ALTER TABLE label_task ADD CONSTRAINT label_task_queue_check CHECK (queue IN ('accuracy', 'training', 'check'));
COMMENT ON TABLE label_task IS
    'What people are asked; accuracy carries stratum and inclusion probability, check asks some of it again';
"""

# The image of a check has its verdict already, in the accuracy queue.
TRAINABLE = """
CREATE OR REPLACE VIEW trainable_label AS
SELECT t.id AS task_id, t.image_id, t.settled_answer AS answer, t.window_name AS "window", t.model_version,
    c.classes[t.predicted + 1] AS predicted,
    ARRAY(SELECT DISTINCT l.annotator FROM label l WHERE l.task_id = t.id ORDER BY 1) AS annotators,
    b.scored_at AS captured_at, t.settled_at, s.name AS shard, t.shard_row AS "row", t.queue, t.exported_in
FROM label_task t
JOIN class_list c ON c.id = t.class_list_id
JOIN batch b ON b.number = t.batch_number
JOIN image_shard s ON s.id = t.shard_id
WHERE t.state = 'settled' AND t.settled_answer = ANY(c.classes) AND t.queue <> 'check';
"""


def upgrade() -> None:
    """Allow the queue, and keep its answers out of training."""
    for part in (QUEUES, TRAINABLE):
        op.execute(part)
