"""Learning curves: known power laws with noise, whose errors at twice the images the intervals must cover."""

from __future__ import annotations

import numpy as np
import pytest

from components.errors import DataError
from components.evaluation.training.learning_curve import forecast

SHARES = np.array([1, 0.25, 0.5, 0.125, 0.25, 0.5, 0.125])


def law(x, a: float, b: float, c: float):
    return c + a * np.asarray(x, float) ** -b


def trained(seed: int, a: float, b: float, c: float, held_out: int, *, same_images: bool):
    """Errors of a known law: noise of the held-out images (the same for all points, or not) and of the trainings."""
    rng = np.random.default_rng(seed)
    rate = np.clip(law(SHARES, a, b, c) * np.exp(0.03 * rng.standard_normal(len(SHARES))), 0, 1)
    if same_images:
        return (rng.random(held_out)[:, None] < rate).sum(axis=0)
    return rng.binomial(held_out, rate)


@pytest.mark.parametrize("same_images", [True, False])
@pytest.mark.parametrize(("a", "b", "c"), [(0.10, 0.5, 0.0), (0.10, 0.35, 0.05), (0.02, 0.5, 0.10), (0.2, 0.2, 0.0)])
def test_the_interval_covers_the_error_with_twice_as_many_images(a: float, b: float, c: float, same_images: bool):
    covered, gains = 0, 0
    for seed in range(100):
        found = forecast(SHARES, trained(seed, a, b, c, 600, same_images=same_images), 600, seed=seed)
        covered += found.later.low <= law(2, a, b, c) <= found.later.high
        gains += found.gain.low <= law(1, a, b, c) - law(2, a, b, c) <= found.gain.high
    assert covered >= 92
    assert gains >= 92


def test_without_noise_the_law_itself_is_found():
    wrong = np.rint(10**6 * law(SHARES, 0.08, 0.5, 0.03))
    found = forecast(SHARES, wrong, 10**6)
    assert found.exponent == pytest.approx(0.5, abs=0.02)
    assert found.later.value == pytest.approx(law(2, 0.08, 0.5, 0.03), abs=1e-3)
    assert found.gain.value == pytest.approx(law(1, 0.08, 0.5, 0) - law(2, 0.08, 0.5, 0), abs=1e-3)
    assert forecast(SHARES, wrong, 10**6, times=8).later.value == pytest.approx(law(8, 0.08, 0.5, 0.03), abs=2e-3)


def test_a_flat_curve_promises_nothing_and_a_perfect_one_less():
    flat = forecast(SHARES, np.full(7, 60), 600)
    assert flat.gain.high < 0.01
    assert flat.later.low < 0.1 < flat.later.high
    perfect = forecast(SHARES, np.zeros(7), 600)
    assert perfect.later.high < 0.02


def test_an_error_that_grows_with_the_images_promises_nothing():
    assert forecast(SHARES, np.rint(600 * 0.1 * SHARES**0.3), 600).gain.value < 0.003


def test_two_sizes_make_no_curve_and_impossible_numbers_are_refused():
    assert forecast([0.5, 1, 0.5, 1], [3, 2, 3, 2], 10) is None
    for share, wrong, held_out in (([0, 1, 0.5], [1, 1, 1], 5), ([1, 0.5], [1], 5), ([0.2, 0.5, 1], [7, 1, 1], 5)):
        with pytest.raises(DataError):
            forecast(share, wrong, held_out)


def test_few_held_out_images_make_it_say_less():
    few = forecast(SHARES, np.array([3, 5, 4, 7, 5, 4, 7]), 30)
    many = forecast(SHARES, np.array([3, 5, 4, 7, 5, 4, 7]) * 100, 3000)
    assert few.later.high - few.later.low > 2 * (many.later.high - many.later.low)
    assert few == forecast(SHARES, np.array([3, 5, 4, 7, 5, 4, 7]), 30)
