from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from components.errors import ConfigurationError, DataError
from components.records import LabelTask
from components.simulation.annotators import answer
from components.simulation.scenario import Annotators
from components.simulation.truth import share_right, true_accuracy

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)
CLASSES = ("a", "b", "c")


def tasks(count: int) -> list[LabelTask]:
    return [LabelTask(number, "accuracy", f"image-{number}", CLASSES, "2026-10") for number in range(count)]


def answers(people: Annotators, count: int = 5000, truth: str = "a", **changes):
    return answer(
        tasks(count), dict.fromkeys(range(count), truth), people, np.random.default_rng(3), answered_at=NOW, **changes
    )


def test_every_answer_says_that_it_is_simulated():
    given = answers(Annotators(count=3), 300)
    assert {one.annotator for one in given} == {"simulated-1", "simulated-2", "simulated-3"}
    assert {one.answered_at for one in given} == {NOW}
    assert all(one.seconds and one.seconds > 0 for one in given)
    assert len({one.key for one in given}) == len(given)


def test_they_answer_and_err_at_their_rates():
    given = answers(Annotators(count=3, error_rate=0.1, answer_rate=0.8))
    assert len(given) / 5000 == pytest.approx(0.8, abs=0.02)
    counts = Counter(one.answer for one in given)
    assert counts["a"] / len(given) == pytest.approx(0.9, abs=0.02)
    assert counts["b"] == pytest.approx(counts["c"], rel=0.3)


def test_perfect_annotators_tell_the_truth_and_other_for_an_unknown_class():
    people = Annotators(count=1, error_rate=0.0, answer_rate=1.0)
    assert {one.answer for one in answers(people, 50)} == {"a"}
    assert {one.answer for one in answers(people, 50, truth="novel")} == {"other"}


def test_answers_do_not_depend_on_the_order_of_the_tasks():
    people, truth = Annotators(), dict.fromkeys(range(100), "b")
    one, two = (
        answer(order, truth, people, np.random.default_rng(5), answered_at=NOW)
        for order in (tasks(100), tasks(100)[::-1])
    )
    assert one == two


def test_several_answers_to_a_task_come_from_different_annotators():
    given = answers(Annotators(count=3, answer_rate=1.0), 200, answers_per_task=2)
    per_task = Counter(one.task_id for one in given)
    assert set(per_task.values()) == {2}
    assert len({(one.task_id, one.annotator) for one in given}) == 400
    with pytest.raises(ConfigurationError, match="there are 3"):
        answers(Annotators(count=3), 1, answers_per_task=4)


def test_an_answer_time_without_zone_is_refused():
    with pytest.raises(ConfigurationError, match="no zone"):
        answer([], {}, Annotators(), np.random.default_rng(0), answered_at=datetime(2026, 11, 3))  # noqa: DTZ001


def test_true_accuracy_counts_a_class_in_both_directions():
    predicted = ["a", "a", "a", "b", "b"]
    truth = ["a", "b", "novel", "b", "b"]
    a, b, c = true_accuracy(predicted, truth, CLASSES)
    assert (a.predicted, a.actual, a.precision, a.recall) == (3, 1, pytest.approx(1 / 3), 1.0)
    assert (b.predicted, b.actual, b.precision, b.recall) == (2, 3, 1.0, pytest.approx(2 / 3))
    assert (c.precision, c.recall) == (None, None)
    assert c.as_json() == {"name": "c", "predicted": 0, "actual": 0, "precision": None, "recall": None}
    assert share_right(predicted, truth) == pytest.approx(3 / 5)
    assert share_right([], []) is None


def test_predictions_and_truths_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="1 predictions and 2 truths"):
        true_accuracy(["a"], ["a", "b"], CLASSES)
