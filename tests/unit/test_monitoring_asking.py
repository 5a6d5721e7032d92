"""The next draw: what raises it, by how much at most, where the labels go, and that it raises no false alarm."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.monitoring.backtests.rules import Rules
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import judge, reference_from
from components.monitoring.sampling.asking import Judged, OpenQuestions, latest, left_open, newly_drifted, next_draw
from components.monitoring.sampling.one_class import allocate
from components.params import Labelling, Monitor, Params
from components.records import ClassState, StratumCounts
from components.simulation.counted_world import Climate, default_counts
from components.simulation.years import simulate

RULES, MONITOR = Labelling(), Monitor()
NAMES = ("ant", "bee", "cow")
NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)


def window(population=((100, 200, 300, 400), (50, 150, 300, 1500), (20, 60, 20, 1900))) -> StratumCounts:
    population = np.asarray(population, np.int64)
    nothing = np.zeros_like(population)
    confidence = np.where(population > 0, np.array([0.5, 0.75, 0.92, 0.99])[: population.shape[1]], np.nan)
    names = NAMES[: len(population)]
    return StratumCounts(
        names, population, nothing, np.zeros((*population.shape, len(names) + 1), int), nothing, confidence
    )


def labelled(counts: StratumCounts, sizes, right) -> StratumCounts:
    """Answer a draw: `right` (K,) of each class's are right, what is wrong is the next class."""
    classes = len(counts.classes)
    answers = np.zeros_like(counts.answers)
    for k in range(classes):
        good = np.rint(np.asarray(right)[k] * sizes[k]).astype(int)
        answers[k, :, k], answers[k, :, (k + 1) % classes] = good, sizes[k] - good
    return replace(counts, labelled=sizes, answers=answers, drawn=sizes)


def asked(counts: StratumCounts, questions: OpenQuestions, budget: int = 300, before=None, **rules):
    return next_draw(
        counts, budget, questions, labelling=RULES.model_copy(update=rules), topup_labels=100, before=before
    )


def test_without_an_open_question_the_draw_is_the_plain_one():
    counts = window()
    drawn = asked(counts, OpenQuestions("2026-10"))
    np.testing.assert_array_equal(drawn.sizes, allocate(counts, 300))
    assert (drawn.more, drawn.describe()) == (0, "")


def test_a_suspect_is_asked_about_more_in_its_own_strata():
    counts = window()
    drawn = asked(counts, OpenQuestions("2026-10", suspects=(("bee", "precision"),)))
    more = drawn.sizes - allocate(counts, 300)
    assert (more.sum(), more[1].sum(), drawn.suspects) == (100, 100, {"bee": 100})
    assert drawn.describe() == "100 for bee, suspected before"


def test_a_suspected_recall_is_looked_for_where_its_images_were_taken_for_others():
    counts = window()
    # Answers of the window before: what was called an ant and is none is a bee.
    before = labelled(counts, allocate(counts, 600), (0.7, 1, 1))
    questions = OpenQuestions("2026-10", suspects=(("bee", "recall"),))
    more = asked(counts, questions, before=before).sizes - allocate(counts, 300)
    assert more.sum() == 100
    assert more[0].sum() > more[2].sum()
    other_list = replace(before, classes=("ant", "bee", "dog"))
    np.testing.assert_array_equal(
        asked(counts, questions, before=other_list).sizes,
        asked(counts, replace(questions, suspects=(("bee", "precision"),))).sizes,
    )


def test_too_few_labels_are_made_enough_the_class_that_lacks_fewest_first():
    counts = window(((5, 5, 5, 5), (50, 150, 300, 1500), (20, 60, 20, 1900)))
    plain = allocate(counts, 30)
    questions = OpenQuestions("2026-10", short={"ant": 20, "bee": 40, "cow": 900})
    drawn = asked(counts, questions, 30)
    # Half of the 30 further labels at most: all of the 20 ants, and no bees, which lack more than is left.
    assert drawn.short == {"ant": 20 - plain[0].sum()}
    assert drawn.sizes[0].sum() == 20
    assert asked(counts, questions, 30, most_factor=5).short == {"ant": 20 - plain[0].sum(), "bee": 40 - plain[1].sum()}


def test_new_drift_raises_the_whole_draw_by_half_of_the_room():
    counts = window()
    drawn = asked(counts, OpenQuestions(drifted=("brightness",)))
    assert (drawn.drift, drawn.sizes.sum()) == (150, 450)
    np.testing.assert_array_equal(drawn.sizes, allocate(counts, 450))
    assert newly_drifted(["brightness", "predicted"], ["brightness"]) == ("predicted",)


def test_suspects_go_first_and_drift_takes_what_they_leave():
    questions = OpenQuestions("2026-10", (("ant", "precision"), ("bee", "precision")), {"cow": 150}, ("predicted",))
    drawn = asked(window(), questions)
    assert drawn.suspects == {"ant": 100, "bee": 100}
    assert (sum(drawn.short.values()), drawn.drift) == (cow := 150 - int(allocate(window(), 300)[2].sum()), 100 - cow)


def test_a_factor_of_one_switches_it_off():
    questions = OpenQuestions("2026-10", (("ant", "precision"),), {"cow": 500}, ("predicted",))
    np.testing.assert_array_equal(asked(window(), questions, most_factor=1).sizes, allocate(window(), 300))


