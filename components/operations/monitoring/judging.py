"""Watch one window: roll up, estimate, test drift, judge at most twice, and act on the judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from components.monitoring.accuracy import Estimates, estimate
from components.monitoring.annotator_error import AnnotatorError, Corrected, annotator_error, corrected, describe
from components.monitoring.error_rates import ErrorRates, corrected_error_rates, error_rates
from components.monitoring.evidence import judgement_inputs
from components.monitoring.policy import Judgement, ReferenceLevel, Stage, judge
from components.operations.monitoring import reactions, reference
from components.operations.monitoring.drift_explained import explain_if_possible
from components.operations.monitoring.drift_watch import explain_change, watch_drift
from components.operations.monitoring.neighbours import look_at_neighbours, tell_of_falls
from components.operations.monitoring.skew import look_for_skew
from components.operations.services import Services
from components.operations.windows import closing_obstacle, latest_closed, undrawn_reason, waits_for_reference
from components.params import Monitor
from components.records import ClassAccuracy, ClassState, Decision, StratumCounts, Window, require_utc
from components.store import champions, checks, labelling, ledger, monitoring, predictions, requests
from components.store.database import Store

LOCK_WAIT_SECONDS = 600.0
CHECKS_COUNT = timedelta(days=365)
"""How long an image that was answered twice tells about the annotators."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One segment under judgement: a window's predictions of one model, their counts and estimates.

    error: of the annotators, where images that two people answered tell it; shown: the estimates corrected for it,
    which people see, while verdicts compare answers with the reference's answers; note: what is known of it, in words;
    rates: of false positives and negatives, corrected where the estimates are.
    """

    window: Window
    segment: predictions.Segment
    counts: StratumCounts
    estimates: Estimates
    error: AnnotatorError | None
    shown: Corrected | None
    note: str
    rates: ErrorRates


def monitor_window(services: Services, window_name: str | None, *, now: datetime) -> list[dict[str, Any]]:
    """Return what is found in each segment of a window (default: the latest that can be closed), and act on it.

    Two monitors of one window take turns, so the second finds the first one's judgement and changes nothing.
    """
    now = require_utc(now)
    window = Window.parse(window_name) if window_name else latest_closed(services, now)
    with services.database.advisory_lock(f"monitor:{window.name}", LOCK_WAIT_SECONDS):
        monitoring.rollup(services.database, window)
        return [
            _monitor_segment(services, window, segment, now)
            for segment in predictions.segments(services.database, window)
        ]


def _monitor_segment(services: Services, window: Window, segment: predictions.Segment, now: datetime) -> dict[str, Any]:
    counts = labelling.counts(services.database, window, segment.model_version)
    estimates = estimate(counts)
    pairs, differing = checks.answer_pairs(services.database, since=now - CHECKS_COUNT)
    error = annotator_error(pairs, differing, len(estimates.classes))
    shown = corrected(estimates, error) if error else None
    rates = corrected_error_rates(counts, error, shown) if error and shown else error_rates(counts, estimates)
    watched = Watched(window, segment, counts, estimates, error, shown, describe(pairs, error), rates)
    drift = watch_drift(services, window, segment, now=now)
    cause = explain_change(services, window, segment, drift)
    classes, decision = _judge(services, watched, now)
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
    if any(finding.drifted for finding in drift) and closing_obstacle(services, window, now) is None:
        explained = explain_if_possible(services, window, segment, now=now)
    reasons = [*([cause.describe()] if cause else []), *(explained["summary"] if explained else ())]
    reactions.on_drift(services, watched.window, segment.model_version, drift, reasons, now=now)
    return {
        "window": window.name,
        "model_version": segment.model_version,
        "predictions": segment.predictions,
        **_beside(services, window, segment),
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


def _beside(services: Services, window: Window, segment: predictions.Segment) -> dict[str, Any]:
    """Return how many of the segment's predictions came late, and how many count in other windows, by window."""
    found = monitoring.coverage(services.database, window, segment.model_version)
    return {"late": found.late, "drawn_elsewhere": found.elsewhere}


def _judge(services: Services, watched: Watched, now: datetime) -> tuple[tuple[ClassAccuracy, ...], Decision]:
    """Judge if a judgement is due, act on it once, and return the classes with the decision in force."""
    window, version = watched.window, watched.segment.model_version
    stored = monitoring.reference_level(services.database)
    level = ReferenceLevel.from_json(stored.level) if stored else None
    rules = services.workspace.params.monitor
    recorded = monitoring.judgements(services.database, window, version)
    if recorded and recorded[-1].payload["final"]:
        last = recorded[-1]
        today = _judged(watched, level, rules, "topped-up")
        classes, decision = _as_recorded(today, last.payload)
        # A crash may have cut it short.
        reactions.follow_up(services, window, version, classes, decision, note=watched.note, now=now)
        return classes, decision
    stage: Stage = "topped-up" if recorded else "first"
    judgement = _judged(watched, level, rules, stage)
    waiting = _not_due(services, watched, len(recorded) + 1, now)
    if waiting:
        return judgement.classes, Decision("none", reason=waiting)
    if level is None and watched.estimates.labelled > 0:
        return judgement.classes, reference.set_first(services, window, version, watched.estimates, now=now)
    if level is None:
        return judgement.classes, judgement.decision
    judgement = _of_what_serves(services, version, judgement)
    _record(services, watched, level, judgement, len(recorded) + 1, now)
    return judgement.classes, judgement.decision


