import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import DataError
from components.evaluation.metrics.rejection import Rejection
from components.evaluation.metrics.rejection import choose_threshold as choose


def choose_threshold(confidence: np.ndarray, right: np.ndarray, stated: float, noise: float = 0.0) -> Rejection:
    return choose(confidence, right, stated, label_noise=noise, classes=10)


def world(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers whose confidence is true: right as often as it says."""
    generator = np.random.default_rng(seed)
    confidence = generator.beta(4, 1, number)
    return confidence, generator.random(number) < confidence


@pytest.mark.parametrize("stated", [0.85, 0.9, 0.95])
def test_the_promise_is_kept_on_other_images_and_no_more_is_rejected_than_that_takes(stated):
    chosen = choose_threshold(*world(5_000, 1), stated)
    confidence, right = world(200_000, 2)
    accepted = confidence >= chosen.threshold
    assert chosen.reached
    assert right[accepted].mean() == pytest.approx(stated, abs=0.01)
    assert chosen.accuracy >= stated
    lower = confidence >= chosen.threshold - 0.05  # accepting more would break it
    assert right[lower].mean() < stated
    assert chosen.report(confidence, right)["coverage"]["value"] == pytest.approx(accepted.mean(), abs=1e-4)


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_wrong_labels_do_not_break_the_promise(noise):
    confidence, right = world(20_000, 1)
    generator = np.random.default_rng(3)
    wrong_label = generator.random(len(right)) < noise
    seen = np.where(wrong_label, ~right & (generator.random(len(right)) < 1 / 9), right)
    chosen = choose_threshold(confidence, seen, 0.95, noise)
    clean_confidence, clean = world(200_000, 2)
    assert clean[clean_confidence >= chosen.threshold].mean() == pytest.approx(0.95, abs=0.01)
    assert choose_threshold(confidence, seen, 0.97).coverage < 0.05  # taken as they are, next to nothing is accepted


def test_a_model_that_is_good_enough_needs_nobody():
    confidence, right = np.linspace(0.3, 0.9, 1000), np.arange(1000) % 100 != 0
    chosen = choose_threshold(confidence, right, 0.98)
    assert (chosen.threshold, chosen.coverage) == (0.0, 1.0)


def test_where_no_threshold_keeps_the_promise_nothing_is_accepted():
    generator = np.random.default_rng(0)
    confidence, right = generator.random(1000), generator.random(1000) < 0.5
    chosen = choose_threshold(confidence, right, 0.99)
    assert not chosen.reached
    report = chosen.report(confidence, right)
    assert (report["accepted"], report["accuracy"]) == (0, None)


def test_no_images_are_refused():
    with pytest.raises(DataError, match="validation images"):
        choose_threshold(np.array([]), np.array([], bool), 0.9)


@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.6, 0.8, 0.99]), st.booleans()), min_size=31, max_size=200),
    st.floats(0.05, 0.99),
)
def test_what_is_accepted_keeps_the_promise_whatever_the_ties(answers, stated):
    confidence, right = (np.array(column) for column in zip(*answers, strict=True))
    chosen = choose_threshold(confidence, right, stated)
    accepted = confidence >= chosen.threshold
    if chosen.reached:
        assert right[accepted].mean() >= stated
        assert accepted.mean() == pytest.approx(chosen.coverage)
    else:
        assert not accepted.any()
