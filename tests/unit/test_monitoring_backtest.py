"""A replay over windows whose answers are written down here: every alarm and every start is known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.monitoring.backtests.backtest import Attempt, Replay, Segment, Step
from components.monitoring.backtests.rules import Rules, compared
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import judge, reference_from
from components.monitoring.retraining import Outcome
from components.monitoring.sampling.one_class import allocate
from components.params import Labelling, Monitor, Params, Retrain
from components.records import StratumCounts, Window

CLASSES = ("cat", "dog", "owl")
PARAMS = Params(labelling=Labelling(share=0.1, reference_factor=3, training_queue=100))
IN_FORCE, ALWAYS, NEVER = compared(PARAMS, [])
GOOD, BAD = 0.95, 0.60


@dataclass(frozen=True)
class Answers:
    """Every stratum's answers in a fixed order: the first `right` of 20 are, over and over."""

    shares: tuple[float, ...]
    population: NDArray[np.int64]
    stored: int | None = None

    def __call__(self, wanted: NDArray[np.int64], _: str) -> StratumCounts:
        drawn = np.minimum(wanted, self.population if self.stored is None else self.stored)
        answers = np.zeros((3, 4, 4), np.int64)
        for k, share in enumerate(self.shares):
            answers[k, :, k] = [sum(n * 7 % 20 < round(20 * share) for n in range(many)) for many in drawn[k]]
            answers[k, :, (k + 1) % 3] = drawn[k] - answers[k, :, k]
        return counted(self.population, drawn, answers)


def counted(population: NDArray[np.int64], drawn: NDArray[np.int64], answers: NDArray[np.int64]) -> StratumCounts:
    return StratumCounts(CLASSES, population, drawn, answers, drawn, np.full((3, 4), 0.9))


def segments(*dog: float, stored: int | None = None, size: int = 1000) -> list[Segment]:
    """One month after the other, from January on, with that share of right answers among the dogs."""
    window, found = Window.parse("2026-01"), []
    population = np.full((3, 4), size, np.int64)
    nothing = np.zeros((3, 4), np.int64)
    for share in dog:
        closed = window.closes_at(48)
        found.append(
            Segment(
                window=window, model_version=1, drawn_at=closed, first_at=closed + timedelta(days=2),
                counts=counted(population, nothing, np.zeros((3, 4, 4), np.int64)),
                answered=Answers((GOOD, share, GOOD), population, stored), topped_up_at=closed + timedelta(days=4),
            )
        )  # fmt: skip
        window = window.following()
    return found


def helped(_: str, __: datetime) -> Outcome:
    return "done"


def run(
    rules: Rules, windows: Sequence[Segment], outside: Sequence[Attempt] = (), outcome: Outcome = "done"
) -> tuple[list[Step], Replay]:
    replay = Replay(rules, outcome=lambda _, __: outcome, outside=outside)
    steps = [replay.step(segment) for segment in windows]
    replay.advance(windows[-1].window.end + timedelta(days=40))
    return steps, replay


def retraining(**rules: object) -> Rules:
    return replace(IN_FORCE, retrain=Retrain(**rules))


def test_never_fire_never_retrains_and_asks_for_nothing():
    steps, replay = run(NEVER, segments(GOOD, BAD, BAD))
    assert not any(step.fired or step.labels or step.rounds for step in steps)
    assert replay.attempts == []


def test_always_fire_retrains_in_each_window_once():
    windows = segments(GOOD, GOOD, BAD)
    steps, replay = run(ALWAYS, [windows[0], windows[0], *windows[1:]])
    assert [step.fired for step in steps] == [True, False, True, True]
    assert [attempt.started_at for attempt in replay.attempts] == [segment.drawn_at for segment in windows]


def test_a_class_that_falls_is_an_alarm_and_its_retraining_starts_when_its_images_are_answered():
    windows = segments(GOOD, GOOD, BAD, GOOD)
    steps, replay = run(IN_FORCE, windows)
    assert [step.fired for step in steps] == [False, False, True, False]
    assert steps[0].reference == "set"
    assert "dog" in dict(steps[2].alarmed)
    (attempt,) = replay.attempts
    assert (attempt.window, attempt.refusals) == ("2026-03", 0)
    judged = windows[2].topped_up_at if steps[2].rounds == 2 else windows[2].first_at
    assert attempt.started_at == judged + timedelta(days=7)


def test_without_a_training_queue_nothing_is_waited_for():
    rules = replace(IN_FORCE, labelling=PARAMS.labelling.model_copy(update={"training_queue": 0}))
    windows = segments(GOOD, BAD)
    steps, replay = run(rules, windows)
    judged = windows[1].topped_up_at if steps[1].rounds == 2 else windows[1].first_at
    assert replay.attempts[0].started_at == judged


def test_a_step_is_what_the_trigger_itself_says():
    first, _, third = segments(GOOD, GOOD, BAD)
    steps, _ = run(IN_FORCE, [first, third])
    sizes = allocate(first.counts, 3600)
    level = reference_from(estimate(first.answered(sizes, "first")), "2026-01")
    now = third.answered(allocate(third.counts, 1200), "first")
    judged = judge(estimate(now), now, level, PARAMS.monitor, "first")
    assert not judged.final
    assert (steps[0].labels, steps[1].rounds) == (3600, 2)
    assert steps[1].labels == 1200 + int(judged.top_up.sum()) + PARAMS.labelling.training_queue
    merged = third.answered(now.drawn + judged.top_up, "topped-up")
    again = judge(estimate(merged), merged, level, PARAMS.monitor, "topped-up")
    assert steps[1].decision == again.decision


