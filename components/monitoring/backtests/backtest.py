"""What would these rules have done? Windows judged again in order, with the service's own trigger and cooldown.

A replay keeps what the live loop keeps: the reference level, one open request for a retraining, the attempts so far,
the labels since the last one. It asks for no clock: every window brings the moments at which it was drawn and judged.
A request that is refused, for the cooldown or for too few labels, is asked again every day, as the daily flow does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from components.monitoring.backtests.rules import Rules
from components.monitoring.estimation.accuracy import Estimates, estimate
from components.monitoring.judgement.policy import (
    Judgement,
    Stage,
    judge,
    next_level,
    reference_from,
    reference_obstacle,
)
from components.monitoring.judgement.reference import ReferenceLevel
from components.monitoring.judgement.trigger import Rule
from components.monitoring.retraining import Outcome, should_retrain
from components.monitoring.sampling.asking import Judged, OpenQuestions, latest, left_open, next_draw
from components.monitoring.sampling.one_class import budget
from components.records import Decision, StratumCounts, Window

DAY = timedelta(days=1)
KEPT = 60  # judgements of the newest segments, for the draws that follow them: daily windows are judged late

IntArray = NDArray[np.int64]
Answered = Callable[[IntArray, Stage], StratumCounts]
Outcomes = Callable[[str, datetime], Outcome]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One model's predictions of one closed window, and the answers that can be had about them.

    counts: population and confidence, nothing drawn. answered: given how many are drawn of each stratum in all (K, B),
    by smallest `u`, and the stage, returns the counts at that judgement; their `drawn` is less where answers were never
    asked for. ready_at: when the images asked for after an alarm were answered, None where nobody asked for them.
    drifted: columns that had newly drifted in the window when it was drawn.
    """

    window: Window
    model_version: int
    counts: StratumCounts
    answered: Answered
    drawn_at: datetime
    first_at: datetime
    topped_up_at: datetime
    ready_at: datetime | None = None
    drifted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A retraining that was started. window: the one whose alarm asked for it; None for one nobody's alarm asked for.

    refusals: on how many days it was refused before, first_refusal: why at first.
    """

    started_at: datetime
    outcome: Outcome
    window: str | None = None
    refusals: int = 0
    first_refusal: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What the rules did about one segment.

    alarmed: class names, each with the rules that condemned it. rounds: judgements, 0 to 2. labels: answers asked for,
    those of an alarm's training queue among them. missing: those of the sample that nobody was asked for, so that the
    judgement was made without them. opened: whether the alarm opened a request. reference: set, replaced,
    extended or "".
    """

    window: str
    model_version: int
    decision: Decision
    alarmed: tuple[tuple[str, tuple[Rule, ...]], ...] = ()
    rounds: int = 0
    labels: int = 0
    missing: int = 0
    opened: bool = False
    reference: str = ""

    @property
    def fired(self) -> bool:
        """Return whether this was an alarm."""
        return self.decision.action == "retrain"


@dataclass(slots=True)
class _Request:
    window: str
    classes: tuple[str, ...]
    ask_at: datetime
    refusals: int = 0
    first_refusal: str = ""


@dataclass(slots=True)
class _Tally:
    """What was asked for in one segment so far."""

    labels: int = 0
    missing: int = 0
    rounds: int = 0


