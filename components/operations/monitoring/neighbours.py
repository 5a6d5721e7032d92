"""What a segment's earlier windows add to it: estimates over the last few, and what changed since the one before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from components.alerts.message import fall_alert
from components.monitoring.comparison.change import Change, change_since
from components.monitoring.estimation.accuracy import Estimates, estimate
from components.monitoring.estimation.annotator_error import AnnotatorError, corrected
from components.monitoring.estimation.pooling import is_answered, pool
from components.operations.alerting import send_once
from components.operations.monitoring.reactions import report_links
from components.operations.services import Services
from components.records import Decision, Interval, StratumCounts, Window
from components.store import labelling, monitoring


@dataclass(frozen=True, slots=True)
class Pooled:
    """Precision and recall of every class over several windows of one model, oldest first, as people are shown them."""

    windows: tuple[str, ...]
    estimates: Estimates
    precision: tuple[Interval | None, ...]
    recall: tuple[Interval | None, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the shape `monitor --json` prints."""
        rows = zip(self.estimates.classes, self.precision, self.recall, strict=True)
        return {
            "windows": list(self.windows),
            "predictions": int(self.estimates.predicted.sum()),
            "labels": self.estimates.labelled,
            "classes": [
                {
                    "name": name,
                    "predicted": int(self.estimates.predicted[k]),
                    "labels": int(self.estimates.precision.labels[k]),
                    "precision": p.as_json() if p else None,
                    "recall": r.as_json() if r else None,
                }
                for k, (name, p, r) in enumerate(rows)
            ],
        }


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Both; None where no earlier window of the model is answered, or this one is not."""

    pooled: Pooled | None
    change: Change | None

    def as_json(self) -> dict[str, Any]:
        """Return the entries of `monitor --json`."""
        return {
            "pooled": self.pooled.as_json() if self.pooled else None,
            "since": self.change.as_json() if self.change else None,
        }


def look_at_neighbours(
    services: Services,
    window: Window,
    model_version: int,
    counts: StratumCounts,
    estimates: Estimates,
    error: AnnotatorError | None,
) -> Neighbours:
    """Return what the model's earlier windows add to the `counts` and `estimates` of `window`.

    Only windows that are drawn and answered in every confidence bin count, up to `monitor.pooled_windows` with this
    one. Models are never mixed. Nothing of it reaches a judgement.
    """
    if not is_answered(counts):
        return Neighbours(None, None)
    rules = services.workspace.params.monitor
    earlier: list[tuple[str, StratumCounts]] = []
    for other in monitoring.windows_before(services.database, window, model_version):
        if len(earlier) >= max(rules.pooled_windows - 1, 1):
            break
        of_other = labelling.counts(services.database, other, model_version)
        if is_answered(of_other):
            earlier.append((other.name, of_other))
    if not earlier:
        return Neighbours(None, None)
    name, before = earlier[0]
    change = change_since(estimate(before), name, estimates, rules, error)
    if rules.pooled_windows < 2:
        return Neighbours(None, change)
    together = [*reversed(earlier), (window.name, counts)]
    return Neighbours(_pooled(together, error), change)


def tell_of_falls(
    services: Services, window: Window, model_version: int, change: Change | None, decision: Decision, *, now: datetime
) -> None:
    """Tell people, once and for information, what fell since the window before, when this one is judged for good.

    Not where it raised an alarm, which says more, nor of a window still to be judged: its labels are not all there.
    """
    recorded = monitoring.judgements(services.database, window, model_version)
    final = bool(recorded) and bool(recorded[-1].payload["final"])
    if change is None or not change.fallen or not final or decision.action != "none":
        return
    links = report_links(services, window, model_version)
    alert = fall_alert(
        window.name, model_version, change.since, change.fallen, judged=decision.reason, links=links,
        mix=change.mix_change.describe() if change.mix_change else "",
    )  # fmt: skip
    send_once(services, alert, now=now)


def _pooled(windows: list[tuple[str, StratumCounts]], error: AnnotatorError | None) -> Pooled:
    estimates = estimate(pool([counts for _, counts in windows]))
    names = tuple(name for name, _ in windows)
    if error is not None:
        shown = corrected(estimates, error)
        return Pooled(names, estimates, shown.precision, shown.recall)
    every = range(len(estimates.classes))
    return Pooled(
        names,
        estimates,
        tuple(estimates.precision.interval(k) for k in every),
        tuple(estimates.recall.interval(k) for k in every),
    )