def test_a_class_the_model_no_longer_has_is_asked_about_no_more():
    assert asked(window(), OpenQuestions("2026-10", (("gnu", "precision"),), {"hen": 30})).more == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 400), min_size=4, max_size=4), min_size=2, max_size=3),
    st.integers(1, 900), st.floats(1, 4), st.integers(1, 1500), st.sets(st.sampled_from(NAMES)),
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 500)), st.booleans(),
)  # fmt: skip
def test_it_stays_within_the_budget_and_a_probability_sample(population, budget, factor, cap, suspects, short, drift):
    counts = window(population)
    by_rule = tuple(zip(sorted(suspects), ("precision", "recall", "recall"), strict=False))
    questions = OpenQuestions("2026-10", by_rule, short, ("predicted",) if drift else ())
    drawn = asked(counts, questions, budget, most_factor=factor, max_labels=cap)
    plain = allocate(counts, budget)
    assert drawn.sizes.sum() <= max(plain.sum(), min(factor * budget, cap))
    assert drawn.sizes.sum() == plain.sum() + drawn.more
    assert (drawn.sizes <= counts.population).all()
    # Every prediction could be drawn: the sum of 1 / pi over a stratum's draw is its N_h, and no N_h is lost.
    assert (drawn.sizes[counts.population > 0] > 0).all()
    again = asked(counts, OpenQuestions.from_json(questions.as_json()), budget, most_factor=factor, max_labels=cap)
    np.testing.assert_array_equal(drawn.sizes, again.sizes)


def test_what_a_judgement_leaves_open():
    counts = window()
    reference = reference_from(estimate(labelled(counts, allocate(counts, 1500), (0.95, 0.95, 0.95))), "2026-09")
    now = labelled(counts, allocate(counts, 90), (0.85, 0.95, 0.95))
    estimates = estimate(now)
    judgement = judge(estimates, now, reference, MONITOR, "topped-up")
    found = left_open("2026-10", judgement, estimates, MONITOR)
    assert [c.state for c in judgement.classes] == [ClassState.SUSPECT, ClassState.SUSPECT, ClassState.OK]
    # What is called an ant and is none is a bee, so bees lose recall.
    assert (found.window, dict(found.suspects), found.short) == ("2026-10", {"ant": "precision", "bee": "recall"}, {})


def test_a_class_worth_too_few_labels_says_how_many_would_do_and_an_unanswered_one_is_left_alone():
    counts = window()
    reference = reference_from(estimate(labelled(counts, allocate(counts, 1500), (0.95, 0.95, 0.95))), "2026-09")
    sizes = allocate(counts, 90)
    sizes[0], sizes[1] = (1, 1, 2, 2), (3, 3, 0, 0)  # few answers; answers in two bins only
    now = replace(labelled(counts, sizes, (1, 1, 1)), drawn=allocate(counts, 90) + 2)
    estimates = estimate(now)
    judgement = judge(estimates, now, reference, MONITOR, "topped-up")
    assert {c.name: c.state for c in judgement.classes}["ant"] is ClassState.INSUFFICIENT
    found = left_open("2026-10", judgement, estimates, MONITOR)
    assert found.short.keys() == {"ant"}
    enough = found.short["ant"]
    assert 6 < enough < 60
    more = labelled(counts, np.array([[1, 1, 2, 2], [0] * 4, [0] * 4]) * (enough // 6 + 1), (1, 1, 1))
    assert estimate(more).precision.process_effective[0] >= MONITOR.min_effective_labels


def test_the_last_judgement_made_before_the_draw_counts_this_models_first():
    def judged(name, version, day):
        return Judged(name, version, NOON + timedelta(days=day), OpenQuestions(name), window())

    known = [judged("2026-09", 1, 0), judged("2026-10", 1, 30), judged("2026-10", 2, 30), judged("2026-11", 1, 60)]
    assert latest(known, 1, at=NOON + timedelta(days=40)).model_version == 1
    assert latest(known, 2, at=NOON + timedelta(days=40)).model_version == 2
    assert latest(known, 3, at=NOON + timedelta(days=70)).window == "2026-11"
    assert latest(known, 1, at=NOON - timedelta(days=1)) is None


def lived(climate: Climate, years: int, *factors: float) -> list[dict]:
    params = [Params(labelling=Labelling(share=0.025, most_factor=factor)) for factor in factors]
    rules = [Rules(f"factor {p.labelling.most_factor}", p.monitor, p.labelling, p.retrain) for p in params]
    return simulate(default_counts(), rules, climate, years=years, seed=11, length="month")["rules"]


@pytest.mark.slow
def test_asking_more_raises_no_false_alarms_in_quiet_years():
    """300 years of 12 months, ten classes, 500 labels a month (1,000 years: 81 false alarms plain, 84 with)."""
    quiet = Climate(silent_drops=0, low_confidence_drops=0, mix_changes=0)
    plain, raised = lived(quiet, 300, 1.0, 2.0)
    months = 300 * 12
    assert raised["labels_a_year"] > plain["labels_a_year"]
    assert raised["labels_a_year"] < 1.1 * plain["labels_a_year"]
    assert raised["false_alarms"] <= 0.015 * months
    # Two standard errors of the difference, the weather being the same.
    assert raised["false_alarms"] - plain["false_alarms"] <= 2 * np.sqrt(plain["false_alarms"] + 1)
