"""What other rules would have done with this service's own history, and a window to model simulated years on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from components.errors import RefusedError
from components.monitoring.backtests.backtest import Attempt, Replay, Segment, Step
from components.monitoring.backtests.rules import IN_FORCE, RECORDED, Rules
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import Stage
from components.monitoring.retraining import Outcome
from components.monitoring.sampling.asking import newly_drifted
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.records import StratumCounts, Window
from components.store import labelling, monitoring, replay
from components.store.postgres.embedded import EmbeddedPostgres
from components.store.replay import Begun, DrawnSegment, Sample

LIMITS = (
    "answers exist only for the tasks that were drawn: rules that draw fewer are given the first of them, as a real "
    "draw would; rules that draw more are judged on what there is, and `missing` says how many answers they lack",
    "a window's predictions are those of the model that served it: what a retraining that did not happen would have "
    "brought is not known, nor how the windows after one that did happen would have looked without it",
    "which alarms were true is not known: nobody knows the truth about stored predictions; simulated years (--years) "
    "know it",
    "retrainings of the schedule and of people stay as they were and count for the cooldown; one that only the replay "
    "starts is taken to have helped",
)


def replay_history(services: Services, rules: Sequence[Rules]) -> dict[str, Any]:
    """Return, for each of `rules`, what it would have decided in every window that was judged for good.

    Beside them stands what was recorded, and how far the rules in force decide today as was decided then.
    Raises RefusedError where nothing was judged yet. Windows of several labels are not replayed.
    """
    drawn = replay.drawn_segments(services.database)
    judged = [segment for segment in drawn if segment.judged_for_good]
    if not judged:
        raise RefusedError(
            "no window was judged yet, so there is no history to replay (windows of several labels are not replayed); "
            "--years 50 tries the rules in simulated years"
        )
    begun = replay.retrainings(services.database)
    replays = [Replay(one, outcome=_outcomes(begun), outside=_outside(begun)) for one in rules]
    steps: list[list[Step]] = [[] for _ in rules]
    shown: list[dict[str, Any]] = []
    tasks = 0
    for segment, sample in _segments(services, judged, begun):
        for one, so_far in zip(replays, steps, strict=True):
            so_far.append(one.step(segment))
        shown.append(_shown(segment))
        tasks += len(sample.answer)
    tasks += sum(
        labelling.queue_response(services.database, "training", name)[1] for name in {s.window for s in judged}
    )
    for one in replays:
        one.advance(shown[-1]["until"])
    for window in shown:
        del window["until"]
    return {
        "mode": "stored",
        "windows": shown,
        "left_out": sorted({s.window for s in drawn if not s.judged_for_good}),
        "recorded": _recorded(judged, begun, tasks),
        "rules": [
            _told(one, so_far, replayed.attempts, replayed.waiting)
            for one, so_far, replayed in zip(rules, steps, replays, strict=True)
        ],
        "agreement": _agreement(judged, next((s for r, s in zip(rules, steps, strict=True) if r.name == IN_FORCE), [])),
        "limits": list(LIMITS),
    }


def has_history(workspace: Workspace) -> bool:
    """Return whether there can be a stored window: a database was named, or the embedded one was made."""
    return workspace.settings.database_url is not None or EmbeddedPostgres(workspace.state).made()


def quiet_window(services: Services, window_name: str | None) -> tuple[str, StratumCounts] | None:
    """Return the newest labelled segment that raised no alarm, or one of the named window; None without any.

    Simulated years start from it: its classes, confidences and errors are those of a healthy service.
    """
    for stored in reversed(replay.drawn_segments(services.database)):
        fits = stored.window == window_name if window_name else stored.judged_for_good and not _alarmed(stored)
        if fits:
            counts = labelling.counts(services.database, Window.parse(stored.window), stored.model_version)
            if counts.labelled.sum() > 0:
                return stored.window, counts
    return None


def _segments(
    services: Services, judged: Sequence[DrawnSegment], begun: Sequence[Begun]
) -> Iterator[tuple[Segment, Sample]]:
    """Yield the segments one by one: memory holds the tasks of one, however long the history is."""
    wait = timedelta(days=services.workspace.params.labelling.judge_after_days)
    started = {one.window: one.started_at for one in begun if one.window}
    for stored in judged:
        window = Window.parse(stored.window)
        frozen = labelling.counts(services.database, window, stored.model_version)
        sample = replay.sample_of(services.database, window, stored.model_version)
        first_at = stored.first_at or stored.drawn_at
        topped_up_at = stored.topped_up_at or first_at + wait
        segment = Segment(
            window=window,
            model_version=stored.model_version,
            counts=_nothing_drawn(frozen),
            answered=_Nested(frozen, sample, {"first": first_at, "topped-up": topped_up_at}),
            drawn_at=stored.drawn_at,
            first_at=first_at,
            topped_up_at=topped_up_at,
            ready_at=started.get(stored.window),
            drifted=_newly_drifted(services, window, stored.model_version),
        )
        yield segment, sample


def _newly_drifted(services: Services, window: Window, version: int) -> tuple[str, ...]:
    now, before = (monitoring.findings(services.database, one, version) for one in (window, window.previous()))
    return newly_drifted([f.column for f in now if f.drifted], [f.column for f in before if f.drifted])


class _Nested:
    """The answers to the first tasks of every stratum, as far as they had come in at a judgement."""

    def __init__(self, frozen: StratumCounts, sample: Sample, moments: dict[Stage, datetime]) -> None:
        self._frozen, self._sample, self._moments = frozen, sample, moments
        self._stratum = sample.predicted * frozen.population.shape[1] + sample.conf_bin
        first = np.searchsorted(self._stratum, self._stratum, side="left")
        self._rank = np.arange(len(first)) - first

    def __call__(self, wanted: NDArray[np.int64], stage: Stage) -> StratumCounts:
        known, sample = self._frozen, self._sample
        shape, columns = known.population.shape, len(known.classes) + 1
        there = self._rank < wanted.reshape(-1)[self._stratum]
        told = there & (sample.answer >= 0) & (sample.settled_at <= self._moments[stage].timestamp())
        cells = self._stratum[told] * columns + sample.answer[told]
        answers = np.bincount(cells, minlength=known.population.size * columns).reshape(*shape, columns)
        return StratumCounts(
            classes=known.classes,
            population=known.population,
            labelled=answers.sum(axis=2),
            answers=answers,
            drawn=np.bincount(self._stratum[there], minlength=known.population.size).reshape(shape),
            confidence=known.confidence,
        )


def _nothing_drawn(frozen: StratumCounts) -> StratumCounts:
    nothing = np.zeros_like(frozen.population)
    return StratumCounts(
        frozen.classes, frozen.population, nothing, np.zeros_like(frozen.answers), nothing, frozen.confidence
    )


def _outcomes(begun: Sequence[Begun]) -> Any:
    known = {one.window: _outcome(one.state) for one in begun if one.window}

    def outcome(window: str, started_at: datetime) -> Outcome:  # noqa: ARG001
        return known.get(window, "done")

    return outcome


def _outside(begun: Sequence[Begun]) -> list[Attempt]:
    return [Attempt(one.started_at, _outcome(one.state)) for one in begun if one.window is None]


def _outcome(state: str) -> Outcome:
    found: Outcome = next((known for known in get_args(Outcome) if known == state), "done")
    return found


def _shown(segment: Segment) -> dict[str, Any]:
    """Return what is known of one segment from every answer that counted in its last judgement."""
    counts = segment.answered(segment.counts.population, "topped-up")
    accuracy = estimate(counts).accuracy
    return {
        "window": segment.window.name,
        "model_version": segment.model_version,
        "predictions": int(counts.population.sum()),
        "labels": int(counts.labelled.sum()),
        "overall": accuracy.as_json() if accuracy else None,
        "until": max(segment.topped_up_at, segment.ready_at or segment.topped_up_at),
    }


def _alarmed(stored: DrawnSegment) -> bool:
    return stored.payload is not None and stored.payload["decision"]["action"] == "retrain"


def _recorded(judged: Sequence[DrawnSegment], begun: Sequence[Begun], tasks: int) -> dict[str, Any]:
    started = {one.window: one for one in begun if one.window}
    windows = []
    for stored in judged:
        decision = stored.payload["decision"] if stored.payload else {}
        renewal = started.get(stored.window) if _alarmed(stored) else None
        windows.append(
            {
                "window": stored.window,
                "model_version": stored.model_version,
                "action": decision["action"],
                "classes": list(decision["classes"]),
                "reason": decision["reason"],
                "retrained_at": renewal.started_at.isoformat() if renewal else None,
            }
        )
    return {
        "name": RECORDED,
        "alarms": sum(_alarmed(stored) for stored in judged),
        "retrainings": len(started),
        "retrainings_without_alarm": sum(one.window is None for one in begun),
        "labels": tasks,
        "windows": windows,
    }


def _told(rules: Rules, steps: Sequence[Step], attempts: Sequence[Attempt], waiting: str | None) -> dict[str, Any]:
    by_window = {attempt.window: attempt for attempt in attempts}
    windows = []
    for step in steps:
        attempt = by_window.get(step.window) if step.opened else None
        windows.append(
            {
                "window": step.window,
                "model_version": step.model_version,
                "action": step.decision.action,
                "classes": list(step.decision.classes),
                "alarmed": {name: list(by) for name, by in step.alarmed},
                "reason": step.decision.reason,
                "labels": step.labels,
                "missing": step.missing,
                "reference": step.reference,
                "retrained_at": attempt.started_at.isoformat() if attempt else None,
                "refused_before": attempt.first_refusal if attempt else "",
            }
        )
    return {
        "name": rules.name,
        "changed": {key: {"in_force": old, "here": new} for key, old, new in rules.changed},
        "without_effect": list(rules.without_effect),
        "alarms": sum(step.fired for step in steps),
        "retrainings": len(attempts),
        "delayed": sum(attempt.refusals > 0 for attempt in attempts),
        "waiting": waiting,
        "labels": sum(step.labels for step in steps),
        "missing": sum(step.missing for step in steps),
        "first_alarms": _first_alarms(steps),
        "windows": windows,
    }


def _first_alarms(steps: Sequence[Step]) -> dict[str, str]:
    first: dict[str, str] = {}
    for step in steps:
        for name, _ in step.alarmed:
            first.setdefault(name, step.window)
    return first


def _agreement(judged: Sequence[DrawnSegment], steps: Sequence[Step]) -> dict[str, Any]:
    """Return in how many segments the rules in force decide as was recorded, and where they do not."""
    differing = []
    for stored, step in zip(judged, steps, strict=True):
        then = stored.payload["decision"] if stored.payload else {}
        if (then["action"], list(then["classes"])) != (step.decision.action, list(step.decision.classes)):
            differing.append(
                {
                    "window": stored.window,
                    "model_version": stored.model_version,
                    "recorded": then["reason"],
                    "replayed": step.decision.reason,
                }
            )
    return {"same": len(judged) - len(differing), "of": len(judged), "differing": differing}
