"""What the predictions would look like under another class mix, and how often each class comes for them to look so.

A cell is a predicted class, or a predicted class and a confidence bin. The reference window says how often each cell
comes and, from its labels, what the truth in it is. If classes only come more or less often, each looking as before,
every cell comes as often as the sum over the truths it may have, each times how much more often that truth comes.
Written so, and not as P(cell | truth), the labels' errors touch only what has changed.

Lipton, Wang and Smola 2018; the fit is the iteration of Richardson 1972 and Lucy 1974, an expectation maximisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.drift.findings import FEWEST_EXPECTED
from components.monitoring.estimation.accuracy import truth_shares
from components.records import StratumCounts

PRIOR_ROWS = 1.0  # further predictions that show the old mix: without them a class never predicted has no answer
TOLERANCE = 1e-8  # change of a class's share, relative to its old one, between two iterations
MOST_ITERATIONS = 5000
FEWEST_LABELS = 0.5  # that a cell without any counts as, as in the variances of the accuracy
TINY = 1e-300

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MixEstimate:
    """The class mix of a window. mix: (K,) shares, sum to 1. standard_error: (K,), None where not estimated."""

    mix: FloatArray
    standard_error: FloatArray | None
    iterations: int
    converged: bool


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """What the reference shows in each of I cells.

    share: (I,) of its `rows` predictions, sums to 1. truth: (I, K + 1) distribution of the truth in the cell, the last
    column is `other`; rows sum to 1. labels: (I,) independent answers each row was estimated from. `rows` and labels
    are inf where the table is to be taken as exact.
    """

    share: FloatArray
    truth: FloatArray
    labels: FloatArray
    rows: float

    @classmethod
    def from_joint(cls, joint: FloatArray, labels: FloatArray, rows: float) -> Confusion:
        """Return the confusion whose shares per cell and truth are `joint` (I, K + 1)."""
        share = joint.sum(axis=1)
        nothing = np.append(np.zeros(joint.shape[1] - 1), 1.0)
        truth = np.where(share[:, None] > 0, over(joint, share[:, None]), nothing)
        return cls(share, truth, np.maximum(labels, FEWEST_LABELS), rows)

    @property
    def joint(self) -> FloatArray:
        """Return (I, K), the share of all predictions in each cell with each class as truth, without `other`."""
        return np.asarray(self.share[:, None] * self.truth[:, :-1])

    @property
    def mix(self) -> FloatArray:
        """Return (K,), the share of each class among all predictions; they and that of `other` sum to 1."""
        return np.asarray(self.share @ self.truth[:, :-1])

    def expected(self, factors: FloatArray) -> FloatArray:
        """Return (I,), the shares of the cells if class j came factors[j] times as often, and `other` as before."""
        return np.asarray(self.share * (self.truth @ np.append(factors, 1.0)))

    def variance(self, factors: FloatArray, rows: float, seen: FloatArray | None = None) -> FloatArray:
        """Return (I,), the variance of the shares of `rows` predictions less the expected ones.

        Three samples make it: the window's predictions, the reference's, and the labels. The labels add nothing where
        all classes come as often as before: then every truth a cell may have counts alike. seen: (I,) the window's
        shares; with them a cell is as frequent as both sides together say, which keeps a test of rare cells honest.
        """
        factors = np.append(factors, 1.0)
        mean = self.truth @ factors
        spread = np.maximum(self.truth @ factors**2 - mean**2, 0)
        share = self.share
        if seen is not None:
            share = (share + rows / self.rows * seen) / (1 + rows / self.rows * mean)
        expected = np.maximum(share * mean, max(1 / self.rows, TINY))
        return np.asarray(expected * (1 / rows + mean / self.rows) + self.share**2 * spread / self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of a test. counts: (I,) the window's. predicted: (I,) the class of each, -1 for the merged one."""

    confusion: Confusion
    counts: FloatArray
    predicted: NDArray[np.int64]


