"""Samples of images that carry several labels: for each label by the smallest `u`, and one task an image for all.

A label's strata are its predictions and its absences by confidence bin. What is drawn of a stratum is all its images up
to a limit of `u`, which is stored with it: an answer counts for a label where the image's `u` is within the limit of
the label's stratum, whichever label it was asked for. Frozen and locked as draws of classes are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, select, text

from components.errors import ConfigurationError, DataError
from components.records import CONFIDENCE_BINS, LabelCounts, LabelOverlap, LabelSizes, Window, require_utc
from components.store.database import Database
from components.store.draws import label_queries
from components.store.draws.coverage import drawn_elsewhere
from components.store.draws.drawing import FIRST, TOP_UP, draw_size, find_draw, insert_draw, insert_parts, locked_span
from components.store.draws.label_counting import SURE, Stratum, as_counts, frozen_strata, population_of
from components.store.draws.spans import Span
from components.store.scored.chunks import octaves_of
from components.store.tables import draw_batch, draw_label_stratum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OVERLAP_IMAGES = 50_000
MOST_LOOKED_AT = 200_000  # images of small `u`, to find further sure absences among
Allocation = Callable[[LabelCounts, LabelOverlap], LabelSizes]


def freeze_and_draw_labels(
    db: Database,
    window: Window,
    model_version: int,
    *,
    allocate: Allocation,
    kind: Literal["reference", "regular"],
    budget: int,
    now: datetime,
) -> int:
    """Freeze the segment's population, draw its sample and return the number of tasks; again, the first call's.

    allocate: given LabelCounts with population and confidence, and how the strata meet in images, returns the sizes.
    The population is that of `drawing.freeze_and_draw`. Raises DataError if a size is negative or above its N_h.
    """
    with db.transaction() as connection:
        span = locked_span(connection, window, model_version)
        stored = find_draw(connection, span, FIRST)
        if stored is not None:
            return draw_size(connection, stored.id)
        elsewhere = {n for numbers in drawn_elsewhere(connection, window, model_version).values() for n in numbers}
        span = span.limited_to([number for number in span.batches if number not in elsewhere])
        strata = population_of(connection, span)
        counted = as_counts(span, strata)
        sizes = _checked(counted, allocate(counted, _overlap(connection, span, counted)))
        draw_id = insert_draw(connection, span, FIRST, kind, {"budget": budget, "frozen_at": require_utc(now)})
        insert_parts(connection, draw_batch, [{"draw_id": draw_id, "batch_number": n} for n in span.batches])
        if not strata:
            return 0
        strata = _grown(connection, span, strata, sizes)
        insert_parts(
            connection,
            draw_label_stratum,
            [
                {
                    "draw_id": draw_id,
                    "label": s.label,
                    "positive": s.positive,
                    "conf_bin": s.conf_bin,
                    "population": s.population,
                    "sum_conf": s.sum_conf,
                    "drawn": s.drawn,
                    "largest_u": s.largest,
                }
                for s in strata
            ],
        )
        return _make_tasks(connection, span, (draw_id, draw_id), strata, now)


def top_up_labels(db: Database, window: Window, model_version: int, extra: NDArray[np.int64], now: datetime) -> int:
    """Draw `extra` (K, 2, B) further images, the next-smallest `u` of each stratum; return how many tasks that made.

    Images that another label has asked for already make no task, and count for this one from now on. Strata with fewer
    images left give what they have. A second call returns the first one's number. Raises ConfigurationError if there
    is no first draw.
    """
    import numpy as np

    with db.transaction() as connection:
        span = locked_span(connection, window, model_version)
        first = find_draw(connection, span, FIRST)
        if first is None:
            raise ConfigurationError(f"window {window.name}, model {model_version}: nothing was drawn; draw first")
        stored = find_draw(connection, span, TOP_UP)
        if stored is not None:
            return draw_size(connection, stored.id)
        population = select(draw_batch.c.batch_number).where(draw_batch.c.draw_id == first.id)
        span = span.limited_to(connection.scalars(population.order_by(draw_batch.c.batch_number)).all())
        strata = frozen_strata(connection, first.id)
        shape = (len(span.classes), 2, CONFIDENCE_BINS)
        if np.shape(extra) != shape or np.any(np.asarray(extra) < 0):
            raise DataError(f"a top-up must be {shape} numbers of 0 or more, not {extra!r}")
        wanted = np.zeros(shape, np.int64)
        for s in strata:
            if extra[s.place]:
                wanted[s.place] = min(s.drawn + int(extra[s.place]), s.population)
        moment = {"budget": int(np.sum(extra)), "frozen_at": require_utc(now)}
        draw_id = insert_draw(connection, span, TOP_UP, "topup", moment)
        before = {s.place: s.drawn for s in strata}
        grown = [s for s in _grown(connection, span, strata, LabelSizes(0, wanted)) if s.drawn > before[s.place]]
        if not grown:
            return 0
        values = {**_columns(grown), "drawn": [s.drawn for s in grown], "largest": [s.largest for s in grown]}
        connection.execute(label_queries.GROW, {**values, "strata": first.id})
        made = _make_tasks(connection, span, (draw_id, first.id), grown, now)
        connection.execute(label_queries.REWEIGH, {"strata": first.id, "sure": SURE})
        return made


def _overlap(connection: Connection, span: Span, counted: LabelCounts) -> LabelOverlap:
    """Return how the strata meet in the images of smallest `u`, about OVERLAP_IMAGES of them."""
    import numpy as np

    images = int(counted.population[0].sum())
    share = min(1.0, OVERLAP_IMAGES / max(images, 1))
    rows = connection.execute(label_queries.OVERLAP, {**_binds(span), **_below(share)}).all()
    table = np.array(rows, np.int64).reshape(len(rows), 5)
    _, image = np.unique(table[:, :2], axis=0, return_inverse=True)
    stratum = (table[:, 2] * 2 + (table[:, 3] == 0)) * CONFIDENCE_BINS + table[:, 4]
    return LabelOverlap(images * share, np.asarray(image, np.int64).reshape(-1), stratum)


def _grown(connection: Connection, span: Span, strata: Sequence[Stratum], sizes: LabelSizes) -> list[Stratum]:
    """Return the strata with what is drawn of each now: what the base holds of it, its size, or what it was."""
    wanted = {s.place: int(sizes.sizes[s.place]) for s in strata}
    sure = [s for s in strata if s.sure_absence]
    images = sum(s.population for s in strata if s.label == strata[0].label)
    further = max((_ample(wanted[s.place]) / s.population for s in sure if wanted[s.place] > s.drawn), default=0.0)
    limit = _look_low(connection, span, sizes.base, images, min(further, MOST_LOOKED_AT / images))
    rows = [s for s in strata if not s.sure_absence]
    values = {**_binds(span), **_below(max(limit, 0.0)), "limit": limit, **_columns(rows)}
    walked = connection.execute(label_queries.WALK, {**values, "wanted": [wanted[s.place] for s in rows]})
    found: list[Stratum] = []
    in_base = dict.fromkeys({s.label for s in strata}, sizes.base)
    known = {s.place: s for s in rows}
    for label, positive, conf_bin, many, largest, own in walked:
        s = known[label, 0 if positive else 1, conf_bin]
        in_base[label] -= many
        found.append(_larger(s, (many, largest), (wanted[s.place], own)))
    for s in sure:
        drawn = max(s.drawn, in_base[s.label])
        absent: list[float] = []
        if wanted[s.place] > drawn:
            asked = {"label": s.label, "wanted": wanted[s.place]}
            absent = list(connection.scalars(label_queries.ABSENT, asked))
        found.append(_larger(s, (in_base[s.label], limit), (len(absent), absent[-1] if absent else None)))
    return sorted(found, key=lambda s: s.place)


def _larger(stratum: Stratum, *drawn: tuple[int, float | None]) -> Stratum:
    """Return the stratum with the largest of what is drawn of it; each a number of images and the limit of `u`."""
    many, largest = max(drawn, key=lambda one: one[0])
    return stratum._replace(drawn=many, largest=largest) if many > stratum.drawn else stratum


def _look_low(connection: Connection, span: Span, base: int, images: int, further: float) -> float:
    """Put the images of small `u` into the table low_image, the `base` among them, and return the base's limit of `u`.

    further: the share of `u` to look at in any case. The limit is -1 without a base.
    """
    share = max(_ample(base) / images if base else 0.0, further)
    while True:
        connection.execute(text("DROP TABLE IF EXISTS low_image"))
        connection.execute(label_queries.LOW, {**_binds(span), **_below(min(share, 1.0))})
        connection.execute(text("ANALYZE low_image"))
        if base == 0:
            return -1.0
        limit = connection.execute(label_queries.NTH_LOW, {"place": base - 1}).scalar_one_or_none()
        if limit is not None:
            return float(limit)
        if share >= 1:
            raise DataError(f"window {span.window} holds fewer than the {base} images that were to be drawn")
        share *= 2


def _make_tasks(
    connection: Connection, span: Span, draws: tuple[int, int], strata: Sequence[Stratum], now: datetime
) -> int:
    """Ask about every image that lies within the limits of `strata`; draws: whose tasks, and whose strata they are."""
    import numpy as np

    rows = [s for s in strata if not s.sure_absence and s.largest is not None]
    limits = np.array([s.largest for s in rows], np.float64)
    values = {
        **_binds(span),
        **_columns(rows),
        "octaves": octaves_of(limits).tolist(),
        "limits": limits.tolist(),
        "draw": draws[0],
        "strata": draws[1],
        "now": require_utc(now),
    }
    # In two steps: how many images it is about to look up the planner learns only from a table that is there.
    connection.execute(text("DROP TABLE IF EXISTS wanted_image"))
    connection.execute(label_queries.WANTED, values)
    connection.execute(text("ANALYZE wanted_image"))
    return connection.execute(label_queries.MAKE_TASKS, values).rowcount


def _checked(counted: LabelCounts, sizes: LabelSizes) -> LabelSizes:
    import numpy as np

    images = int(counted.population[0].sum())
    numbers = np.asarray(sizes.sizes)
    outside = numbers.shape != counted.population.shape or np.any(numbers < 0) or np.any(numbers > counted.population)
    if outside or not 0 <= sizes.base <= images:
        raise DataError(
            f"an allocation must lie within 0..N_h in each of {counted.population.shape} strata, and its base within "
            f"0..{images}: {sizes!r}"
        )
    return sizes


def _ample(images: int) -> float:
    """Return more images than are wanted, so that a share of `u` expected to hold them holds those wanted."""
    return images + 6 * math.sqrt(images) + 20


def _binds(span: Span) -> dict[str, Any]:
    return {**span.binds(), "labels": len(span.classes), "sure": SURE}


def _below(share: float) -> dict[str, Any]:
    import numpy as np

    return {"share": share, "octave": int(octaves_of(np.array([share]))[0])}


def _columns(strata: Sequence[Stratum]) -> dict[str, list[Any]]:
    return {
        "label": [s.label for s in strata],
        "positive": [s.positive for s in strata],
        "conf_bin": [s.conf_bin for s in strata],
    }
