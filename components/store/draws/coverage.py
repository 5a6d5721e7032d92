"""Which window a prediction belongs to: the first one of its model that was drawn over its moment, and no other.

Windows of one length never overlap. Where `monitor.window` changes in a service's life, or somebody names a window of
another length, they do; what an earlier draw spans then stays with that window, late rows included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, text

from components.records import Window, WindowLength, require_utc
from components.store.database import Database
from components.store.draws.spans import batches_of
from components.store.tables import draw, draw_batch, judgement

_ROWS = text("SELECT coalesce(sum(rows), 0) FROM batch WHERE number = ANY(CAST(:numbers AS bigint[]))")
_SEGMENT_DAYS = text(
    "SELECT DISTINCT date_trunc('day', scored_at, 'UTC') AS day, model_version FROM batch WHERE rows > 0"
    " ORDER BY day, model_version"
)
_PENDING_REFERENCE = text(
    """
SELECT d.window_name FROM draw d
WHERE d.kind = 'reference' AND d.judged_at IS NULL AND (
    d.frozen_at > :since OR EXISTS (SELECT 1 FROM label_task t WHERE t.draw_id = d.id AND t.state = 'settled')
)
ORDER BY d.id LIMIT 1
"""
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Where the predictions of one model in one window count.

    late: those that came after the window was drawn; they count for drift alone. 0 before the draw. elsewhere: those
    that other windows have drawn, by the window's name, in the order of time; they are judged there.
    left: those that are neither, and are drawn in this window or can be.
    """

    late: int
    elsewhere: dict[str, int]
    left: int

    def describe(self) -> str:
        """Return in words what does not count in this window; "" where everything does."""
        parts = []
        if self.elsewhere:
            many = sum(self.elsewhere.values())
            parts.append(f"{many} predictions were drawn in {', '.join(self.elsewhere)} and are judged there")
        if self.late:
            parts.append(f"{self.late} predictions came after the draw and count for drift alone")
        return "; ".join(parts)


def coverage(db: Database, window: Window, model_version: int) -> Coverage:
    """Return where the predictions of a model's batches in `window` count."""
    with db.transaction() as connection:
        batches = batches_of(connection, window, model_version)
        draw_id = _draw_id(connection, window, model_version)
        frozen = set(connection.scalars(select(draw_batch.c.batch_number).where(draw_batch.c.draw_id == draw_id)))
        others = drawn_elsewhere(connection, window, model_version)
        taken = {number for numbers in others.values() for number in numbers}
        own = [number for number in batches if number not in taken]
        late = [number for number in own if draw_id is not None and number not in frozen]
        return Coverage(
            late=_rows(connection, late),
            elsewhere={name: _rows(connection, numbers) for name, numbers in sorted(others.items(), key=_by_time)},
            left=_rows(connection, set(own) - set(late)),
        )


def drawn_elsewhere(connection: Connection, window: Window, model_version: int) -> dict[str, list[int]]:
    """Return the model's batches in `window` that belong to other windows, by their names.

    They belong to the first window drawn over their moment, whether they were there in time or not.
    """
    own = _draw_id(connection, window, model_version)
    asked = select(draw.c.id, draw.c.window_name).where(draw.c.model_version == model_version, draw.c.round == 1)
    frozen = select(draw_batch.c.batch_number).where(draw_batch.c.draw_id == own)
    claimed = set(connection.scalars(frozen))
    found: dict[str, list[int]] = {}
    for number, name in connection.execute(asked.order_by(draw.c.id)).all():
        other = Window.parse(name)
        if name == window.name or (own is not None and number > own) or not other.overlaps(window):
            continue
        shared = Window(max(window.start, other.start), min(window.end, other.end), name)
        batches = [batch for batch in batches_of(connection, shared, model_version) if batch not in claimed]
        claimed.update(batches)
        if batches:
            found[name] = batches
    return found


def windows_before(db: Database, window: Window, model_version: int) -> list[Window]:
    """Return the windows that were drawn from the model and end before `window` does, newest first."""
    asked = select(draw.c.window_name).where(draw.c.model_version == model_version, draw.c.round == 1)
    with db.transaction() as connection:
        drawn = [Window.parse(name) for name in connection.scalars(asked)]
    return sorted((w for w in drawn if w.end < window.end), key=lambda w: (w.end, w.start), reverse=True)


def windows_to_judge(db: Database, length: WindowLength) -> list[str]:
    """Return the names of the windows with a segment that is not judged for good, oldest first.

    Those are the drawn ones, of whatever length, and the windows of `length` with a day that no draw spans. A segment
    is judged for good after round 1 without a top-up, or after round 2.
    """
    with db.transaction() as connection:
        days = connection.execute(_SEGMENT_DAYS).all()
        drawn = connection.execute(select(draw.c.window_name, draw.c.model_version, draw.c.round)).all()
        judged = connection.execute(select(judgement.c.window_name, judgement.c.model_version, judgement.c.round))
        done = {tuple(row) for row in judged}
    last: dict[tuple[str, int], int] = {}
    for name, version, number in drawn:
        last[name, version] = max(number, last.get((name, version), 1))
    spanned = {
        (window.start.date() + timedelta(days=day), version)
        for window, version in ((Window.parse(name), version) for name, version in last)
        for day in range((window.end - window.start).days)
    }
    waiting = {Window.parse(name) for (name, version), number in last.items() if (name, version, number) not in done}
    for row in days:
        window = Window.containing(row.day, length)
        there = (require_utc(row.day).date(), row.model_version) in spanned
        if not there and (window.name, row.model_version, 1) not in done:
            waiting.add(window)
    return [window.name for window in sorted(waiting, key=lambda window: (window.end, window.start))]


def pending_reference(db: Database, *, since: datetime) -> str | None:
    """Return the window that was drawn as the service's reference and is still to be judged, or None.

    One drawn before `since` that nobody has answered is waited for no longer.
    """
    with db.transaction() as connection:
        name = connection.execute(_PENDING_REFERENCE, {"since": require_utc(since)}).scalar_one_or_none()
    return None if name is None else str(name)


def _draw_id(connection: Connection, window: Window, model_version: int) -> int | None:
    asked = select(draw.c.id).where(
        draw.c.window_name == window.name, draw.c.model_version == model_version, draw.c.round == 1
    )
    return connection.execute(asked).scalar_one_or_none()


def _by_time(named: tuple[str, list[int]]) -> Window:
    return Window.parse(named[0])


def _rows(connection: Connection, numbers: Iterable[int]) -> int:
    return int(connection.execute(_ROWS, {"numbers": list(numbers)}).scalar_one())
