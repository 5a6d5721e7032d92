"""A service that is asked every day whether anything is a reason to retrain: it never flaps, whatever a year brings.

A year is lived from the record alone, as by the daily flow: an ask that is worth it opens a request, the request begins
within days, takes its time, and comes to something; labels arrive, windows drift, days are slept through.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.monitoring.causes import CAUSES, Standing, ask_again, ask_causes
from components.monitoring.retraining import Outcome
from components.params import Retrain
from components.records import Decision, Window

BEGIN = datetime(2026, 1, 2, 6, tzinfo=UTC)
DAYS = 400
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)

rules_of_any_service = st.builds(
    Retrain,
    retrain_on=st.sampled_from(["accuracy", "drift"]),
    cooldown_days=st.sampled_from([0.0, 8.0, 20.0]),
    minimum_new_labels=st.sampled_from([1, 50, 200]),
    most_per_month=st.integers(1, 3),
    max_age_days=st.sampled_from([20, 60, 183]),
    new_labels=st.sampled_from([0, 100, 500]),
)


@dataclass
class Began:
    """An attempt that began, with what was true then."""

    at: datetime
    cause: str
    outcome: Outcome
    labels: int
    labels_since: int
    after: Outcome | None


@dataclass
class Year:
    """What a service did, day by day."""

    rules: Retrain
    asked: list[tuple[Standing, Decision]] = field(default_factory=list)
    attempts: list[Began] = field(default_factory=list)


@st.composite
def years(draw_from: st.DrawFn) -> Year:
    rules, rng = draw_from(rules_of_any_service), np.random.default_rng(draw_from(st.integers(0, 2**32 - 1)))
    outcomes = draw_from(st.lists(st.sampled_from(get_args(Outcome)), min_size=1, max_size=4))
    labels_a_day = draw_from(st.sampled_from([0.0, 1.0, 10.0, 40.0]))
    asleep, drifting = draw_from(st.sampled_from([0.0, 0.3, 0.9])), draw_from(st.sampled_from([0.0, 0.5]))
    year = Year(rules)
    labels: list[datetime] = []
    used = 0
    champion, trained_at, asked_at = 1, BEGIN, None
    drift_requests: dict[tuple[str, int], int] = {}
    drifted = {Window.containing(BEGIN + timedelta(days=30 * n)).name: rng.random() < drifting for n in range(-2, 15)}
    busy_until, finishing = BEGIN, None
    for day in range(DAYS):
        now = BEGIN + timedelta(days=day)
        labels += [now] * int(rng.poisson(labels_a_day))
        if finishing is not None and now >= busy_until:
            if finishing == "done":
                champion, trained_at = champion + 1, busy_until
            finishing = None
        if rng.random() < asleep:
            continue
        last = year.attempts[-1] if year.attempts else None
        window = Window.containing(now).previous().name
        standing = Standing(
            now=now,
            champion=champion,
            trained_at=trained_at,
            request=len(year.attempts) if finishing is not None else None,
            window=window,
            drifted=("brightness",) if drifted.get(window) else (),
            drift_request=drift_requests.get((window, champion)),
            scheduled_at=Window.containing(now).start + timedelta(hours=3),
            asked_at=asked_at,
            last_attempt=last.at if last else None,
            last_outcome=last.outcome if last and finishing is None else None,
            attempts_this_month=sum(Window.containing(a.at) == Window.containing(now) for a in year.attempts),
            new_labels=len(labels) - used,
            new_labels_since_attempt=sum(at >= last.at for at in labels) if last else len(labels),
            new_dataset=False,
        )
        decision = ask_causes(standing, rules)
        year.asked.append((standing, decision))
        if decision.evidence["causes"].get("schedule", {}).get("due"):
            asked_at = now
        if decision.action == "retrain":
            cause = decision.evidence["cause"]
            if cause == "drift":
                drift_requests[window, champion] = len(year.attempts) + 1
            outcome = outcomes[len(year.attempts) % len(outcomes)]
            new, since = standing.new_labels, standing.new_labels_since_attempt
            year.attempts.append(Began(now, cause, outcome, new, since, last.outcome if last else None))
            used = used if outcome == "failed" else len(labels)
            busy_until, finishing = now + timedelta(days=float(rng.uniform(0, 9))), outcome
    return year


@SETTINGS
@given(years())
def test_no_cause_starts_more_than_the_rules_allow(year: Year) -> None:
    rules = year.rules
    for earlier, later in pairwise(year.attempts):
        assert later.at - earlier.at >= timedelta(days=rules.cooldown_days)
    months = Counter(Window.containing(one.at).name for one in year.attempts)
    assert all(many <= rules.most_per_month for many in months.values())
    for standing, decision in year.asked:
        assert not (standing.request is not None and decision.action == "retrain")


@SETTINGS
@given(years())
def test_a_retraining_that_failed_or_did_not_help_starts_no_next_one_by_itself(year: Year) -> None:
    for one in year.attempts:
        assert one.labels >= year.rules.minimum_new_labels
        if one.after in ("unhelpful", "refused"):
            assert one.labels_since >= year.rules.minimum_new_labels


@SETTINGS
@given(years())
def test_each_cause_keeps_to_what_it_is_about(year: Year) -> None:
    rules = year.rules
    for standing, decision in year.asked:
        cause = decision.evidence["cause"]
        if cause == "labels":
            assert 0 < rules.new_labels <= standing.new_labels
        if cause == "age":
            assert standing.trained_at is not None
            assert standing.now - standing.trained_at > timedelta(days=rules.max_age_days)
        if cause == "drift":
            assert rules.retrain_on == "drift" and standing.drifted and standing.drift_request is None
    asks = [standing.now for standing, d in year.asked if d.evidence["causes"].get("schedule", {}).get("due")]
    months = [Window.containing(at).name for at in asks]
    assert len(set(months)) == len(months)  # once a month, at the first look


@SETTINGS
@given(years())
def test_whenever_a_reason_is_worth_it_a_request_is_opened(year: Year) -> None:
    for standing, decision in year.asked:
        rested = standing.last_attempt is None or standing.now - standing.last_attempt >= timedelta(
            days=year.rules.cooldown_days
        )
        enough = standing.new_labels >= max(year.rules.minimum_new_labels, year.rules.new_labels)
        helped = standing.last_outcome not in ("unhelpful", "refused")
        often = standing.attempts_this_month >= year.rules.most_per_month
        if year.rules.new_labels and standing.request is None and rested and enough and helped and not often:
            assert decision.action == "retrain"


@SETTINGS
@given(years())
def test_every_decision_can_be_made_again_from_its_evidence(year: Year) -> None:
    for _, decision in year.asked[::7]:
        assert ask_again(json.loads(json.dumps(decision.evidence))).as_json() == decision.as_json()


def test_the_years_above_hold_every_cause_and_every_answer() -> None:
    """Invariants over histories in which nothing happens would hold for anything."""
    seen: Counter[str] = Counter()

    @SETTINGS
    @given(years())
    def live(year: Year) -> None:
        seen.update(one.cause for one in year.attempts)
        seen.update(decision.action for _, decision in year.asked)

    live()
    assert all(seen[name] >= 20 for name in (*CAUSES, "none", "refused", "retrain")), seen