def test_within_the_cooldown_a_retraining_is_asked_for_daily_until_it_may_start():
    windows = segments(GOOD, BAD, BAD)
    _, replay = run(retraining(cooldown_days=45), windows)
    first, second = replay.attempts
    assert second.window == "2026-03"
    assert timedelta(days=45) <= second.started_at - first.started_at < timedelta(days=46)
    assert second.refusals > 0
    assert "the cooldown ends" in second.first_refusal


def test_while_a_retraining_waits_another_alarm_asks_for_none():
    steps, replay = run(retraining(cooldown_days=400), segments(GOOD, BAD, BAD, BAD))
    assert [step.opened for step in steps] == [False, True, True, False]
    assert len(replay.attempts) == 1
    assert replay.waiting == "2026-03"


def test_what_people_started_counts_for_the_cooldown_and_is_no_attempt_of_the_rules():
    windows = segments(GOOD, BAD)
    by_hand = Attempt(windows[1].first_at - timedelta(days=1), "done")
    _, replay = run(IN_FORCE, windows, outside=[by_hand])
    (attempt,) = replay.attempts
    assert attempt.started_at == by_hand.started_at + timedelta(days=PARAMS.retrain.cooldown_days)


def test_what_people_start_while_a_request_waits_serves_it():
    windows = segments(GOOD, BAD)
    due = run(IN_FORCE, windows)[1].attempts[0].started_at
    by_hand = Attempt(due - timedelta(days=1), "done")
    _, replay = run(IN_FORCE, windows, outside=[by_hand])
    assert replay.attempts == [replace(by_hand, window="2026-02")]


def test_too_few_new_labels_hold_a_retraining_back():
    _, replay = run(retraining(minimum_new_labels=100_000), segments(GOOD, BAD, BAD))
    assert replay.attempts == []
    assert replay.waiting == "2026-02"


def test_rules_that_ask_for_more_than_was_drawn_are_judged_on_what_there_is():
    steps, _ = run(IN_FORCE, segments(GOOD, GOOD, stored=50))
    assert [step.missing for step in steps] == [3600 - 12 * 50, 1200 - 12 * 50]
    assert [step.labels for step in steps] == [3600, 1200]


def test_a_window_that_closed_before_the_reference_was_known_was_drawn_as_one_too():
    first, second, third = segments(GOOD, GOOD, GOOD)
    second = replace(second, drawn_at=first.first_at - timedelta(hours=1))
    steps, _ = run(IN_FORCE, [first, second, third])
    assert [step.labels for step in steps] == [3600, 3600, 1200]


def test_a_significantly_better_level_replaces_the_reference_and_later_windows_are_held_to_it():
    steps, _ = run(IN_FORCE, segments(0.70, GOOD, 0.70))
    assert [step.reference for step in steps[:2]] == ["set", "replaced"]
    assert steps[2].fired


def test_a_window_without_answers_sets_no_reference():
    steps, _ = run(IN_FORCE, [*segments(GOOD, stored=0), *segments(GOOD)])
    assert [step.reference for step in steps] == ["", "set"]


def test_an_empty_window_is_no_failure():
    steps, replay = run(IN_FORCE, segments(GOOD, size=0))
    assert [(step.fired, step.labels) for step in steps] == [(False, 0)]
    assert replay.attempts == []


SHARES = st.lists(st.sampled_from([0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0]), min_size=2, max_size=5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SHARES, st.floats(0.0001, 0.5), st.floats(0.01, 1))
def test_under_lower_alphas_no_window_alarms_that_did_not_before(shares: list[float], alpha: float, factor: float):
    """On the same answers and reference: suspects and top-ups left alone, only the alarm's level is lower."""
    lower = {"alpha_precision": alpha * factor, "alpha_recall": alpha * factor}
    base = Monitor(alpha_precision=alpha, alpha_recall=alpha)
    # A better level replaces the reference at alpha_precision too: that is left out by windows never above the first.
    windows = segments(1.0, *shares)
    loose, _ = run(replace(IN_FORCE, monitor=base), windows)
    strict, _ = run(replace(IN_FORCE, monitor=base.model_copy(update=lower)), windows)
    for one, other in zip(strict, loose, strict=True):
        assert set(dict(one.alarmed)) <= set(dict(other.alarmed))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SHARES)
def test_the_same_rules_under_another_name_do_the_same(shares: list[float]):
    steps, replay = run(IN_FORCE, segments(*shares))
    again, other = run(replace(IN_FORCE, name="twin"), segments(*shares))
    assert [replace(s, decision=s.decision) for s in steps] == again
    assert replay.attempts == other.attempts


@pytest.mark.parametrize("outcome", ["done", "unhelpful", "failed"])
def test_an_attempt_that_did_not_help_waits_for_new_labels(outcome: Outcome):
    rules = retraining(cooldown_days=0, minimum_new_labels=2000)
    _, replay = run(rules, segments(GOOD, BAD, BAD, BAD), outcome=outcome)
    # 3,600 and 1,300 labels at first, 1,500 a window afterwards: after one that used them up, two windows' worth.
    assert [a.window for a in replay.attempts] == (
        ["2026-02", "2026-03", "2026-04"] if outcome == "failed" else ["2026-02", "2026-03"]
    )