def comparable_cells(reference: StratumCounts, window: FloatArray) -> Cells:
    """Return each stratum that is expected at least 5 times on the smaller side, and one that all others merge into.

    window: (K, B) predictions per predicted class and confidence bin; both sides have some.
    """
    before, counts = reference.population.astype(np.float64).ravel(), window.ravel()
    sizes = float(before.sum()), float(counts.sum())
    share = before / sizes[0]
    joint = share[:, None] * _truth(reference)
    per_label = share**2 / np.maximum(reference.labelled.ravel() - 0.5, FEWEST_LABELS)
    expected = (before + counts) * min(sizes) / sum(sizes)
    merged = expected < FEWEST_EXPECTED
    if merged.any():  # the merged cell takes in further ones, rarest first, until it is expected often enough itself
        ranked = np.sort(expected)
        reached = int(np.searchsorted(np.cumsum(ranked), FEWEST_EXPECTED))
        merged |= expected <= ranked[min(reached, len(ranked) - 1)]

    def gathered(values: FloatArray) -> FloatArray:
        return np.concatenate([values[~merged], values[merged].sum(axis=0, keepdims=True)]) if merged.any() else values

    share, joint, counts, per_label = gathered(share), gathered(joint), gathered(counts), gathered(per_label)
    predicted = np.append(np.flatnonzero(~merged) // window.shape[1], [-1] if merged.any() else []).astype(np.int64)
    return Cells(Confusion.from_joint(joint, over(share**2, per_label), sizes[0]), counts, predicted)


def shift_factors(
    confusion: Confusion, counts: FloatArray, tolerance: float = TOLERANCE, most_iterations: int = MOST_ITERATIONS
) -> tuple[FloatArray, int, bool]:
    """Return how many times as often each class comes in `counts` (I,): (K,), then iterations and convergence.

    The maximum of the cells' Poisson likelihoods, first of all alike, then each weighted by the part of its variance
    that is the window's own under the first answer: two-step generalised least squares, but never negative. Weights
    that followed every iteration might circle. A class the reference does not have gets 0.
    Raises DataError for counts that do not fit the cells.
    """
    if counts.shape != confusion.share.shape or not (np.isfinite(counts) & (counts >= 0)).all() or counts.sum() <= 0:
        raise DataError(
            f"predicted counts of shape {counts.shape} that sum to {counts.sum():g} do not fit {len(confusion.share)} "
            "cells; give each cell one count of at least 0, and some cell more"
        )
    old, joint, rows = confusion.mix, confusion.joint, float(counts.sum())
    pull = PRIOR_ROWS / rows * old

    def fitted(factors: FloatArray, weight: FloatArray) -> tuple[FloatArray, int, bool]:
        whole = joint.T @ weight + pull

        def step(factors: FloatArray) -> FloatArray:
            seen = factors * (joint.T @ (weight * over(counts / rows, confusion.expected(factors))))
            return over(seen + pull, whole)

        return climb(step, factors, tolerance, most_iterations)

    alike, first, _ = fitted((old > 0).astype(np.float64), np.ones(len(counts)))
    weight = np.minimum(confusion.expected(alike) / (confusion.variance(alike, rows) * rows), 1)
    factors, second, converged = fitted(alike, weight)
    return factors, first + second, converged


def mix_of(
    confusion: Confusion, factors: FloatArray, counts: FloatArray, iterations: int = 0, converged: bool = True
) -> MixEstimate:
    """Return the mix that `factors` (K,), fitted to `counts` (I,), make of the reference's, with standard errors."""
    mix = factors * confusion.mix
    total = float(mix.sum())
    variance = _mix_variance(confusion, factors, float(counts.sum())) / total**2
    return MixEstimate(mix / total, np.sqrt(variance), iterations, converged)


def climb(
    step: Callable[[FloatArray], FloatArray], factors: FloatArray, tolerance: float, most_iterations: int
) -> tuple[FloatArray, int, bool]:
    """Return the fixed point of `step` reached from `factors` (K,), the iterations, and whether it converged."""
    for iteration in range(1, most_iterations + 1):
        before, factors = factors, step(factors)
        if np.abs(factors - before).max() <= tolerance * max(1.0, float(factors.max())):
            return factors, iteration, True
    return factors, most_iterations, False


def over(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """Return top / bottom, 0 where bottom is 0."""
    return np.asarray(np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0.0))


def _mix_variance(confusion: Confusion, factors: FloatArray, rows: float) -> FloatArray:
    """Return (K,), the variance of factors * mix by the delta method, with the errors of counts, shares and labels.

    A prediction of the window in cell h moves the share of class j by slope[j, h]. One of the reference whose truth is
    y moves it by factors[j] if y is j, for the old mix, less slope[j, h] factors[y], for what the cell is expected.
    What only the pull toward the old mix decides is known as well as `PRIOR_ROWS` predictions tell, which is hardly.
    """
    old, joint = confusion.mix, confusion.joint
    scaled = joint / confusion.variance(factors, rows)[:, None]
    pull = np.where(old > 0, PRIOR_ROWS * old, 1.0)
    inverse = np.linalg.inv(joint.T @ scaled + np.diag(pull))
    slope = old[:, None] * (inverse @ scaled.T)
    every = np.append(factors, 1.0)
    mean, square = confusion.truth @ every, confusion.truth @ every**2
    own = factors[:, None] * confusion.truth[:, :-1].T
    by_cell = own - slope * mean
    by_truth = own * factors[:, None] * (1 - 2 * slope) + slope**2 * square - by_cell**2

    def sampled(move: FloatArray, share: FloatArray) -> FloatArray:
        return np.asarray(move**2 @ share - (move @ share) ** 2)

    by_window = sampled(slope, confusion.expected(factors)) / rows
    by_reference = sampled(by_cell, confusion.share) / confusion.rows
    by_labels = np.maximum(by_truth, 0) @ (confusion.share**2 / confusion.labels)
    by_pull = old**2 * (inverse**2 @ pull)
    return np.asarray(np.maximum(by_window + by_reference + by_labels, 0) + by_pull)


def _truth(reference: StratumCounts) -> FloatArray:
    """Return (K * B, K + 1), the smoothed distribution of the truth in every stratum; the last column is `other`."""
    known = truth_shares(reference).reshape(reference.population.size, len(reference.classes))
    known = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.column_stack([known, np.maximum(0, 1 - known.sum(axis=1))])
