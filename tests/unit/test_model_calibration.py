import numpy as np
import pytest

from components.errors import DataError
from components.model.calibration import (
    expected_calibration_error,
    fit_calibration,
    fit_temperature,
    reliability,
    softmax,
)


def drawn(number: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `scale` times too sure of labels drawn from the honest ones."""
    generator = np.random.default_rng(0)
    honest = generator.normal(size=(number, 5)) * 2
    sums = softmax(honest).cumsum(axis=1)
    labels = (generator.random((number, 1)) > sums).sum(axis=1)
    return honest * scale, labels


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_temperature_undoes_a_known_overconfidence(scale):
    logits, labels = drawn(20_000, scale)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.15])
def test_wrong_labels_are_not_taken_for_doubt(noise):
    logits, labels = drawn(20_000, 2.0)
    generator = np.random.default_rng(1)
    wrong = generator.random(len(labels)) < noise
    given = np.where(wrong, (labels + generator.integers(1, 5, len(labels))) % 5, labels)
    found = fit_calibration(logits, given)
    assert found.temperature == pytest.approx(2.0, rel=0.1)
    assert found.label_noise == pytest.approx(noise, abs=0.02)


def test_temperature_lowers_the_calibration_error_and_changes_no_answer():
    logits, labels = drawn(5000, 3.0)
    temperature = fit_temperature(logits, labels)
    before, after = softmax(logits), softmax(logits, temperature)
    assert expected_calibration_error(after, labels) < 0.3 * expected_calibration_error(before, labels)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()


def test_temperature_of_perfect_answers_is_bounded():
    assert 0.05 <= fit_temperature(np.eye(4) * 50, np.arange(4)) <= 20
    assert 0.05 <= fit_temperature(np.eye(4) * 50, np.roll(np.arange(4), 1)) <= 20


def test_softmax_bears_huge_logits():
    assert softmax(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


def test_calibration_error_of_a_constant_claim():
    probabilities = np.tile([0.8, 0.2], (100, 1))
    labels = np.array([0] * 60 + [1] * 40)
    assert expected_calibration_error(probabilities, labels, 10) == pytest.approx(0.2)


def test_reliability_of_certain_answers_falls_in_the_last_bin():
    _, share, confidence, accuracy = reliability(np.ones(3), np.array([True, True, False]), 4)
    assert share.tolist() == [0, 0, 0, 1]
    assert confidence[3] == 1
    assert accuracy[3] == pytest.approx(2 / 3)
    assert np.isnan(accuracy[0])


@pytest.mark.parametrize("bad", [np.empty((0, 2)), np.zeros((3, 2)), np.full((2, 2), np.nan)])
def test_rows_that_do_not_match_or_are_not_finite_are_refused(bad):
    labels = np.zeros(len(bad) if np.isnan(bad).any() else 2 * (len(bad) > 0), np.int64)
    with pytest.raises(DataError):
        fit_temperature(bad, labels)
