"""The strata of images that carry several labels, and how many answers each label has in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, select

from components.errors import DataError
from components.records import CONFIDENCE_BINS, LabelCounts, Window
from components.store.database import Database
from components.store.draws import label_queries
from components.store.draws.drawing import FIRST, find_draw
from components.store.draws.spans import Span, span_of
from components.store.scored.label_chunks import MILLIONTHS
from components.store.tables import draw_label_stratum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SURE = CONFIDENCE_BINS - 1


class Stratum(NamedTuple):
    """What is drawn of one stratum: `drawn` of its `population` images, up to `largest` (None where nothing is)."""

    label: int
    positive: bool
    conf_bin: int
    population: int
    sum_conf: float
    drawn: int = 0
    largest: float | None = None

    @property
    def sure_absence(self) -> bool:
        """Return whether it is the stratum whose images have no row of the label."""
        return not self.positive and self.conf_bin == SURE

    @property
    def place(self) -> tuple[int, int, int]:
        """Return its place in arrays (K, 2, B)."""
        return self.label, 0 if self.positive else 1, self.conf_bin


def label_counts(db: Database, window: Window, model_version: int) -> LabelCounts:
    """Return N_h, n_h and the answers of every label: frozen where a draw was made, else the images so far."""
    import numpy as np

    with db.transaction() as connection:
        span = span_of(connection, window, model_version)
        if not span.several:
            raise DataError(f"model version {model_version} predicts one class an image: ask for `counts`")
        first = find_draw(connection, span, FIRST)
        if first is None:
            return as_counts(span, population_of(connection, span))
        labelled, present = (np.zeros((len(span.classes), 2, CONFIDENCE_BINS), np.int64) for _ in range(2))
        values = {**span.binds(), "strata": first.id, "sure": SURE}
        for label, code, many, with_it in connection.execute(label_queries.ANSWERS, values):
            at = label, code // CONFIDENCE_BINS, code % CONFIDENCE_BINS
            labelled[at], present[at] = many, with_it
        tasks, settled = connection.execute(label_queries.TASKS, values).one()
        return as_counts(span, frozen_strata(connection, first.id), labelled, present, (int(tasks), int(settled)))


def population_of(connection: Connection, span: Span) -> list[Stratum]:
    """Return the strata of the span's batches, nothing drawn of them yet."""
    values = {**span.binds(), "millionths": MILLIONTHS}
    return [Stratum(*row) for row in connection.execute(label_queries.POPULATION, values)]


def frozen_strata(connection: Connection, draw_id: int) -> list[Stratum]:
    """Return the strata as a first draw has stored them."""
    t = draw_label_stratum.c
    asked = select(t.label, t.positive, t.conf_bin, t.population, t.sum_conf, t.drawn, t.largest_u)
    ordered = asked.where(t.draw_id == draw_id).order_by(t.label, t.positive, t.conf_bin)
    return [Stratum(*row) for row in connection.execute(ordered)]


def as_counts(
    span: Span,
    strata: Sequence[Stratum],
    labelled: NDArray[np.int64] | None = None,
    present: NDArray[np.int64] | None = None,
    tasks: tuple[int, int] = (0, 0),
) -> LabelCounts:
    """Return the strata as arrays; labelled, present: (K, 2, B), none where None; tasks: images drawn, and settled."""
    import numpy as np

    shape = (len(span.classes), 2, CONFIDENCE_BINS)
    population, drawn, nothing = (np.zeros(shape, np.int64) for _ in range(3))
    confidence = np.full(shape, np.nan)
    for s in strata:
        population[s.place], drawn[s.place] = s.population, s.drawn
        confidence[s.place] = s.sum_conf / s.population
    return LabelCounts(
        classes=span.classes,
        population=population,
        labelled=nothing if labelled is None else labelled,
        present=nothing if present is None else present,
        drawn=drawn,
        confidence=confidence,
        tasks=tasks[0],
        settled=tasks[1],
    )
