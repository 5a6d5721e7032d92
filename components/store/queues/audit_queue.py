"""The queue of labels that an audit doubts: the worst of them are asked about, and only as long as they are doubted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from components.errors import DataError
from components.records import require_utc
from components.store.class_lists import class_list_id
from components.store.database import Database

# Images that people have judged before are not asked about again, whatever a model thinks.
_WORST = text(
    """
SELECT d.place FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS d (image_id, place)
WHERE NOT EXISTS (
    SELECT 1 FROM label_task t
    WHERE t.queue = 'audit' AND t.image_id = d.image_id AND t.state NOT IN ('open', 'withdrawn')
) AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = d.image_id)
ORDER BY d.place LIMIT :limit
"""
)
# What somebody has answered already stays the question that it was.
_ASK = text(
    """
INSERT INTO label_task AS t (queue, window_name, class_list_id, image_id, given, predicted, u, state, created_at)
SELECT 'audit', :dataset, CAST(:class_list AS integer), d.image_id, d.given, d.likely, d.belief, 'open', :now
FROM unnest(
    CAST(:ids AS text[]), CAST(:given AS smallint[]), CAST(:likely AS smallint[]),
    CAST(:beliefs AS double precision[])
) AS d (image_id, given, likely, belief)
ON CONFLICT (image_id) WHERE queue = 'audit' DO UPDATE SET
    window_name = excluded.window_name, class_list_id = excluded.class_list_id, given = excluded.given,
    predicted = excluded.predicted, u = excluded.u, state = 'open'
WHERE NOT EXISTS (SELECT 1 FROM label l WHERE l.task_id = t.id)
RETURNING xmax = 0
"""
)
_WITHDRAW = text(
    """
UPDATE label_task t SET state = 'withdrawn'
WHERE t.queue = 'audit' AND t.state = 'open' AND t.image_id <> ALL(CAST(:ids AS text[]))
    AND NOT EXISTS (SELECT 1 FROM label l WHERE l.task_id = t.id)
"""
)
_SETTLED = text(
    'SELECT task_id, image_id, answer, "window" AS dataset_version, annotators FROM trainable_label'
    " WHERE exported_in IS NULL AND queue = 'audit' ORDER BY settled_at, task_id"
)


@dataclass(frozen=True, slots=True)
class DoubtedLabel:
    """A label of an image in the dataset. likely: the class it looks like. belief: in the given one, 0..1."""

    image_id: str
    given: str
    likely: str
    belief: float


@dataclass(frozen=True, slots=True)
class SettledDoubt:
    """What people say of an image of the dataset: a class of the list that `dataset_version` had, or `other`."""

    task_id: int
    image_id: str
    answer: str
    dataset_version: str
    annotators: tuple[str, ...]


class AuditQueue(NamedTuple):
    """What one audit did to the queue: tasks added, open tasks nobody is asked any more, and how many are open now."""

    added: int
    withdrawn: int
    open: int


def ask_about(
    db: Database,
    doubted: Sequence[DoubtedLabel],
    *,
    classes: Sequence[str],
    dataset_version: str,
    limit: int,
    now: datetime,
) -> AuditQueue:
    """Make the queue the `limit` labels that are believed least among `doubted`, under the class list `classes`.

    Images that people have settled or disagree on are not asked about again. Open tasks about other images are
    withdrawn, unless somebody has begun to answer them. The same call again changes nothing. Raises DataError for a
    label that is not in the class list.
    """
    worst = sorted(doubted, key=lambda label: (label.belief, label.image_id))
    places = {name: place for place, name in enumerate(classes)}
    unknown = sorted({name for label in worst for name in (label.given, label.likely)} - places.keys())
    if unknown:
        raise DataError(f"doubted labels name {unknown!r}, which {dataset_version} does not have; audit it again")
    with db.transaction() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('audit queue', 0))"))
        asked = {"ids": [label.image_id for label in worst], "limit": limit}
        chosen = [worst[place - 1] for place in connection.scalars(_WORST, asked)]
        ids = [label.image_id for label in chosen]
        values = {
            "ids": ids,
            "given": [places[label.given] for label in chosen],
            "likely": [places[label.likely] for label in chosen],
            "beliefs": [label.belief for label in chosen],
            "dataset": dataset_version,
            "class_list": class_list_id(connection, classes, now) if chosen else None,
            "now": require_utc(now),
        }
        added = sum(connection.scalars(_ASK, values)) if chosen else 0
        withdrawn = connection.execute(_WITHDRAW, {"ids": ids}).rowcount
        still = text("SELECT count(*) FROM label_task WHERE queue = 'audit' AND state = 'open'")
        return AuditQueue(added, withdrawn, int(connection.execute(still).scalar_one()))


def settled_doubts(db: Database) -> list[SettledDoubt]:
    """Return the verdicts on doubted labels that no dataset version has, oldest first."""
    with db.transaction() as connection:
        rows = connection.execute(_SETTLED).mappings().all()
    return [SettledDoubt(**{**row, "annotators": tuple(row["annotators"])}) for row in rows]
