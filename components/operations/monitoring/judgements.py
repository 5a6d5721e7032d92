"""Judge a segment if a judgement is due, once, and act on it: of classes and of labels alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from components.monitoring.estimation.annotator_error import Corrected
from components.monitoring.estimation.error_rates import ErrorRates
from components.monitoring.judgement.measured import Held
from components.monitoring.judgement.measurement import Measurement
from components.monitoring.judgement.policy import Judgement, Stage
from components.operations.monitoring import reactions, reference
from components.operations.services import Services
from components.operations.windows import closing_obstacle, undrawn_reason, waits_for_reference
from components.params import Monitor
from components.records import ClassAccuracy, ClassState, Decision, Window
from components.store import champions, labelling, ledger, monitoring, predictions, requests
from components.store.database import Store
from components.store.draws.label_drawing import top_up_labels


@dataclass(frozen=True, slots=True)
class Watched:
    """One segment under judgement: a window's predictions of one model, as they are measured.

    rates: of false positives and negatives. shown: the estimates corrected for the annotators' error, which people see,
    while verdicts compare answers with the reference's answers; None where nothing is corrected. note: what is known of
    that error, in words.
    """

    window: Window
    segment: predictions.Segment
    measurement: Measurement[Any]
    rates: ErrorRates
    shown: Corrected | None
    note: str


def judge_once(services: Services, watched: Watched, now: datetime) -> tuple[tuple[ClassAccuracy, ...], Decision]:
    """Judge if a judgement is due, act on it once, and return the classes with the decision in force."""
    window, version = watched.window, watched.segment.model_version
    several = watched.segment.several
    # Of its own class list, if there is one: a name may mean something else in a newer one.
    own = monitoring.reference_level(services.database, watched.segment.classes, several=several)
    stored = own or monitoring.reference_level(services.database, several=several)
    level = watched.measurement.read(stored.level) if stored else None
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
    if level is None and watched.measurement.estimates.labelled > 0:
        return judgement.classes, reference.set_first(services, window, version, watched.measurement, now=now)
    if level is None:
        return judgement.classes, judgement.decision
    judgement = _of_what_serves(services, version, judgement)
    _record(services, watched, level, judgement, len(recorded) + 1, now)
    return judgement.classes, judgement.decision


def _judged(watched: Watched, level: Any, rules: Monitor, stage: Stage) -> Judgement:
    """Return the judgement, its classes with the estimates that people are shown."""
    judgement = watched.measurement.judge(level, rules, stage)
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
    services: Services, watched: Watched, level: Held, judgement: Judgement, round_no: int, now: datetime
) -> None:
    window, version = watched.window, watched.segment.model_version
    payload = {
        "final": judgement.final,
        "decision": judgement.decision.as_json(),
        "rules": {name: list(rules) for name, rules in judgement.alarmed.items()},
        "states": {c.name: [str(c.state), list(c.reasons)] for c in judgement.classes},
    }
    if not judgement.final:
        draw_further = top_up_labels if watched.segment.several else labelling.top_up
        draw_further(services.database, window, version, judgement.top_up, now=now)
    decision = judgement.decision
    # One transaction: a crash leaves a judgement with its ledger row and its request, or none of them.
    with services.database.transaction() as connection:
        first = monitoring.record_judgement(connection, window, version, round_no, payload, now=now)
        if first:  # else the lock was lost with its connection, and another monitor was quicker
            _announce(connection, watched, level, judgement, payload, now)
        if first and judgement.final:
            reference.improve(
                connection, window, version, watched.measurement, level, suspected=bool(judgement.suspects),
                rules=services.workspace.params.monitor, now=now,
            )  # fmt: skip
    if judgement.final:
        reactions.follow_up(services, window, version, judgement.classes, decision, note=watched.note, now=now)


def _announce(
    connection: Store,
    watched: Watched,
    level: Held,
    judgement: Judgement,
    payload: Mapping[str, Any],
    now: datetime,
) -> None:
    window, version, decision = watched.window, watched.segment.model_version, judgement.decision
    ledger.record(
        connection, kind="judgement", actor="monitor", action=decision.action, reason=decision.reason,
        classes=decision.classes, window=window.name, model_version=version, now=now,
        evidence={**decision.evidence, **watched.measurement.inputs(level)},
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
