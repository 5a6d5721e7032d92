"""Stored history as a backtest needs it: what was judged and when, every sample in the order it was drawn, attempts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select, text

from components.records import JsonObject, Window
from components.store.database import Database
from components.store.draws.spans import span_of
from components.store.tables import label_task, retrain_request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SEGMENTS = text(
    """
SELECT d.window_name, d.model_version, d.frozen_at, f.judged_at AS first_at, s.judged_at AS topped_up_at,
    coalesce(s.payload, f.payload) AS payload
FROM draw d
JOIN model_version m ON m.version = d.model_version
JOIN class_list c ON c.id = m.class_list_id AND NOT c.several
LEFT JOIN judgement f ON f.window_name = d.window_name AND f.model_version = d.model_version AND f.round = 1
LEFT JOIN judgement s ON s.window_name = d.window_name AND s.model_version = d.model_version AND s.round = 2
WHERE d.round = 1
ORDER BY f.judged_at, d.id
"""
)
# The order of a draw, so that the first n of a stratum are those that a draw of n would have taken.
_SAMPLE = (
    select(label_task.c.predicted, label_task.c.conf_bin, label_task.c.settled_answer, label_task.c.settled_at)
    .where(label_task.c.queue == "accuracy")
    .order_by(
        label_task.c.predicted, label_task.c.conf_bin, label_task.c.u, label_task.c.batch_number, label_task.c.item_no
    )
)


@dataclass(frozen=True, slots=True)
class DrawnSegment:
    """One drawn segment and its judgements. payload: of the newest one; None, as are the moments, before the first."""

    window: str
    model_version: int
    drawn_at: datetime
    first_at: datetime | None
    topped_up_at: datetime | None
    payload: JsonObject | None

    @property
    def judged_for_good(self) -> bool:
        """Return whether no further judgement follows."""
        return self.payload is not None and bool(self.payload["final"])


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A segment's accuracy tasks, by stratum and within it in the order of drawing; N tasks, K classes.

    predicted, conf_bin: (N,) int64. answer: (N,) int64 class index, K for `other`, -1 where there is no verdict.
    settled_at: (N,) float64 seconds since 1970, inf without a verdict.
    """

    predicted: NDArray[np.int64]
    conf_bin: NDArray[np.int64]
    answer: NDArray[np.int64]
    settled_at: NDArray[np.float64]


class Begun(NamedTuple):
    """A retraining that began: for the alarm of which window (None: no alarm asked for it), when, and its state now."""

    window: str | None
    started_at: datetime
    state: str


def drawn_segments(db: Database) -> list[DrawnSegment]:
    """Return every segment that a sample was drawn of, in the order of their first judgements; unjudged ones last.

    Segments whose images carry several labels are left out: no rules are replayed on them.
    """
    with db.transaction() as connection:
        return [DrawnSegment(*row) for row in connection.execute(_SEGMENTS)]


def sample_of(db: Database, window: Window, model_version: int) -> Sample:
    """Return the segment's sample, draw and top-up together."""
    import numpy as np

    asked = _SAMPLE.where(label_task.c.window_name == window.name, label_task.c.model_version == model_version)
    with db.transaction() as connection:
        classes = span_of(connection, window, model_version).classes
        rows = connection.execute(asked).all()
    number = {name: k for k, name in enumerate(classes)}
    answers = [-1 if row[2] is None or row[3] is None else number.get(row[2], len(classes)) for row in rows]
    moments = [np.inf if row[3] is None else row[3].timestamp() for row in rows]
    return Sample(
        predicted=np.array([row[0] for row in rows], np.int64),
        conf_bin=np.array([row[1] for row in rows], np.int64),
        answer=np.array(answers, np.int64),
        settled_at=np.array(moments, np.float64),
    )


def retrainings(db: Database) -> list[Begun]:
    """Return the retrainings that began, oldest first; refused ones never did."""
    asked = (
        select(retrain_request.c.window_name, retrain_request.c.started_at, retrain_request.c.state)
        .where(retrain_request.c.started_at.is_not(None), retrain_request.c.state != "refused")
        .order_by(retrain_request.c.started_at, retrain_request.c.id)
    )
    with db.transaction() as connection:
        return [Begun(*row) for row in connection.execute(asked)]
