"""Watch one segment whose images carry several labels: each label as a class is watched, and in words what is not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from components.monitoring.judgement.measurement import OfLabels
from components.monitoring.judgement.several_labels import NO_OVERALL, estimate_labels, label_error_rates
from components.operations.monitoring import reactions
from components.operations.monitoring.drift_watch import watch_drift
from components.operations.monitoring.judgements import Watched, judge_once
from components.operations.services import Services
from components.records import Window
from components.store import monitoring, predictions
from components.store.draws.label_counting import label_counts

NOT_CORRECTED = "how often people name a label wrongly is not estimated: nothing is corrected for it"
SKIPPED = {
    "overall": NO_OVERALL,
    "calibration_error": "each label has confidences of its own; no error of calibration is computed of them together",
    "annotators": NOT_CORRECTED,
    "pooled": "windows of several labels are not pooled",
    "since": "windows of several labels are not compared with the one before, only with the reference",
    "prediction_drift": "whether a change of the mix explains drift is not asked of several labels: each label's share "
    "is tested by itself, and its reference is re-weighted where its share among the answers has changed",
    "drift_explained": "what changed in the images is not looked for where they carry several labels",
    "skew": "production is not held against offline figures where images carry several labels",
}
"""What is not said of a segment with several labels, and why."""


def monitor_labels(services: Services, window: Window, segment: predictions.Segment, now: datetime) -> dict[str, Any]:
    """Return what is found in a segment, in the shape of `monitor --json`, its labels as `classes`, and act on it."""
    version = segment.model_version
    counts = label_counts(services.database, window, version)
    estimates = estimate_labels(counts)
    rates = label_error_rates(counts, estimates)
    watched = Watched(window, segment, OfLabels(counts, estimates), rates, None, NOT_CORRECTED)
    drift = watch_drift(services, window, segment, now=now)
    classes, decision = judge_once(services, watched, now)
    found = [c.as_json() for c in classes]
    annotators = {"error": None, "note": NOT_CORRECTED}
    overall = {"accuracy": None, "calibration_error": None, "annotators": annotators, "reason": NO_OVERALL}
    monitoring.save_estimates(services.database, window, version, found, now=now, overall=overall)
    reactions.on_drift(services, window, version, drift, (), now=now)
    return {
        "window": window.name,
        "model_version": version,
        "predictions": segment.predictions,
        **beside(services, window, segment),
        "labels": counts.settled,
        "overall": None,
        "calibration_error": None,
        "annotators": annotators,
        "classes": found,
        "pooled": None,
        "since": None,
        "drift": [finding.as_json() for finding in drift],
        "prediction_drift": None,
        "drift_explained": None,
        "skew": None,
        "several": True,
        "skipped": dict(SKIPPED),
        "decision": decision.as_json(),
    }


def beside(services: Services, window: Window, segment: predictions.Segment) -> dict[str, Any]:
    """Return how many of the segment's predictions came late, and how many count in other windows, by window."""
    found = monitoring.coverage(services.database, window, segment.model_version)
    return {"late": found.late, "drawn_elsewhere": found.elsewhere}
