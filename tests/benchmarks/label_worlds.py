"""Simulated services whose images carry several labels, with known truth: correlated, common and rare labels.

An image has a few hidden traits; a label is there where a mix of them is large, so that labels come together or exclude
each other. The model sees each label through noise and gives calibrated probabilities, except that a share of what it
is surely silent about is there all the same, and that a fallen label loses precision or recall at any confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from components.monitoring.judgement.several_labels import LabelEstimates, estimate_labels
from components.monitoring.sampling.several_labels import allocate_labels, draw_labels, overlap_of
from components.records import CONFIDENCE_BINS, CONFIDENCE_EDGES, LabelCounts

COMMON = np.array([0.40, 0.30, 0.22, 0.16, 0.12, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02])
STANDS_OUT = np.array([3.6, 3.8, 3.8, 4.0, 4.0, 4.2, 4.2, 4.4, 4.4, 4.6, 4.8, 5.0])
LABELS = len(COMMON)
NAMES = tuple(f"label {k}" for k in range(LABELS))
TRAITS = 3
IMAGES = 20_000
SURE_AND_WRONG = 0.01  # of a label's images: the model sees nothing of the label


@dataclass(frozen=True, eq=False)
class LabelMonth:
    """One month. truth, positive: (N, K) bool. confidence: (N, K), in carrying the label or in not. u: (N,)."""

    truth: np.ndarray
    positive: np.ndarray
    confidence: np.ndarray
    u: np.ndarray

    @property
    def sign_and_bin(self) -> np.ndarray:
        """Return (N, K): 0..B-1 where the label is predicted, B..2B-1 where it is not."""
        return np.where(self.positive, 0, CONFIDENCE_BINS) + np.digitize(self.confidence, CONFIDENCE_EDGES)

    @property
    def stratum(self) -> np.ndarray:
        """Return (N, K) flat indices into (K, 2, B)."""
        return self.sign_and_bin + 2 * CONFIDENCE_BINS * np.arange(self.truth.shape[1])

    def precision(self) -> np.ndarray:
        return (self.truth & self.positive).sum(axis=0) / np.maximum(self.positive.sum(axis=0), 1)

    def recall(self) -> np.ndarray:
        return (self.truth & self.positive).sum(axis=0) / np.maximum(self.truth.sum(axis=0), 1)


@dataclass(frozen=True, slots=True)
class Fall:
    """What a label loses: of the images rightly said to carry it `precision` do not; of its images `recall` are missed.

    Whatever the confidence was; what is missed becomes a sure absence.
    """

    label: int
    precision: float = 0.0
    recall: float = 0.0


def label_month(
    rng: np.random.Generator, fall: Fall | None = None, images: int = IMAGES, common: np.ndarray = COMMON
) -> LabelMonth:
    """Return one month of `images` images; common: (K,) how often each label is there."""
    loads = np.random.default_rng(7).normal(size=(TRAITS, LABELS))
    loads /= np.sqrt((loads**2).sum(axis=0))
    hidden = np.sqrt(0.5) * rng.normal(size=(images, TRAITS)) @ loads + np.sqrt(0.5) * rng.normal(size=(images, LABELS))
    truth = hidden > stats.norm.isf(common)
    shown = truth & (rng.random(truth.shape) >= SURE_AND_WRONG)
    seen = rng.normal(size=truth.shape) + STANDS_OUT * shown
    probability = special.expit(STANDS_OUT * (seen - STANDS_OUT / 2) + special.logit(COMMON))
    positive = probability >= 0.5
    if fall is not None:
        k, u = fall.label, rng.random(images)
        truth[:, k] &= ~(positive[:, k] & truth[:, k] & (u < fall.precision))
        missed = truth[:, k] & (rng.random(images) < fall.recall)
        probability[missed, k] = rng.uniform(0.0, 0.02, images)[missed]
        positive[missed, k] = False
    confidence = np.where(positive, probability, 1 - probability)
    return LabelMonth(truth, positive, confidence, rng.random(images))


def answered(month: LabelMonth, n: int, further: np.ndarray | None = None) -> LabelCounts:
    """Return the counts of the month once `n` of its images are drawn and answered truly.

    further: (K, 2, B) images beyond those of the first draw, a top-up.
    """
    empty = strata_of(month)
    sizes = allocate_labels(empty, overlap_of(_rows_of(month)), n)
    first = draw_labels(month.stratum, month.u, sizes)
    if further is not None:
        sizes.sizes[...] = np.minimum(first[2] + further, empty.population)
        first = draw_labels(month.stratum, month.u, sizes)
    return counted(month, *first)


def counted(month: LabelMonth, drawn: np.ndarray, limits: np.ndarray, held: np.ndarray) -> LabelCounts:
    """Return the counts of a draw: an image counts for a label where its `u` is within the limit of its stratum."""
    empty = strata_of(month)
    limit = limits.reshape(-1)[month.stratum[drawn]]
    counts = month.u[drawn, None] <= limit
    return LabelCounts(
        classes=NAMES,
        population=empty.population,
        labelled=_tally(month.stratum[drawn][counts]),
        present=_tally(month.stratum[drawn][counts & month.truth[drawn]]),
        drawn=held,
        confidence=empty.confidence,
        tasks=len(drawn),
        settled=len(drawn),
    )


def strata_of(month: LabelMonth) -> LabelCounts:
    """Return the month's strata before anything is drawn."""
    population = _tally(month.stratum.reshape(-1))
    total = np.bincount(month.stratum.reshape(-1), month.confidence.reshape(-1), population.size)
    nothing = np.zeros_like(population)
    with np.errstate(invalid="ignore"):
        confidence = total.reshape(population.shape) / population
    return LabelCounts(NAMES, population, nothing, nothing, nothing, confidence, 0, 0)


def estimated(month: LabelMonth, n: int) -> LabelEstimates:
    return estimate_labels(answered(month, n))


def _rows_of(month: LabelMonth) -> np.ndarray:
    return np.where(month.sign_and_bin == 2 * CONFIDENCE_BINS - 1, -1, month.stratum)


def _tally(strata: np.ndarray) -> np.ndarray:
    return np.bincount(strata, minlength=LABELS * 2 * CONFIDENCE_BINS).reshape(LABELS, 2, CONFIDENCE_BINS)
