"""The accuracy a service is held to: set by its first complete window, then kept, extended, bettered or reset."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from components.errors import RefusedError
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.label_reference import LabelReference
from components.monitoring.judgement.measured import Held
from components.monitoring.judgement.measurement import Measurement, OfClasses, OfLabels
from components.monitoring.judgement.reference import ReferenceLevel
from components.monitoring.judgement.several_labels import estimate_labels
from components.operations.services import Services
from components.operations.windows import closing_obstacle
from components.params import Monitor
from components.records import Decision, Window, require_utc
from components.store import labelling, ledger, monitoring, predictions
from components.store.database import Store
from components.store.draws.label_counting import label_counts


def set_first(
    services: Services, window: Window, version: int, measurement: Measurement[Any], *, now: datetime
) -> Decision:
    """Make a complete window the reference of a service that has none; the decision says so, or why it cannot be."""
    obstacle = measurement.obstacle()
    if obstacle is not None:
        return Decision("none", reason=f"window {window.name} cannot be the service's reference: {obstacle}")
    reason = f"window {window.name} is the service's reference from now on ({measurement.estimates.labelled} labels)"
    decision = Decision("none", reason=reason)
    payload = {"final": True, "decision": decision.as_json(), "rules": {}, "states": {}}
    with services.database.transaction() as connection:  # all of it or nothing, whenever a crash comes
        monitoring.record_judgement(connection, window, version, 1, payload, now=now)
        level = measurement.reference(window.name)
        _store(connection, window, version, level, action="set", reason=reason, now=now)
    return decision


def improve(
    store: Store,
    window: Window,
    version: int,
    measurement: Measurement[Any],
    level: Held,
    *,
    suspected: bool,
    rules: Monitor,
    now: datetime,
) -> None:
    """After a final judgement: a significantly better window replaces the reference, unless it suspects some class.

    Classes that had no level yet get theirs from this window.
    """
    action, changed, added = measurement.next_level(level, window.name, suspected=suspected, rules=rules)
    if action == "kept":
        return
    reason = f"window {window.name} is " + (
        f"the first to measure {', '.join(added)}" if added else "significantly better than the reference before"
    )
    _store(store, window, version, changed, action=action, reason=reason, now=now)


def describe_reference(services: Services) -> dict[str, Any] | None:
    """Return the reference in force: window, who set it, when and why, and each class's level; None before the first.

    A level that was never measured is None.
    """
    stored = monitoring.reference_level(services.database)
    if stored is None:
        return None
    several = bool(stored.level.get("several"))
    level = LabelReference.from_json(stored.level) if several else ReferenceLevel.from_json(stored.level)
    known = (level.precision.value, level.recall.value, level.precision.effective)
    columns = [[None if np.isnan(one) else float(one) for one in rates] for rates in known]
    return {
        "window": stored.window,
        "model_version": stored.model_version,
        "set_at": stored.set_at,
        "actor": stored.actor,
        "reason": stored.reason,
        "labels": level.labels,
        "classes": [
            {"name": name, "precision": precision, "recall": recall, "independent_labels": effective}
            for name, precision, recall, effective in zip(level.classes, *columns, strict=True)
        ],
    }


def reset_reference(services: Services, window_name: str, *, reason: str, actor: str, now: datetime) -> dict[str, Any]:
    """Make a closed and labelled window the reference, as a person asked for, and return it; the old ones are kept.

    Raises RefusedError for a window that cannot be one, with the reason. Of several models that served the window, the
    last one counts.
    """
    window, now = Window.parse(window_name), require_utc(now)
    segments = predictions.segments(services.database, window)
    obstacle = closing_obstacle(services, window, now) if segments else "it has no predictions"
    if obstacle is None:
        version = segments[-1].model_version
        measurement = _measured(services, window, segments[-1])
        obstacle = measurement.obstacle()
    if obstacle is not None:
        raise RefusedError(f"window {window.name} cannot be the reference: {obstacle}")
    level = measurement.reference(window.name)
    with services.database.transaction() as connection:
        _store(connection, window, version, level, action="reset", reason=reason, now=now, actor=actor)
    return describe_reference(services) or {}


def _measured(services: Services, window: Window, segment: predictions.Segment) -> Measurement[Any]:
    if segment.several:
        counts = label_counts(services.database, window, segment.model_version)
        return OfLabels(counts, estimate_labels(counts))
    of_classes = labelling.counts(services.database, window, segment.model_version)
    return OfClasses(of_classes, estimate(of_classes))


def _store(
    store: Store,
    window: Window,
    version: int,
    level: Held,
    *,
    action: str,
    reason: str,
    now: datetime,
    actor: str = "monitor",
) -> None:
    monitoring.set_reference_level(store, window, version, level.as_json(), reason=reason, now=now, actor=actor)
    ledger.record(
        store, kind="reference", actor=actor, action=action, reason=reason, now=now,
        window=window.name, model_version=version, evidence={"labels": level.labels, "level": level.as_json()},
    )  # fmt: skip
