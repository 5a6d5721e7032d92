"""Advice from a learning curve: which remedy is named, in which order, and when none is."""

from __future__ import annotations

import numpy as np
import pytest

from components.errors import DataError
from components.evaluation.training.advice import OVERALL, Advice, CurvePoint, LearningCurve, Remedy, advise

SHARES = (1.0, 0.25, 0.5, 0.125, 0.25, 0.5, 0.125)
HELD_OUT, LEARNT = 800, 1000


def curve(laws, on_learnt=(0.0,), held_out: int = HELD_OUT, doubted=None, shares=SHARES) -> LearningCurve:
    """laws: of each class (a, b, c), its error c + a x^-b. on_learnt: each class's error on images learnt from."""
    on_learnt = on_learnt * len(laws) if len(on_learnt) == 1 else on_learnt
    points = tuple(
        CurvePoint(
            share=x,
            images=int(x * LEARNT * len(laws)),
            wrong=tuple(round(held_out * (c + a * x**-b)) for a, b, c in laws),
            wrong_learnt=tuple(round(LEARNT * e) for e in on_learnt),
            learnt=(LEARNT,) * len(laws),
        )
        for x in shares
    )
    names = tuple(f"class {k}" for k in range(len(laws)))
    return LearningCurve(names, (held_out,) * len(laws), points, doubted, 12.0)


STEEP, FLAT, GOOD = (0.12, 0.5, 0.0), (0.0, 0.5, 0.15), (0.001, 0.3, 0.0)


def of(found: list[Advice], name: str) -> Advice:
    return next(one for one in found if one.name == name)


def test_a_steep_curve_asks_for_labels_and_says_what_twice_as_many_bring():
    found = of(advise(curve([STEEP, GOOD])), "class 0")
    assert found.remedies == (Remedy.MORE_LABELS,)
    assert found.words.startswith(
        "class 0: more labels of class 0 would help: with twice as many images, recall about "
    )
    low, high = found.numbers["twice"]["low"], found.numbers["twice"]["high"]
    assert low <= 0.12 / np.sqrt(2) <= high
    assert f"recall about {100 * (1 - high):.0f} to {100 * (1 - low):.0f} %" in found.words


def test_a_flat_curve_is_a_matter_of_data_where_the_training_images_are_known():
    found = of(advise(curve([FLAT, GOOD], on_learnt=(0.01,))), "class 0")
    assert found.remedies == (Remedy.OTHER_DATA,)
    assert "more of the same data will hardly help, the curve is flat" in found.words
    assert "1 % wrong" in found.words


def test_a_flat_curve_is_a_matter_of_the_model_where_they_are_not():
    found = of(advise(curve([FLAT, GOOD], on_learnt=(0.13, 0.0))), "class 0")
    assert found.remedies == (Remedy.OTHER_MODEL,)
    assert "another backbone, or more epochs" in found.words


def test_doubted_labels_are_to_be_checked_before_anything_else():
    found = advise(curve([STEEP, FLAT], doubted=(0.2, 0.01)))
    assert of(found, "class 0").remedies == (Remedy.CHECK_LABELS, Remedy.MORE_LABELS)
    assert "the audit doubts 20 % of them" in of(found, "class 0").words
    assert Remedy.CHECK_LABELS not in of(found, "class 1").remedies
    assert of(found, OVERALL).remedies[0] is Remedy.CHECK_LABELS  # 10.5 % of all


def test_hardly_an_error_needs_nothing():
    assert of(advise(curve([GOOD, GOOD])), OVERALL).remedies == (Remedy.NOTHING,)


@pytest.mark.parametrize(("held_out", "shares"), [(15, SHARES), (40, SHARES), (800, (1.0, 0.25))])
def test_too_few_images_or_sizes_promise_nothing(held_out: int, shares: tuple[float, ...]):
    found = of(advise(curve([(0.05, 0.3, 0.05), GOOD], held_out=held_out, shares=shares)), "class 0")
    assert found.remedies == (Remedy.UNCLEAR,)
    assert "too few" in found.words


def test_all_classes_come_first_then_those_asked_for_else_the_worst():
    laws = [GOOD, (0.05, 0.4, 0), STEEP, (0.06, 0.4, 0), FLAT]
    assert [one.name for one in advise(curve(laws))] == [OVERALL, "class 4", "class 2", "class 3"]
    assert [one.name for one in advise(curve(laws), ["class 1"])] == [OVERALL, "class 1"]
    assert "accuracy" in advise(curve(laws))[0].words
    with pytest.raises(DataError, match="knows no class gnu"):
        advise(curve(laws), ["gnu"])


def test_a_curve_is_read_back_as_it_was_and_nothing_else_is_one():
    made = curve([STEEP, FLAT], doubted=(0.1, 0.2))
    assert LearningCurve.from_json(made.as_json()) == made
    assert LearningCurve.from_json(curve([STEEP, FLAT]).as_json()).doubted is None
    with pytest.raises(DataError, match="no learning curve"):
        LearningCurve.from_json({"classes": ["a"]})
    with pytest.raises(DataError, match="no training of the learning curve"):
        advise(LearningCurve(("a", "b"), (1, 1), (), None, 0.0))
