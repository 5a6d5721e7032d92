"""Error against the number of training images, and what twice as many would bring. Pure.

The error of a classifier falls about as a power of the number of its training images, down to what no image of the same
kind can teach: error = c + a x^-b (Hestness et al. 2017; Viering and Loog 2022). A few points tell the three numbers
badly apart, so what is claimed comes from every curve that agrees with the points, weighted by how well it does: flat
priors on the error at all images, on b, which is hardly ever above 1, and on the share of the error that stays, which
may as well be none.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.errors import DataError
from components.records import Interval

FEWEST_SIZES = 3  # different ones, for a curve with three parameters
LEAST_NOISE = 0.25
"""Of the binomial variance: points measured on the same images scatter less than that, and a lucky fit is no proof."""
OF_TRAINING = 0.02  # of an error: by so much another seed moves it, however many images are held out
STEEPEST = 1.0
NOTHING_LEFT = 1.0  # how likely, beforehand, a curve that falls for ever is against one that flattens out
DRAWN = 4000
_LEVELS, _LEFT, _STEEPNESS = 41, 26, 26  # grid points

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A fitted curve. error: at all training images; later: at `times` as many; both as 95 % intervals.

    gain: by how much the error falls between the two, with a 95 % interval; it is known better than either, as both are
    errors on the same images. exponent: b. sizes: how many different sizes were trained on.
    """

    error: Interval
    later: Interval
    gain: Interval
    exponent: float
    times: float
    sizes: int


def forecast(
    share: ArrayLike, wrong: ArrayLike, held_out: int, *, times: float = 2.0, seed: int = 0
) -> Forecast | None:
    """Return the curve through the points, extended to `times` as many images; None for fewer than three sizes.

    share: (P,) of the training images that were learnt from, above 0. wrong: (P,) errors among `held_out` images, the
    same for every point. Deterministic in the seed. Raises DataError for numbers that cannot be such.
    """
    x, errors = np.asarray(share, np.float64), np.asarray(wrong, np.float64)
    if x.shape != errors.shape or x.ndim != 1 or held_out < 1 or (x <= 0).any() or not np.isfinite(x).all():
        raise DataError(f"no learning curve: shares {share!r}, errors {wrong!r} of {held_out} images")
    if (errors < 0).any() or (errors > held_out).any():
        raise DataError(f"errors {wrong!r} must lie within 0..{held_out}, the images held out")
    sizes = len(np.unique(x))
    if sizes < FEWEST_SIZES:
        return None
    seen = (errors + 0.5) / (held_out + 1)
    spread = np.hypot(np.sqrt(seen * (1 - seen) / held_out), OF_TRAINING * seen)
    a, b, c = _fit(x, seen, spread)
    level, left, steepness = _curves_like(x, seen, spread, a + c, np.random.default_rng(seed))
    later = level * (left + (1 - left) * times**-steepness)
    # Which images happened to be held out moves all points alike, so the points do not show it.
    at_all = float(seen[x.argmax()])
    sample = np.sqrt(at_all * (1 - at_all) / held_out) * np.random.default_rng([seed, 1]).standard_normal(DRAWN)
    best = c + a * times**-b
    return Forecast(
        error=_interval(a + c, level + sample),
        later=_interval(best, later + sample),
        gain=_interval(a + c - best, (level - later) * np.maximum(1 + sample / level, 0)),
        exponent=b,
        times=times,
        sizes=sizes,
    )


def _curves_like(
    x: FloatArray, seen: FloatArray, spread: FloatArray, about: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return error at 1, share of it that stays and b, each (DRAWN,), of curves drawn by how well they agree."""
    from scipy import stats

    reach = 5 * float(spread[x.argmax()])
    levels = np.linspace(max(about - reach, 1e-9), min(about + reach, 1), _LEVELS)
    level, left, steepness = (
        axis.reshape(-1)
        for axis in np.meshgrid(levels, np.linspace(0, 1, _LEFT), np.linspace(0, STEEPEST, _STEEPNESS), indexing="ij")
    )
    of_level = left[:, None] + (1 - left[:, None]) * x[None, :] ** -steepness[:, None]  # (G, P)
    chi_square = (((level[:, None] * of_level - seen) / spread) ** 2).sum(axis=1)
    freedom = max(1, len(x) - 3)
    wide = float(stats.t.isf(0.025, freedom) / stats.norm.isf(0.025))  # few points tell their own scatter badly
    noise = max(LEAST_NOISE, float(chi_square.min()) / freedom) * wide**2
    weight = np.exp(-(chi_square - chi_square.min()) / (2 * noise)) * np.where(left == 0, NOTHING_LEFT * (_LEFT - 1), 1)
    drawn = rng.choice(len(weight), DRAWN, p=weight / weight.sum())
    return level[drawn], left[drawn], steepness[drawn]


def _fit(x: FloatArray, seen: FloatArray, spread: FloatArray) -> tuple[float, float, float]:
    """Return a, b and c of the curve that agrees best."""
    from scipy.optimize import OptimizeWarning, curve_fit

    def curve(at: FloatArray, a: float, b: float, c: float) -> FloatArray:
        return np.asarray(c + a * at**-b)

    floor = float(seen.min()) / 3
    slope, height = np.polyfit(np.log(x), np.log(np.maximum(seen - floor, 1e-4)), 1)
    start = np.array([np.clip(np.exp(height), 1e-6, 1), np.clip(-slope, 0.05, STEEPEST), floor])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
        with suppress(RuntimeError):  # not settled after so many steps, in a valley of equally good curves
            start = curve_fit(curve, x, seen, start, spread, bounds=([0, 0, 0], [1, STEEPEST, 1]), max_nfev=500)[0]
    return float(start[0]), float(start[1]), float(start[2])


def _interval(value: float, drawn: FloatArray) -> Interval:
    low, high = np.clip(np.percentile(drawn, (2.5, 97.5)), 0, 1)
    value = min(max(value, 0.0), 1.0)
    return Interval(value, min(float(low), value), max(float(high), value))
