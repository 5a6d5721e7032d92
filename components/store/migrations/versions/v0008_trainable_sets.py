"""Verdicts that are sets of labels teach, too, now that such models are trained here."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

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
WHERE t.state = 'settled' AND t.queue <> 'check'
    AND CASE WHEN c.several THEN t.settled_answer LIKE '[%'
        ELSE t.settled_answer = ANY(c.classes) OR t.queue = 'audit' AND t.settled_answer = 'other' END
    AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = t.image_id);
COMMENT ON VIEW trainable_label IS
    'Verdicts that name the one class of an image, or the set of its labels as JSON, and where the pixels lie; of '
    'images in the dataset also that it is none of them';
"""


def upgrade() -> None:
    """Let sets of labels in."""
    op.execute(TRAINABLE)