class Replay:
    """One set of rules on its way through the windows. `attempts` are the retrainings it started, oldest first.

    outcome: given the window of the alarm and the start, what that retraining came to. outside: retrainings that
    started whatever the rules said, oldest first: people's and the schedule's. They count for the cooldown, and one
    that begins while a request waits serves it, as in the live loop.
    """

    def __init__(self, rules: Rules, *, outcome: Outcomes, outside: Sequence[Attempt] = ()) -> None:
        self.rules = rules
        self.attempts: list[Attempt] = []
        self._outcome = outcome
        self._outside = list(outside) if rules.fires == "judged" else []
        self._begun: list[Attempt] = []
        self._level: ReferenceLevel | None = None
        self._level_at: datetime | None = None
        self._request: _Request | None = None
        self._new_labels = 0
        self._fired_in: str | None = None
        self._judged: list[Judged] = []

    @property
    def waiting(self) -> str | None:
        """Return the window whose request has not started yet, or None."""
        return self._request.window if self._request else None

    def advance(self, until: datetime) -> None:
        """Live through the days up to `until`: start, or refuse once more, the retraining that waits."""
        while True:
            asked_at = self._request.ask_at if self._request else None
            if self._outside and (asked_at is None or self._outside[0].started_at <= asked_at):
                if self._outside[0].started_at > until:
                    return
                self._begin_outside(self._outside.pop(0))
            elif self._request is not None and self._request.ask_at <= until:
                self._ask(self._request)
            else:
                return

    def step(self, segment: Segment) -> Step:
        """Return what the rules do about `segment`; segments come in the order in which they were judged."""
        if self.rules.fires != "judged":
            return self._without_judging(segment)
        self.advance(segment.first_at)
        tally = _Tally()
        counts = self._draw(segment, tally)
        estimates = estimate(counts)
        self._new_labels += _trainable(counts)
        tally.rounds = 1
        if self._level is None:
            return self._first_level(segment, estimates, tally)
        judgement = judge(estimates, counts, self._level, self.rules.monitor, "first")
        judged_at = segment.first_at
        if not judgement.final:
            counts, estimates, judgement = self._top_up(segment, counts, judgement, self._level, tally)
            judged_at = segment.topped_up_at
            self.advance(judged_at)
        name, version = segment.window.name, segment.model_version
        asked = left_open(name, judgement, estimates, self.rules.monitor)
        # Windows overlap in time only a little: what is older than the last few is asked about no more.
        self._judged = [*self._judged[-KEPT:], Judged(name, version, judged_at, asked, counts)]
        changed, self._level, _ = next_level(
            self._level, estimates, name, suspected=bool(judgement.suspects), rules=self.rules.monitor
        )
        opened = False
        if judgement.decision.action == "retrain":
            tally.labels += self.rules.labelling.training_queue
            opened = self._open(segment, judgement.decision.classes, judged_at)
        return Step(
            window=segment.window.name,
            model_version=segment.model_version,
            decision=judgement.decision,
            alarmed=tuple(judgement.alarmed.items()),
            rounds=tally.rounds,
            labels=tally.labels,
            missing=tally.missing,
            opened=opened,
            reference="" if changed == "kept" else changed,
        )

    def _without_judging(self, segment: Segment) -> Step:
        name, version = segment.window.name, segment.model_version
        if self.rules.fires == "never" or self._fired_in == name:
            return Step(name, version, Decision("none", reason="this baseline judges nothing"))
        self._fired_in = name
        outcome = self._outcome(name, segment.drawn_at)
        self.attempts.append(Attempt(segment.drawn_at, outcome, name))
        decision = Decision("retrain", reason="this baseline retrains in every window")
        return Step(name, version, decision, labels=self.rules.labelling.training_queue, opened=True)

    def _draw(self, segment: Segment, tally: _Tally) -> StratumCounts:
        # As at the draw: a window that closed before the first one was judged was drawn as a reference too.
        known = self._level_at is not None and self._level_at <= segment.drawn_at
        reference = not known or (self._level is not None and self._level.window == segment.window.name)
        n = budget(int(segment.counts.population.sum()), self.rules.labelling, reference=reference)
        before = None if reference else latest(self._judged, segment.model_version, at=segment.drawn_at)
        questions = before.questions if before else OpenQuestions()
        if not reference:
            questions = replace(questions, drifted=segment.drifted)
        drawn = next_draw(
            segment.counts, n, questions, labelling=self.rules.labelling,
            topup_labels=self.rules.monitor.topup_labels, before=before.counts if before else None,
        )  # fmt: skip
        return _had(segment, drawn.sizes, "first", tally)

    def _top_up(
        self, segment: Segment, counts: StratumCounts, judgement: Judgement, level: ReferenceLevel, tally: _Tally
    ) -> tuple[StratumCounts, Estimates, Judgement]:
        wanted = np.minimum(counts.drawn + judgement.top_up, counts.population)
        more = _had(segment, wanted, "topped-up", tally, before=counts.drawn)
        tally.rounds = 2
        self._new_labels += _trainable(more) - _trainable(counts)
        estimates = estimate(more)
        return more, estimates, judge(estimates, more, level, self.rules.monitor, "topped-up")

    def _first_level(self, segment: Segment, estimates: Estimates, tally: _Tally) -> Step:
        obstacle = reference_obstacle(estimates)
        decision = Decision("none", reason=f"window {segment.window.name} cannot be the reference: {obstacle}")
        if obstacle is None:
            self._level = reference_from(estimates, segment.window.name)
            self._level_at = segment.first_at
            decision = Decision("none", reason=f"window {segment.window.name} is the reference from now on")
        return Step(
            segment.window.name, segment.model_version, decision, rounds=1, labels=tally.labels, missing=tally.missing,
            reference="" if obstacle else "set",
        )  # fmt: skip

    def _open(self, segment: Segment, classes: tuple[str, ...], judged_at: datetime) -> bool:
        """Ask for a retraining, unless one is waited for; it is due when its images are answered."""
        if self._request is not None:
            return False
        labelling = self.rules.labelling
        ready_at = judged_at + timedelta(days=labelling.judge_after_days if labelling.training_queue else 0)
        if segment.ready_at is not None:
            ready_at = max(judged_at, min(ready_at, segment.ready_at))
        self._request = _Request(segment.window.name, classes, ready_at)
        self._new_labels += labelling.training_queue
        return True

    def _ask(self, request: _Request) -> None:
        now = request.ask_at
        last = self._begun[-1] if self._begun else None
        decision = should_retrain(
            "accuracy",
            classes=request.classes,
            now=now,
            last_attempt=last.started_at if last else None,
            last_outcome=last.outcome if last else None,
            attempts_this_month=sum(_month(a.started_at) == _month(now) for a in self._begun),
            new_labels=self._new_labels,
            new_labels_since_attempt=self._new_labels,
            running=False,
            rules=self.rules.retrain,
        )
        if decision.action != "retrain":
            request.refusals += 1
            request.first_refusal = request.first_refusal or decision.reason
            request.ask_at = now + DAY
            return
        outcome = self._outcome(request.window, now)
        attempt = Attempt(now, outcome, request.window, request.refusals, request.first_refusal)
        self.attempts.append(attempt)
        self._request = None
        self._begin(attempt)

    def _begin_outside(self, attempt: Attempt) -> None:
        """Let a retraining begin that somebody else started: it serves the request that waits, if one does."""
        if self._request is not None:
            attempt = replace(attempt, window=self._request.window)
            self.attempts.append(attempt)
            self._request = None
        self._begin(attempt)

    def _begin(self, attempt: Attempt) -> None:
        self._begun.append(attempt)
        if attempt.outcome != "failed":  # the candidate was trained on all labels there were
            self._new_labels = 0


def _had(
    segment: Segment, wanted: IntArray, stage: Stage, tally: _Tally, before: IntArray | None = None
) -> StratumCounts:
    """Return the counts that `wanted` gives, and note how many further tasks that asks for and how many there are not.

    A sample can only be judged on what was drawn in its time: what is missing is missing for good.
    """
    counts = segment.answered(wanted, stage)
    tally.labels += int(wanted.sum()) - (0 if before is None else int(before.sum()))
    tally.missing += int((wanted - counts.drawn).sum())
    return counts


def _trainable(counts: StratumCounts) -> int:
    """Return how many answers name a class; `other` teaches nothing."""
    return int(counts.answers[:, :, :-1].sum())


def _month(moment: datetime) -> tuple[int, int]:
    return moment.year, moment.month
