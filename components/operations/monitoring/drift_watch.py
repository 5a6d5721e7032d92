"""Compare a segment with its model's frozen drift reference, and draw the page people open."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from components.errors import ServiceError
from components.monitoring.drift.findings import FEWEST_ROWS, findings, undecided
from components.monitoring.drift.predictions import DriftExplanation, explain_prediction_drift, explain_without_labels
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.reference import reference_obstacle
from components.operations.services import Services
from components.operations.windows import closing_obstacle
from components.records import IMAGE_STATISTICS, DriftFinding, Window
from components.store import champions, labelling, monitoring, predictions
from components.store.counts.label_shares import predicted_labels

logger = logging.getLogger(__name__)

MIXED_ROWS = 20_000  # of a window, to tell from their confidences which mix they speak for
OF_PREDICTIONS = ("predicted", "confidence")
COLUMNS = ("confidence", *IMAGE_STATISTICS)
Counts = NDArray[np.int64]


def watch_drift(
    services: Services, window: Window, segment: predictions.Segment, *, now: datetime
) -> list[DriftFinding]:
    """Return each column's finding and save them; the first closed window of a first model becomes its reference."""
    database, version = services.database, segment.model_version
    reference = monitoring.drift_reference(database, version)
    closed = closing_obstacle(services, window, now) is None
    if reference is None:
        # A frozen reference of fewer rows than a test takes, as a day may have, would never tell anything.
        enough = closed and segment.predictions >= FEWEST_ROWS
        if enough:
            set_reference_from_window(services, window, segment, now=now)
        state = "no drift reference yet" + (f"; window {window.name} is it from now on" if enough else "")
        predicted = [column_of(name) for name in segment.classes] if segment.several else ["predicted"]
        return [undecided(column, state) for column in (*predicted, *COLUMNS)]
    found = _against(services, reference, window, version, segment.several)
    monitoring.save_findings(database, window, version, found, now=now)
    if closed and reference.window != window.name:
        draw_page(services, window, version, reference.window)
    return found


def drift_findings(services: Services, window: Window, version: int) -> list[DriftFinding] | None:
    """Return each column's finding as of now, saving nothing; None where the model has no drift reference."""
    reference = monitoring.drift_reference(services.database, version)
    if reference is None:
        return None
    return _against(services, reference, window, version, champions.model(services.database, version).several)


def column_of(label: str) -> str:
    """Return the name of the column that says how often a label is predicted."""
    return f"predicted {label}"


def _against(
    services: Services, reference: monitoring.DriftReference, window: Window, version: int, several: bool
) -> list[DriftFinding]:
    database = services.database
    columns: dict[str, tuple[Counts, Counts]] = {}
    if several:
        before = reference.payload.get("labels", {})
        classes = champions.model(database, version).classes
        for name, counts in zip(classes, predicted_labels(database, window, version), strict=True):
            columns[column_of(name)] = np.asarray(before.get(name, [0, 0]), np.int64), counts
    else:
        columns["predicted"] = (
            np.asarray(reference.payload["predicted"], np.int64),
            monitoring.class_counts(database, window, version),
        )
    known = reference.payload["columns"]
    edges = {column: of_column["edges"] for column, of_column in known.items()}
    for column, counts in monitoring.histograms(database, window, version, edges).items():
        columns[column] = (np.asarray(known[column]["counts"], np.int64), counts)
    return findings(columns, services.workspace.params.monitor)


def explain_change(
    services: Services, window: Window, segment: predictions.Segment, found: Sequence[DriftFinding]
) -> DriftExplanation | None:
    """Return whether a change of the class mix explains how the predictions drifted; None where they did not.

    They are held against the first window of the same model whose labels could be a reference: what that model takes
    for what is known from there. Without one, it is said which mix its confidences speak for, if only the mix changed.
    """
    if not any(finding.drifted for finding in found if finding.column in OF_PREDICTIONS):
        return None
    database, version = services.database, segment.model_version
    now = monitoring.stratum_counts(database, window, version)
    rules = services.workspace.params.monitor
    for earlier in labelling.drawn_windows(database, version):
        if earlier.start >= window.start:
            break
        known = labelling.counts(database, earlier, version)
        if reference_obstacle(estimate(known)) is None:
            return explain_prediction_drift(known, now, rules)
    reference = monitoring.drift_reference(database, version)
    if reference is None:
        return None
    probabilities = monitoring.sample_probabilities(database, window, version, MIXED_ROWS)
    before = np.asarray(reference.payload["predicted"], np.float64)
    return explain_without_labels(segment.classes, before, now.sum(axis=1), probabilities, rules)


def set_reference_from_window(
    services: Services, window: Window, segment: predictions.Segment, *, now: datetime
) -> None:
    """Freeze a closed window of the model's own predictions as its drift reference."""
    database, version = services.database, segment.model_version
    bins = services.workspace.params.monitor.drift_bins
    found = monitoring.quantile_edges(database, window, version, COLUMNS, bins)
    edges = {column: of_column.tolist() for column, of_column in found.items()}
    counts = monitoring.histograms(database, window, version, edges)
    columns = {column: {"edges": edges[column], "counts": counts[column].tolist()} for column in COLUMNS}
    payload = {"predicted": monitoring.class_counts(database, window, version).tolist(), "columns": columns}
    if segment.several:
        of_labels = predicted_labels(database, window, version).tolist()
        payload["labels"] = dict(zip(segment.classes, of_labels, strict=True))
    monitoring.set_drift_reference(database, version, window.name, payload, now=now)


def draw_page(services: Services, window: Window, version: int, reference_window: str) -> None:
    """Write Evidently's page of a closed window, once, from bounded samples of the two windows.

    No decision rests on it: where it cannot be drawn, monitoring goes on, and the next run tries again.
    """
    target = services.workspace.reports / f"{window.name}-v{version}.html"
    if target.is_file():
        return
    from components.monitoring.drift.evidently_page import Sides, write_page_apart

    rows = services.workspace.params.monitor.report_rows

    def sides() -> Sides | None:
        reference = monitoring.sample_rows(services.database, Window.parse(reference_window), None, rows)
        current = monitoring.sample_rows(services.database, window, version, rows)
        return (reference, current) if len(reference["predicted"]) and len(current["predicted"]) else None

    title = f"Window {window.name}, model {version}, against {reference_window}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_page_apart(target, sides, title=title, report_rows=rows)
    except ServiceError as error:
        logger.warning("%s", error)