def _judged(watched: Watched, level: ReferenceLevel | None, rules: Monitor, stage: Stage) -> Judgement:
    """Return the judgement, its classes with the estimates that people are shown."""
    judgement = judge(watched.estimates, watched.counts, level, rules, stage)
    return replace(judgement, classes=tuple(_as_shown(watched, k, c) for k, c in enumerate(judgement.classes)))


def _as_shown(watched: Watched, k: int, found: ClassAccuracy) -> ClassAccuracy:
    found = replace(
        found, false_positive=watched.rates.false_positive[k], false_negative=watched.rates.false_negative[k]
    )
    if watched.shown is None:
        return found
    return replace(found, precision=watched.shown.precision[k], recall=watched.shown.recall[k])


def _of_what_serves(services: Services, version: int, judgement: Judgement) -> Judgement:
    """Return the judgement; where a model fell that serves no more, its decision refuses to retrain for it."""
    current = champions.champion(services.database)
    if judgement.decision.action != "retrain" or current is None or current.version == version:
        return judgement
    reason = f"{judgement.decision.reason}; not retrained: model {version} serves no more, model {current.version} does"
    return replace(judgement, decision=replace(judgement.decision, action="refused", reason=reason))


def _not_due(services: Services, watched: Watched, round_no: int, now: datetime) -> str | None:
    """Return why judgement number `round_no` is not due yet, or None when it is."""
    obstacle = closing_obstacle(services, watched.window, now)
    if obstacle is not None:
        return obstacle
    rules = services.workspace.params.labelling
    response = labelling.response(services.database, watched.window, watched.segment.model_version, round_no)
    if response is None:
        return undrawn_reason(services, watched.window, watched.segment.model_version)
    complete = response.answered >= rules.judge_at_response * response.drawn
    old = now - response.drawn_at >= timedelta(days=rules.judge_after_days)
    if complete or old:
        return waits_for_reference(services, watched.window, now)
    return f"waiting for answers: {response.answered} of {response.drawn} tasks of draw {round_no}"


def _record(
    services: Services, watched: Watched, level: ReferenceLevel, judgement: Judgement, round_no: int, now: datetime
) -> None:
    window, version = watched.window, watched.segment.model_version
    payload = {
        "final": judgement.final,
        "decision": judgement.decision.as_json(),
        "rules": {name: list(rules) for name, rules in judgement.alarmed.items()},
        "states": {c.name: [str(c.state), list(c.reasons)] for c in judgement.classes},
    }
    if not judgement.final:
        labelling.top_up(services.database, window, version, judgement.top_up, now=now)
    decision = judgement.decision
    # One transaction: a crash leaves a judgement with its ledger row and its request, or none of them.
    with services.database.transaction() as connection:
        first = monitoring.record_judgement(connection, window, version, round_no, payload, now=now)
        if first:  # else the lock was lost with its connection, and another monitor was quicker
            _announce(connection, watched, level, judgement, payload, now)
        if first and judgement.final:
            reference.improve(
                connection, window, version, watched.estimates, level, suspected=bool(judgement.suspects),
                rules=services.workspace.params.monitor, now=now,
            )  # fmt: skip
    if judgement.final:
        reactions.follow_up(services, window, version, judgement.classes, decision, note=watched.note, now=now)


def _announce(
    connection: Store,
    watched: Watched,
    level: ReferenceLevel,
    judgement: Judgement,
    payload: Mapping[str, Any],
    now: datetime,
) -> None:
    window, version, decision = watched.window, watched.segment.model_version, judgement.decision
    ledger.record(
        connection, kind="judgement", actor="monitor", action=decision.action, reason=decision.reason,
        classes=decision.classes, window=window.name, model_version=version, now=now,
        evidence={**decision.evidence, **judgement_inputs(watched.counts, level)},
    )  # fmt: skip
    if decision.action == "retrain":
        about: dict[str, Any] = {
            "reason": decision.reason,
            "classes": decision.classes,
            "window": window.name,
            "evidence": {"cause": "accuracy", "rules": payload["rules"], "model_version": version},
        }
        number, new = requests.open_request(connection, now=now, **about)
        if not new:
            requests.sharpen_request(connection, number, **about)


def _as_recorded(judgement: Judgement, payload: Mapping[str, Any]) -> tuple[tuple[ClassAccuracy, ...], Decision]:
    """Return today's estimates (late labels count in them) under the states and the decision that were recorded."""
    states = payload["states"]
    classes = tuple(_with_state(c, states.get(c.name)) for c in judgement.classes)
    decided = payload["decision"]
    return classes, Decision(decided["action"], tuple(decided["classes"]), decided["reason"])


def _with_state(found: ClassAccuracy, state: list[Any] | None) -> ClassAccuracy:
    if state is None:
        return found
    return replace(found, state=ClassState(state[0]), reasons=tuple(state[1]))
