"""Which class is given in place of which, against the truth of planted errors."""

from __future__ import annotations

import numpy as np
import pytest

from components.labels.noise import MOST_PAIRS, estimate_noise

ROWS = 6000


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True labels, labels of which a fifth of class 0 became class 1, and what a good model says."""
    generator = np.random.default_rng(3)
    true = generator.integers(0, 4, ROWS)
    labels = np.where((true == 0) & (generator.random(ROWS) < 0.2), 1, true)
    logits = generator.normal(size=(ROWS, 4))
    logits[np.arange(ROWS), true] += 4.5
    powers = np.exp(logits)
    return true, labels, powers / powers.sum(axis=1, keepdims=True)


def test_the_planted_confusion_is_named_with_its_size(planted: tuple[np.ndarray, ...]) -> None:
    true, labels, probabilities = planted
    noise = estimate_noise(labels, probabilities)
    assert noise is not None
    report = noise.report(["shirt", "coat", "bag", "boot"])
    first, *others = report["confusions"]
    assert (first["given"], first["likely"]) == ("coat", "shirt")
    moved = int(((true == 0) & (labels == 1)).sum())
    assert 0.7 * moved < first["images"] < 1.1 * moved  # what is doubtful is not counted
    assert sum(pair["images"] for pair in others) < 0.2 * moved
    assert report["wrong"]["coat"] == pytest.approx(moved / (labels == 1).sum(), abs=0.06)
    assert max(report["wrong"][name] for name in ("shirt", "bag", "boot")) < 0.03
    assert noise.joint.sum() == ROWS


def test_a_class_that_nobody_was_given_is_left_out(planted: tuple[np.ndarray, ...]) -> None:
    _, labels, probabilities = planted
    kept = labels != 2
    noise = estimate_noise(labels[kept], probabilities[kept])
    assert noise is not None
    assert noise.present.tolist() == [0, 1, 3]
    assert set(noise.report(["shirt", "coat", "bag", "boot"])["wrong"]) == {"shirt", "coat", "boot"}


def test_one_class_says_nothing_and_many_are_told_in_a_bounded_list() -> None:
    assert estimate_noise(np.zeros(5, np.int64), np.full((5, 2), 0.5)) is None
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(30), 3000)
    noise = estimate_noise(generator.integers(0, 30, 3000), probabilities)
    assert noise is not None
    assert len(noise.report([str(k) for k in range(30)])["confusions"]) == MOST_PAIRS
