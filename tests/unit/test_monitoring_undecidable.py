"""What cannot be decided ends in a state with words: never in another exception, never in a retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.errors import ConfigurationError, DataError
from components.monitoring.drift.binning import bin_counts, quantile_edges
from components.monitoring.drift.findings import findings
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import Judgement, ReferenceLevel, judge, reference_from
from components.monitoring.judgement.reference import significantly_better
from components.monitoring.retraining import Cause, champion_too_old, schedule_due, should_retrain
from components.monitoring.sampling.one_class import allocate, budget, draw_shares
from components.monitoring.sampling.planner import plan
from components.params import Labelling, Monitor, Retrain
from components.records import ClassState, Decision, StratumCounts, Window, WindowLength, parse_time, require_utc
from components.store.scored.chunks import check_chunk

RULES = Monitor()
NAMES = ("ant", "bee", "cow")
OK, INSUFFICIENT = ClassState.OK, ClassState.INSUFFICIENT
NO_REFERENCE, NOT_MEASURABLE = ClassState.NO_REFERENCE, ClassState.NOT_MEASURABLE

Answers = Mapping[str, Mapping[str, int]]


def window(
    answers: Answers, *, classes: Sequence[str] = NAMES, predictions: Mapping[str, int] | None = None
) -> StratumCounts:
    """Counts of one confidence bin: `answers` by predicted class; 5,000 predictions of each class, if not told."""
    asked = {name: dict(answers.get(name, {})) for name in classes}
    columns = (*classes, "other")
    table = np.array([[[asked[name].get(said, 0) for said in columns]] for name in classes], dtype=np.int64)
    population = np.array([[(predictions or {}).get(name, 5000)] for name in classes], dtype=np.int64)
    labelled = table.sum(axis=2)
    confidence = np.where(population > 0, 0.95, np.nan)
    return StratumCounts(tuple(classes), population, labelled, table, np.maximum(labelled, 2), confidence)


def right(each: int, *names: str, wrong: int = 0) -> dict[str, dict[str, int]]:
    """`each` right answers about every class of `names`, and `wrong` ones that say `other`."""
    return {name: {name: each, "other": wrong} for name in names}


def stored(counts: StratumCounts) -> ReferenceLevel:
    """The reference level as a service reads it back from its database."""
    return ReferenceLevel.from_json(reference_from(estimate(counts), "2026-01").as_json())


REFERENCE = stored(window(right(950, *NAMES, wrong=50)))
UNLABELLED = stored(window({}))


def judged(counts: StratumCounts, reference: ReferenceLevel | None, stage: str = "topped-up") -> Judgement:
    return judge(estimate(counts), counts, reference, RULES, "first" if stage == "first" else "topped-up")


GONE = {"cow": 0}
NOBODY = dict.fromkeys(NAMES, 0)
WINDOWS = {
    "nothing labelled": (window({}), REFERENCE, (NOT_MEASURABLE,) * 3, "no settled labels"),
    "nothing labelled and no reference": (window({}), None, (NOT_MEASURABLE,) * 3, "no settled labels"),
    "nothing predicted": (window({}, predictions=NOBODY), REFERENCE, (NOT_MEASURABLE,) * 3, "no settled labels"),
    "one label, right": (window(right(1, "ant")), REFERENCE, (INSUFFICIENT, NOT_MEASURABLE, NOT_MEASURABLE), ""),
    "one label, wrong": (
        window({"ant": {"bee": 1}}), REFERENCE, (INSUFFICIENT, INSUFFICIENT, NOT_MEASURABLE), "",
    ),
    "one label, of none of the classes": (
        window({"ant": {"other": 1}}), REFERENCE, (INSUFFICIENT, NOT_MEASURABLE, NOT_MEASURABLE), "",
    ),
    "one label and no reference": (
        window(right(1, "ant")), None, (NO_REFERENCE, NOT_MEASURABLE, NOT_MEASURABLE), "no reference level yet",
    ),
    "one label of each class": (window(right(1, *NAMES)), REFERENCE, (INSUFFICIENT,) * 3, ""),
    "a class neither predicted nor seen": (
        window(right(190, "ant", "bee", wrong=10), predictions=GONE), REFERENCE, (OK, OK, NOT_MEASURABLE), "",
    ),
    "a class no longer predicted, seen in few images": (
        window({**right(190, "ant", "bee", wrong=10), "ant": {"ant": 190, "other": 9, "cow": 1}}, predictions=GONE),
        REFERENCE, (OK, OK, INSUFFICIENT), "",
    ),
    "a class new to the model": (
        window(right(190, "ant", "bee", "yak", wrong=10), classes=("ant", "bee", "yak")),
        REFERENCE, (OK, OK, NO_REFERENCE), "no class is shown to have fallen",
    ),
    "a class new to the model, always wrong": (
        window({**right(190, "ant", "bee", wrong=10), "yak": {"other": 200}}, classes=("ant", "bee", "yak")),
        REFERENCE, (OK, OK, NO_REFERENCE), "no class is shown to have fallen",
    ),
    "classes all new to the model": (
        window(right(100, "yak", "zebu", wrong=100), classes=("yak", "zebu")), REFERENCE, (NO_REFERENCE,) * 2, "",
    ),
    "a reference without labels": (window(right(100, *NAMES, wrong=100)), UNLABELLED, (NO_REFERENCE,) * 3, ""),
    "nothing labelled, then or now": (window({}), UNLABELLED, (NOT_MEASURABLE,) * 3, "no settled labels"),
}  # fmt: skip


@pytest.mark.parametrize("stage", ["first", "topped-up"])
@pytest.mark.parametrize(("counts", "reference", "states", "reason"), WINDOWS.values(), ids=WINDOWS)
def test_a_window_that_says_too_little_ends_in_states_and_words_and_starts_nothing(
    counts: StratumCounts, reference: ReferenceLevel | None, states: tuple[ClassState, ...], reason: str, stage: str
) -> None:
    judgement = judged(counts, reference, stage)
    found = tuple(c.state for c in judgement.classes)
    # Few labels may look bad enough to ask for more of them; that is all they may do.
    assert judgement.decision.action in (("none", "ask-labels") if INSUFFICIENT in states else ("none",))
    assert found == states
    assert not judgement.alarms
    assert reason in judgement.decision.reason
    assert judgement.decision.reason
    for one in judgement.classes:
        assert one.as_json()["state"] in set(ClassState)
        assert one.reasons or one.state is not INSUFFICIENT


@pytest.mark.parametrize(("counts", "reference"), [case[:2] for case in WINDOWS.values()], ids=WINDOWS)
def test_a_window_that_says_too_little_replaces_no_reference(
    counts: StratumCounts, reference: ReferenceLevel | None
) -> None:
    if reference is not None:
        assert not significantly_better(estimate(counts), reference, RULES)
    assert stored(counts).labels == counts.labelled.sum()  # it can be written down and read back all the same


def test_the_same_classes_with_enough_labels_are_decided() -> None:
    """The table above is quiet because it says little, not because the trigger is deaf."""
    assert judged(window({**right(190, "ant", "bee", wrong=10), "cow": {"other": 200}}), REFERENCE).alarmed == {
        "cow": ("precision",)
    }


NOT_A_CONFIDENCE = [float("nan"), float("inf"), -0.1, 1.5]


@pytest.mark.parametrize("confidence", NOT_A_CONFIDENCE)
def test_a_confidence_that_is_none_is_refused_by_the_draw_with_its_stratum(confidence: float) -> None:
    counts = window({})
    counts.confidence[1, 0] = confidence
    with pytest.raises(DataError, match=r"class 1, confidence bin 0 holds 5000 predictions .* between 0 and 1"):
        allocate(counts, 100)
    with pytest.raises(DataError, match="mean confidence"):
        draw_shares(counts.population, counts.confidence)


def test_the_confidence_of_a_stratum_without_predictions_is_not_looked_at() -> None:
    counts = window({}, predictions=GONE)
    assert np.isnan(counts.confidence[2, 0])
    assert allocate(counts, 100).tolist() == [[50], [50], [0]]


@pytest.mark.parametrize("confidence", NOT_A_CONFIDENCE)
def test_a_confidence_that_is_none_is_refused_before_it_is_stored(
    make_chunk: Callable[..., Any], confidence: float
) -> None:
    chunk = make_chunk(0, 10)
    check_chunk(chunk, items=10, classes=3)
    chunk.confidence[3] = confidence
    with pytest.raises(DataError, match=r"row 3: confidence is .*, not within 0..1"):
        check_chunk(chunk, items=10, classes=3)


def test_nothing_is_drawn_from_a_window_without_predictions_and_it_cannot_be_planned_for() -> None:
    empty = window({}, predictions=NOBODY)
    assert budget(0, Labelling(), reference=True) == 0
    assert allocate(empty, 500).sum() == 0
    with pytest.raises(DataError, match="no predictions; there is nothing to plan"):
        plan(empty, RULES, Labelling(), drop=0.1, power=0.8, trials=5, seed=1)


def spread(rows: int = 1000) -> NDArray[np.float64]:
    return np.random.default_rng(rows).normal(0.5, 0.1, rows)


def still(value: float = 0.5, rows: int = 1000) -> NDArray[np.float64]:
    return np.full(rows, value)


NAN = float("nan")
COLUMNS = {
    "constant in both": (still(), still(), "undecided: constant", False),
    "constant in both, another value": (still(), still(0.6), "ok", True),
    "constant in the reference": (still(), spread(), "ok", True),
    "constant in the window": (spread(), still(), "ok", True),
    "missing in the window": (spread(), still(NAN), "undecided: 0 rows on one side", False),
    "missing in the reference": (still(NAN), spread(), "undecided: 0 rows on one side", False),
    "missing in both": (still(NAN), still(NAN), "undecided: 0 rows on one side", False),
    "missing in places": (spread(), np.where(np.arange(1000) % 3, spread(), NAN), "ok", False),
    "infinite in the window": (spread(), still(float("inf")), "undecided: 0 rows on one side", False),
    "no rows": (spread(), still(rows=0), "undecided: 0 rows on one side", False),
    "one row": (spread(), spread(1), "undecided: 1 rows on one side", False),
    "too few rows": (spread(), still(5.0, rows=49), "undecided: 49 rows on one side", False),
}


@pytest.mark.parametrize(("before", "now", "state", "drifted"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_of_brightness_ends_in_a_state_and_starts_no_retraining(
    before: NDArray[np.float64], now: NDArray[np.float64], state: str, drifted: bool
) -> None:
    edges = quantile_edges(before, RULES.drift_bins)
    columns = {"brightness": (bin_counts(before, edges), bin_counts(now, edges))}
    (found,) = findings(columns, RULES)
    assert found.state.startswith(state)
    assert found.drifted == drifted
    assert (found.p_value is None) == (found.v is None) == (found.state != "ok")
    if found.drifted:
        assert asked("drift").action == "ask-labels"


@pytest.mark.parametrize("other", COLUMNS)
def test_a_column_that_cannot_be_decided_leaves_the_others_to_their_own(other: str) -> None:
    before, now, _, drifted = COLUMNS[other]
    edges = quantile_edges(before, RULES.drift_bins)
    quiet, loud = (np.array([500, 500]), np.array([505, 495])), (np.array([500, 500]), np.array([900, 100]))
    columns = {"quiet": quiet, "brightness": (bin_counts(before, edges), bin_counts(now, edges)), "loud": loud}
    assert [found.drifted for found in findings(columns, RULES)] == [False, drifted, True]


NOW = datetime(2026, 10, 20, 6, tzinfo=UTC)
TOMORROW = NOW + timedelta(days=1)


def asked(cause: Cause = "accuracy", **changes: Any) -> Decision:
    facts: dict[str, Any] = {
        "now": NOW, "last_attempt": NOW - timedelta(days=40), "last_outcome": "done", "attempts_this_month": 0,
        "new_labels": 500, "new_labels_since_attempt": 500, "running": False, "rules": Retrain(),
    }  # fmt: skip
    return should_retrain(cause, **{**facts, **changes})


@pytest.mark.parametrize("ahead", [timedelta(seconds=1), timedelta(days=1), timedelta(days=3650)])
@pytest.mark.parametrize("cause", ["accuracy", "schedule", "drift", "labels", "age"])
def test_an_attempt_dated_in_the_future_starts_no_other_one(cause: Cause, ahead: timedelta) -> None:
    decision = asked(cause, last_attempt=NOW + ahead, rules=Retrain(cooldown_days=0, retrain_on="drift"))
    assert decision.action == "refused"
    assert "the cooldown ends" in decision.reason


@pytest.mark.parametrize("every", ["month", "week", "day"])
def test_a_schedule_is_not_due_again_because_its_last_run_is_dated_in_the_future(every: WindowLength) -> None:
    assert not schedule_due(NOW, TOMORROW, every)
    assert not schedule_due(NOW, NOW + timedelta(days=400), every)


def test_a_model_dated_in_the_future_is_not_too_old() -> None:
    assert not champion_too_old(NOW, TOMORROW, Retrain(max_age_days=1))


NAIVE = datetime(2026, 10, 20, 6)  # noqa: DTZ001
TIMES: dict[str, Callable[[], object]] = {
    "the moment of a decision": lambda: asked(now=NAIVE),
    "the moment of a decision about drift": lambda: asked("drift", now=NAIVE),
    "the moment of a forced decision": lambda: asked("forced", now=NAIVE),
    "the last attempt": lambda: asked(last_attempt=NAIVE),
    "the last attempt, while another runs": lambda: asked(last_attempt=NAIVE, running=True),
    "the moment a schedule is looked at": lambda: schedule_due(NAIVE, NOW),
    "the last run of a schedule": lambda: schedule_due(NOW, NAIVE),
    "the moment a model's age is asked": lambda: champion_too_old(NAIVE, NOW, Retrain()),
    "the moment a model was trained": lambda: champion_too_old(NOW, NAIVE, Retrain()),
    "a moment in a window": lambda: Window.containing(NAIVE),
    "any moment": lambda: require_utc(NAIVE),
    "a moment that somebody wrote": lambda: parse_time("2026-10-20T06:00:00"),
}


@pytest.mark.parametrize("use", TIMES.values(), ids=TIMES)
def test_a_time_without_a_zone_is_refused_with_what_to_write_instead(use: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"time 2026-10-20T06:00:00 has no zone; write it with one.*Z"):
        use()
