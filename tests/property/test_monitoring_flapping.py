"""Retraining never flaps: whatever a year brings, attempts stay within the rules, and the rules let through the rest.

A year is lived as the service lives it: every day some cause asks, an attempt that starts is recorded and takes its
time, labels arrive and go into the training data, and the next ask is answered from that record alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.monitoring.retraining import Cause, Outcome, schedule_due, should_retrain
from components.params import Retrain
from components.records import Decision, Window, WindowLength

BEGIN = datetime(2026, 1, 1, 6, tzinfo=UTC)
AUTOMATIC: tuple[Cause, ...] = ("accuracy", "schedule", "drift", "labels", "age")
HELPLESS: tuple[Outcome, ...] = ("unhelpful", "refused")
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)

rules_of_any_service = st.builds(
    Retrain,
    retrain_on=st.sampled_from(["accuracy", "drift"]),
    cooldown_days=st.sampled_from([0.0, 2.5, 8.0, 20.0, 45.0]),
    minimum_new_labels=st.sampled_from([0, 1, 50, 200]),
    most_per_month=st.integers(1, 4),
)


@dataclass(frozen=True)
class Attempt:
    """One retraining that began. `outcome` is what it will have come to at `ends_at`."""

    cause: Cause
    started_at: datetime
    ends_at: datetime
    outcome: Outcome
    month: str


@dataclass(frozen=True)
class Asked:
    """One ask, and all that was true at that moment. `last` is the attempt before, `new_labels` are those not used."""

    cause: Cause
    at: datetime
    decision: Decision
    last: Attempt | None
    running: bool
    attempts_this_month: int
    new_labels: int
    labels_since_attempt: int
    new_dataset: bool

    @property
    def automatic(self) -> bool:
        return self.cause in AUTOMATIC

    @property
    def begins(self) -> bool:
        return self.decision.action == "retrain"


@dataclass
class Service:
    """The record that a service keeps of itself.

    collecting: an attempt takes the labels into the training data at its start, as the service does; else they stay
    new until a champion is trained on them. forgetting: attempts that ended as refused are no attempts.
    """

    rules: Retrain
    collecting: bool
    forgetting: bool
    attempts: list[Attempt] = field(default_factory=list)
    labels: list[datetime] = field(default_factory=list)
    used_labels: int = 0
    new_dataset: bool = False
    asked: list[Asked] = field(default_factory=list)

    def counted(self, now: datetime) -> list[Attempt]:
        """Return the attempts that count at `now`, oldest first."""
        forgotten = self.forgetting
        return [a for a in self.attempts if not (forgotten and a.outcome == "refused" and a.ends_at <= now)]

    def ask(self, cause: Cause, now: datetime, outcome: Outcome, lasts: timedelta) -> None:
        """Ask for a retraining; if it begins, it takes `lasts` and comes to `outcome`."""
        before = self.counted(now)
        last = before[-1] if before else None
        running = last is not None and last.ends_at > now
        new_labels = len(self.labels) - self.used_labels
        since_attempt = len(self.labels) - bisect_left(self.labels, last.started_at) if last else new_labels
        month = Window.containing(now).name
        this_month = sum(a.month == month for a in before)
        decision = should_retrain(
            cause,
            now=now,
            last_attempt=last.started_at if last else None,
            last_outcome=last.outcome if last and not running else None,
            attempts_this_month=this_month,
            new_labels=new_labels,
            new_labels_since_attempt=since_attempt,
            running=running,
            new_dataset=self.new_dataset,
            rules=self.rules,
        )
        self.asked.append(
            Asked(cause, now, decision, last, running, this_month, new_labels, since_attempt, self.new_dataset)
        )
        if decision.action == "retrain":
            self.attempts.append(Attempt(cause, now, now + lasts, outcome, month))
            if self.collecting or outcome == "done":
                self.used_labels = len(self.labels)
            if outcome != "failed":  # a candidate was trained on whatever had come in
                self.new_dataset = False


@dataclass(frozen=True)
class Season:
    """What four weeks are like: who asks and how often, what attempts come to, and what arrives."""

    causes: Sequence[Cause]
    outcomes: Sequence[Outcome]
    asks_a_day: float
    labels_a_day: float
    datasets_a_day: float
    longest_days: float


seasons = st.builds(
    Season,
    causes=st.lists(st.sampled_from(get_args(Cause)), min_size=1, max_size=5),
    outcomes=st.lists(st.sampled_from(get_args(Outcome)), min_size=1, max_size=3),
    asks_a_day=st.sampled_from([1 / 28, 0.3, 1.0, 2.0]),
    labels_a_day=st.sampled_from([0.0, 2.0, 10.0]),
    datasets_a_day=st.sampled_from([0.0, 0.0, 0.02, 0.2]),
    longest_days=st.sampled_from([0.01, 1.0, 12.0]),
)


@st.composite
def years(draw_from: st.DrawFn) -> Service:
    """A service after 52 weeks or more in which causes asked, labels came and attempts ended as they liked."""
    service = Service(draw_from(rules_of_any_service), draw_from(st.booleans()), draw_from(st.booleans()))
    rng = np.random.default_rng(draw_from(st.integers(0, 2**32 - 1)))
    for number, season in enumerate(draw_from(st.lists(seasons, min_size=13, max_size=16))):
        for day in range(28):
            live_a_day(service, season, BEGIN + timedelta(days=28 * number + day), rng)
    return service


def live_a_day(service: Service, season: Season, morning: datetime, rng: np.random.Generator) -> None:
    """Let arrive what the season brings, then ask, at random hours."""
    service.new_dataset = service.new_dataset or bool(rng.random() < season.datasets_a_day)
    service.labels += [morning] * int(rng.poisson(season.labels_a_day))
    for hours in np.sort(rng.uniform(0, 24, rng.poisson(season.asks_a_day))):
        service.ask(
            season.causes[rng.integers(len(season.causes))],
            morning + timedelta(hours=float(hours)),
            season.outcomes[rng.integers(len(season.outcomes))],
            timedelta(days=float(rng.uniform(0, season.longest_days))),
        )


@SETTINGS
@given(years())
def test_no_calendar_month_has_more_automatic_attempts_than_allowed(service: Service) -> None:
    counted = service.counted(service.asked[-1].at + timedelta(days=30)) if service.asked else []
    months = Counter(a.month for a in counted if a.cause in AUTOMATIC)
    assert all(many <= service.rules.most_per_month for many in months.values())
    for asked in service.asked:
        if asked.automatic and asked.begins:  # those that people asked for take their share
            assert asked.attempts_this_month < service.rules.most_per_month


@SETTINGS
@given(years())
def test_an_automatic_attempt_keeps_the_cooldown_after_any_attempt(service: Service) -> None:
    for asked in service.asked:
        if asked.automatic and asked.begins and asked.last is not None:
            assert asked.at - asked.last.started_at >= timedelta(days=service.rules.cooldown_days)


@SETTINGS
@given(years())
def test_after_an_attempt_that_did_not_help_no_cause_starts_another_without_new_labels(service: Service) -> None:
    for asked in service.asked:
        if not asked.automatic or not asked.begins or asked.new_dataset:
            continue
        assert asked.new_labels >= service.rules.minimum_new_labels
        if asked.last is not None and asked.last.outcome in HELPLESS:
            assert asked.labels_since_attempt >= service.rules.minimum_new_labels


@SETTINGS
@given(years())
def test_no_attempt_begins_while_another_is_under_way(service: Service) -> None:
    for earlier, later in pairwise(service.attempts):
        assert later.started_at >= earlier.ends_at
    assert not any(asked.begins for asked in service.asked if asked.running)


@SETTINGS
@given(years())
def test_drift_starts_nothing_unless_the_service_was_told_so(service: Service) -> None:
    for asked in service.asked:
        only_watched = asked.cause == "drift" and service.rules.retrain_on != "drift"
        assert asked.decision.action in (("ask-labels",) if only_watched else ("retrain", "refused"))


@SETTINGS
@given(years())
def test_what_people_ask_for_waits_for_another_attempt_and_unless_forced_for_something_new(service: Service) -> None:
    for asked in service.asked:
        if not asked.automatic:
            something_new = asked.cause == "forced" or asked.new_labels > 0 or asked.new_dataset
            assert asked.begins == (something_new and not asked.running)


def stands_in_the_way(asked: Asked, rules: Retrain) -> bool:
    """Return whether any of the rules forbids what an automatic cause asked for."""
    enough = asked.new_labels >= rules.minimum_new_labels
    too_soon = False
    if asked.last is not None:
        too_soon = asked.at < asked.last.started_at + timedelta(days=rules.cooldown_days)
        if asked.last.outcome in HELPLESS:
            enough = enough and asked.labels_since_attempt >= rules.minimum_new_labels
    too_often = asked.attempts_this_month >= rules.most_per_month
    return asked.running or too_soon or too_often or not (enough or asked.new_dataset)


@SETTINGS
@given(years())
def test_an_automatic_attempt_begins_wherever_no_rule_stands_in_the_way(service: Service) -> None:
    for asked in service.asked:
        if asked.automatic and asked.decision.action != "ask-labels":
            assert asked.begins == (not stands_in_the_way(asked, service.rules))
    assert all(asked.decision.reason for asked in service.asked)


def test_the_years_above_hold_attempts_and_refusals_of_every_kind() -> None:
    """Invariants over histories in which nothing happens would hold for anything."""
    seen: Counter[str] = Counter()

    @SETTINGS
    @given(years())
    def live(service: Service) -> None:
        seen.update(asked.decision.reason for asked in service.asked)
        seen["no help"] += sum(a.outcome in HELPLESS and a.cause in AUTOMATIC for a in service.attempts)

    live()
    for words in (
        "worth it", "under way", "the cooldown ends", "retrainings this month", "since the last training, ",
        "did not help", "drift asks for labels", "nothing new", "no help",
    ):  # fmt: skip
        assert sum(many for reason, many in seen.items() if words in reason) >= 30, words


moments_between_asks = st.one_of(
    st.timedeltas(timedelta(minutes=1), timedelta(hours=30)), st.timedeltas(timedelta(days=1), timedelta(days=120))
)


def scheduled_runs(asks: Sequence[datetime], every: WindowLength, zone: timezone) -> list[datetime]:
    """When a schedule that was looked at only at these moments ran, read on a clock of `zone`."""
    runs: list[datetime] = []
    for now in asks:
        if schedule_due(now.astimezone(zone), runs[-1] if runs else None, every):
            runs.append(now)
    return runs


@SETTINGS
@given(
    st.lists(moments_between_asks, min_size=1, max_size=60),
    st.sampled_from(get_args(WindowLength)),
    st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_a_schedule_runs_once_in_every_window_that_is_looked_at_however_many_were_missed(
    gaps: list[timedelta], every: WindowLength, zone: timezone
) -> None:
    asks = [BEGIN + sum(gaps[:n], timedelta()) for n in range(len(gaps) + 1)]
    looked_at = [Window.containing(now, every).name for now in asks]
    runs = scheduled_runs(asks, every, zone)
    assert [Window.containing(run, every).name for run in runs] == list(dict.fromkeys(looked_at))
    firsts = {name: asks[looked_at.index(name)] for name in looked_at}
    assert runs == list(firsts.values())  # at the first look, not at a later one


@SETTINGS
@given(st.integers(0, 600), st.integers(0, 24 * 60 - 1), st.sampled_from(get_args(WindowLength)))
def test_after_any_silence_one_run_catches_up_and_the_next_waits_for_its_window(
    days: int, minutes: int, every: WindowLength
) -> None:
    now = BEGIN + timedelta(days=days, minutes=minutes)
    due = schedule_due(now, BEGIN, every)
    assert due == (Window.containing(now, every) != Window.containing(BEGIN, every))
    caught_up = now if due else BEGIN
    assert not schedule_due(now, caught_up, every)
    following = Window.containing(now, every).end
    assert not schedule_due(following - timedelta(seconds=1), caught_up, every)
    assert schedule_due(following, caught_up, every)
