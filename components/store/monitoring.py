"""What watching a window leaves behind: counts, estimates, findings, references and judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from components.records import IMAGE_STATISTICS, DriftFinding, JsonObject, Window, require_utc
from components.store.counts.histograms import histogram, histograms
from components.store.counts.rollups import (
    class_counts,
    quantile_edges,
    rollup,
    sample,
    sample_probabilities,
    stratum_counts,
)
from components.store.database import Database, Store, within
from components.store.draws.coverage import Coverage, coverage, pending_reference, windows_before, windows_to_judge
from components.store.draws.spans import span_of
from components.store.estimates import estimates, save_estimates
from components.store.references import (
    DriftReference,
    Reference,
    drift_reference,
    reference_level,
    set_drift_reference,
    set_reference_level,
)
from components.store.tables import draw, drift_finding, judgement
from components.store.values import jsonable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Coverage",
    "DriftReference",
    "Judged",
    "Reference",
    "class_counts",
    "coverage",
    "drift_reference",
    "estimates",
    "findings",
    "histogram",
    "histograms",
    "judgements",
    "pending_reference",
    "quantile_edges",
    "record_judgement",
    "reference_level",
    "rollup",
    "sample_probabilities",
    "sample_rows",
    "save_estimates",
    "save_findings",
    "set_drift_reference",
    "set_reference_level",
    "stratum_counts",
    "windows_before",
    "windows_to_judge",
]


@dataclass(frozen=True, slots=True)
class Judged:
    """One judgement of a segment, as it was made."""

    round_no: int
    payload: JsonObject
    judged_at: datetime


def sample_rows(
    db: Database, window: Window, model_version: int | None, limit: int
) -> dict[str, list[str] | NDArray[np.float64]]:
    """Return at most `limit` sampled rows of a segment (None: of every model) as columns: `predicted` (class names),
    `confidence`, `ood_score` and the image statistics (float64, NaN where unknown).
    """
    import numpy as np

    names = ("confidence", "ood_score", *IMAGE_STATISTICS)
    rows = sample(db, window, model_version, ("model_version", "predicted", *names), limit)
    with db.transaction() as connection:
        known = {
            int(version): span_of(connection, window, int(version)).classes
            for version in np.unique(rows["model_version"])
        }
    predicted = [
        known[int(version)][int(index)] for version, index in zip(rows["model_version"], rows["predicted"], strict=True)
    ]
    return {"predicted": predicted, **{name: rows[name] for name in names}}


def save_findings(
    store: Store, window: Window, model_version: int, found: Sequence[DriftFinding], *, now: datetime
) -> None:
    """Keep the newest finding of every column."""
    rows = [
        {
            "window_name": window.name,
            "model_version": model_version,
            "column_name": one.column,
            "p_value": jsonable(one.p_value),
            "v": jsonable(one.v),
            "drifted": one.drifted,
            "plain_p_value": jsonable(one.plain_p_value),
            "state": one.state,
            "rows": one.rows,
            "reference_rows": one.reference_rows,
            "computed_at": require_utc(now),
        }
        for one in found
    ]
    if not rows:
        return
    added = postgresql.insert(drift_finding).values(rows)
    keys = ("window_name", "model_version", "column_name")
    newer = {column.name: added.excluded[column.name] for column in drift_finding.c if column.name not in keys}
    with within(store) as connection:
        connection.execute(added.on_conflict_do_update(index_elements=list(keys), set_=newer))


def findings(db: Database, window: Window, model_version: int) -> list[DriftFinding]:
    """Return the newest finding of every column of a segment, by column."""
    asked = select(drift_finding).where(
        drift_finding.c.window_name == window.name, drift_finding.c.model_version == model_version
    )
    with db.transaction() as connection:
        rows = connection.execute(asked.order_by(drift_finding.c.column_name)).all()
    return [
        DriftFinding(
            column=row.column_name,
            p_value=row.p_value,
            v=row.v,
            drifted=row.drifted,
            plain_p_value=row.plain_p_value,
            state=row.state,
            rows=row.rows,
            reference_rows=row.reference_rows,
        )
        for row in rows
    ]


def record_judgement(
    store: Store, window: Window, model_version: int, round_no: int, payload: Mapping[str, Any], *, now: datetime
) -> bool:
    """Store a segment's judgement of this round; False if it was judged before, and that judgement stands."""
    row = {
        "window_name": window.name,
        "model_version": model_version,
        "round": round_no,
        "payload": dict(payload),
        "judged_at": require_utc(now),
    }
    with within(store) as connection:
        first = connection.execute(postgresql.insert(judgement).values(row).on_conflict_do_nothing()).rowcount == 1
        if first:
            drawn = draw.update().where(
                draw.c.window_name == window.name, draw.c.model_version == model_version, draw.c.round == round_no
            )
            connection.execute(drawn.values(judged_at=require_utc(now)))
    return first


def judgements(store: Store, window: Window, model_version: int) -> list[Judged]:
    """Return a segment's judgements in the order of their rounds; at most two."""
    asked = select(judgement.c.round, judgement.c.payload, judgement.c.judged_at).where(
        judgement.c.window_name == window.name, judgement.c.model_version == model_version
    )
    with within(store) as connection:
        return [Judged(*row) for row in connection.execute(asked.order_by(judgement.c.round))]
