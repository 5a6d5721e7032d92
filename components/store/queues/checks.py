"""Images of the accuracy sample that are asked again, blind, of somebody else, to know how often answers are wrong."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select, text

from components.records import Window, require_utc
from components.store.database import Database
from components.store.tables import label_task

# A share of the images by their own hash: the same ones on a repeat, whatever else was drawn meanwhile.
_FILL = text(
    """
INSERT INTO label_task (
    queue, window_name, model_version, class_list_id, month, batch_number, item_no, image_id,
    shard_id, shard_row, predicted, conf_bin, u, state, created_at
)
SELECT 'check', t.window_name, t.model_version, t.class_list_id, t.month, t.batch_number, t.item_no, t.image_id,
    t.shard_id, t.shard_row, t.predicted, t.conf_bin, t.u, 'open', :now
FROM label_task t
WHERE t.queue = 'accuracy' AND t.window_name = :window AND t.model_version = :version
    AND ('x' || substr(md5(t.image_id || ' check'), 1, 8))::bit(32)::bigint < :share * 4294967296
ORDER BY md5(t.image_id || ' check order')
ON CONFLICT (queue, window_name, model_version, batch_number, item_no) DO NOTHING
"""
)
_PAIRS = text(
    """
SELECT count(*), count(*) FILTER (WHERE a.settled_answer <> c.settled_answer)
FROM label_task c
JOIN label_task a ON a.queue = 'accuracy' AND a.window_name = c.window_name AND a.model_version = c.model_version
    AND a.batch_number = c.batch_number AND a.item_no = c.item_no
JOIN class_list l ON l.id = c.class_list_id AND NOT l.several
WHERE c.queue = 'check' AND c.state = 'settled' AND a.state = 'settled' AND c.settled_at >= :since
    AND NOT EXISTS (
        SELECT 1 FROM label x JOIN label y ON y.annotator = x.annotator WHERE x.task_id = a.id AND y.task_id = c.id
    )
"""
)


def fill_check_queue(db: Database, window: Window, model_version: int, *, share: float, now: datetime) -> int:
    """Ask `share` of the segment's accuracy tasks again; return how many are asked twice. A repeat adds none."""
    values = {"window": window.name, "version": model_version, "share": share, "now": require_utc(now)}
    asked = select(func.count()).where(
        label_task.c.queue == "check",
        label_task.c.window_name == window.name,
        label_task.c.model_version == model_version,
    )
    with db.transaction() as connection:
        connection.execute(_FILL, values)
        return int(connection.execute(asked).scalar_one())


def answer_pairs(db: Database, *, since: datetime) -> tuple[int, int]:
    """Return how many images have two verdicts of different people, checked at or after `since`, and how many differ.

    Images of one class each: how often a set of labels is wrong is another question.
    A verdict that rests on one person's second look at the own answer is no second opinion, and is left out.
    """
    with db.transaction() as connection:
        pairs, differing = connection.execute(_PAIRS, {"since": require_utc(since)}).one()
    return int(pairs), int(differing)
