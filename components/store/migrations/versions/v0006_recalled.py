"""Images that were recalled: who asked for it and why, and tasks about them that nobody answers any more."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

RECALLED = """
CREATE TABLE recalled_image (
    image_id text PRIMARY KEY,
    reason text NOT NULL,
    actor text NOT NULL,
    recalled_at timestamptz NOT NULL,
    dataset_version text,
    purged_in text,
    erased_at timestamptz
);
COMMENT ON TABLE recalled_image IS 'Images that are used for nothing any more; the dataset says so too';
COMMENT ON COLUMN recalled_image.dataset_version IS 'The first one that says so; empty while it is being made';
COMMENT ON COLUMN recalled_image.purged_in IS 'The first dataset version whose shards do not hold the image';
COMMENT ON COLUMN recalled_image.erased_at IS 'When its bytes were removed from old versions and the image store';
"""

TASKS = """
ALTER TABLE label_task DROP CONSTRAINT label_task_state_check;
ALTER TABLE label_task ADD CONSTRAINT label_task_state_check
    CHECK (state IN ('open', 'settled', 'adjudication', 'withdrawn'));
COMMENT ON COLUMN label_task.state IS 'withdrawn: about a recalled image; nobody is asked, and no verdict follows';

-- Here, and not in each statement that makes tasks: a draw stays the sample it is, and nobody is asked.
CREATE FUNCTION withdraw_recalled_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'open' AND EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = NEW.image_id) THEN
        NEW.state := 'withdrawn';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER label_task_of_recalled BEFORE INSERT ON label_task
    FOR EACH ROW EXECUTE FUNCTION withdraw_recalled_task();
"""

# An answer that was given stays an answer about accuracy; it teaches nothing any more.
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
WHERE t.state = 'settled' AND t.settled_answer = ANY(c.classes) AND t.queue <> 'check' AND NOT c.several
    AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = t.image_id);
"""


def upgrade() -> None:
    """Add the table, the state and the rule that follows from both."""
    for part in (RECALLED, TASKS, TRAINABLE):
        op.execute(part)
