"""Watch one window: roll up, estimate, test drift, judge at most twice, and act on the judgement."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from components.monitoring.estimation.accuracy import estimate
from components.monitoring.estimation.annotator_error import annotator_error, corrected, describe
from components.monitoring.estimation.error_rates import corrected_error_rates, error_rates
from components.monitoring.judgement.measurement import OfClasses
from components.operations.monitoring import reactions
from components.operations.monitoring.drift_explained import explain_if_possible
from components.operations.monitoring.drift_watch import explain_change, watch_drift
from components.operations.monitoring.judgements import Watched, judge_once
from components.operations.monitoring.label_watch import beside, monitor_labels
from components.operations.monitoring.neighbours import look_at_neighbours, tell_of_falls
from components.operations.monitoring.skew import look_for_skew
from components.operations.services import Services
from components.operations.windows import closing_obstacle, latest_closed
from components.records import Window, require_utc
from components.store import labelling, monitoring, predictions
from components.store.queues import checks

LOCK_WAIT_SECONDS = 600.0
CHECKS_COUNT = timedelta(days=365)
"""How long an image that was answered twice tells about the annotators."""


def monitor_window(services: Services, window_name: str | None, *, now: datetime) -> list[dict[str, Any]]:
    """Return what is found in each segment of a window (default: the latest that can be closed), and act on it.

    Two monitors of one window take turns, so the second finds the first one's judgement and changes nothing.
    """
    now = require_utc(now)
    window = Window.parse(window_name) if window_name else latest_closed(services, now)
    with services.database.advisory_lock(f"monitor:{window.name}", LOCK_WAIT_SECONDS):
        monitoring.rollup(services.database, window)
        return [
            (monitor_labels if segment.several else _monitor_segment)(services, window, segment, now)
            for segment in predictions.segments(services.database, window)
        ]


def _monitor_segment(services: Services, window: Window, segment: predictions.Segment, now: datetime) -> dict[str, Any]:
    counts = labelling.counts(services.database, window, segment.model_version)
    estimates = estimate(counts)
    pairs, differing = checks.answer_pairs(services.database, since=now - CHECKS_COUNT)
    error = annotator_error(pairs, differing, len(estimates.classes))
    shown = corrected(estimates, error) if error else None
    rates = corrected_error_rates(counts, error, shown) if error and shown else error_rates(counts, estimates)
    watched = Watched(window, segment, OfClasses(counts, estimates), rates, shown, describe(pairs, error))
    drift = watch_drift(services, window, segment, now=now)
    cause = explain_change(services, window, segment, drift)
    classes, decision = judge_once(services, watched, now)
    accuracy = shown.accuracy if shown else estimates.accuracy
    overall = {
        "accuracy": accuracy.as_json() if accuracy else None,
        "calibration_error": estimates.calibration_error,
        "annotators": {"error": error.as_json() if error else None, "note": watched.note},
    }
    found = [c.as_json() for c in classes]
    monitoring.save_estimates(services.database, window, segment.model_version, found, now=now, overall=overall)
    skew = look_for_skew(
        services, window, segment.model_version, estimates, alarmed=decision.action == "retrain", now=now
    )
    neighbours = look_at_neighbours(services, window, segment.model_version, counts, estimates, error)
    tell_of_falls(services, window, segment.model_version, neighbours.change, decision, now=now)
    explained = None
    changed = decision.action == "retrain" or any(finding.drifted for finding in drift)
    if changed and closing_obstacle(services, window, now) is None:
        explained = explain_if_possible(services, window, segment, now=now)
    reasons = [*([cause.describe()] if cause else []), *(explained["summary"] if explained else ())]
    reactions.on_drift(services, watched.window, segment.model_version, drift, reasons, now=now)
    return {
        "window": window.name,
        "model_version": segment.model_version,
        "predictions": segment.predictions,
        **beside(services, window, segment),
        "labels": int(counts.labelled.sum()),
        "overall": overall["accuracy"],
        "calibration_error": overall["calibration_error"],
        "annotators": overall["annotators"],
        "classes": found,
        **neighbours.as_json(),
        "drift": [finding.as_json() for finding in drift],
        "prediction_drift": cause.as_json() if cause else None,
        "drift_explained": explained,
        "skew": skew,
        "decision": decision.as_json(),
    }
