"""Which predictions people are asked about: how many in all, how many per stratum, and which.

A stratum is a predicted class and a confidence bin. Half of the draw gives every predicted class the same number of
labels, the other half leans toward low confidence, where the errors are; the first half keeps the estimate honest
when a class fails at high confidence. Within a stratum the smallest `u` are taken, so that a larger draw contains
every smaller one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.estimation.accuracy import recall_shares
from components.params import Labelling
from components.records import StratumCounts

FEWEST_PER_STRATUM = 2
LEAST_SPREAD = 0.2  # of a stratum's answers, however sure the model is: overconfidence must not empty a stratum

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def budget(predictions: int, labelling: Labelling, reference: bool) -> int:
    """Return how many of a window's `predictions` to draw; a reference window has `reference_factor` times as many.

    Never more than `labelling.max_labels` or than there are predictions; at least one where there is one.
    """
    if predictions <= 0:
        return 0
    wanted = math.ceil(round(predictions * labelling.share * (labelling.reference_factor if reference else 1), 6))
    return max(1, min(wanted, labelling.max_labels, predictions))


def allocate(counts: StratumCounts, n: int) -> IntArray:
    """Return n_h (K, B), how many to draw from each stratum of `counts` for a budget of `n`.

    n_h = min(N_h, max(2, floor(n q_h))), the remainder by largest q_h, so that the sum is `n`, or the sum of the minima
    where that is more, or the population where that is less. q_h = a/2 + a s/2, each normalised, with
    a_h = N_h / N_k and s_h = max(sqrt(m (1 - m)), 0.2) for the stratum's mean confidence m.
    Raises DataError for a stratum with predictions but without a mean confidence in 0..1.
    """
    population = np.asarray(counts.population, dtype=np.int64)
    smallest = np.minimum(population, FEWEST_PER_STRATUM)
    total = int(min(max(n, smallest.sum()), population.sum()))
    if total == 0:
        return np.zeros_like(population)
    return _apportion(draw_shares(population, counts.confidence), total, smallest, population)


def draw_shares(population: IntArray, confidence: FloatArray) -> FloatArray:
    """Return q_h (K, B), each stratum's share of the draw; they sum to 1 and are 0 where the stratum is empty.

    population: (K, B) N_h. confidence: (K, B) mean calibrated confidence, ignored where the stratum is empty.
    """
    occupied = population > 0
    usable = (confidence >= 0) & (confidence <= 1)
    if np.any(occupied & ~usable):
        k, b = np.argwhere(occupied & ~usable)[0]
        raise DataError(
            f"stratum of class {k}, confidence bin {b} holds {population[k, b]} predictions but its mean confidence is "
            f"{confidence[k, b]}; it must lie between 0 and 1"
        )
    mean = np.where(occupied, confidence, 0.5)
    spread = np.maximum(np.sqrt(mean * (1 - mean)), LEAST_SPREAD)
    even = population / np.maximum(population.sum(axis=1, keepdims=True), 1)
    leaning = even * spread
    return np.asarray(even / even.sum() / 2 + leaning / leaning.sum() / 2)


def spread_top_up(counts: StratumCounts, class_index: int, extra: int) -> IntArray:
    """Return (B,) further tasks of predicted class `class_index`, spread like those already drawn from it.

    They sum to `extra`, or to what is left undrawn in the class. For a class whose precision is suspected.
    """
    drawn = np.asarray(counts.drawn[class_index], dtype=np.int64)
    room = np.maximum(np.asarray(counts.population[class_index], dtype=np.int64) - drawn, 0)
    weight = np.where(drawn > 0, drawn, (room > 0) * 1.0)
    return _apportion(weight, min(extra, int(room.sum())), np.zeros_like(room), room)


def spread_recall_top_up(counts: StratumCounts, class_index: int, extra: int) -> IntArray:
    """Return (K, B) further tasks that tell most about the recall of class `class_index`.

    More labels among its own predictions cannot show what it misses: they go by Neyman allocation to where its images
    may be predicted as something else, own predictions taking their share of the recall's variance, at most half.
    """
    drawn = np.asarray(counts.drawn, dtype=np.int64)
    room = np.maximum(np.asarray(counts.population, dtype=np.int64) - drawn, 0)
    share = recall_shares(counts, class_index)
    weight = np.asarray(counts.population * np.sqrt(share * (1 - share)), dtype=np.float64)
    found = float((counts.population[class_index] * share[class_index]).sum())
    everywhere = float((counts.population * share).sum())
    recall = found / everywhere if everywhere > 0 else 1.0
    lean = max(recall, 0.5)
    weight *= lean
    weight[class_index] *= (1 - lean) / lean
    room[weight <= 0] = 0
    return _apportion(weight, min(extra, int(room.sum())), np.zeros_like(room), room)


def draw(stratum: IntArray, u: FloatArray, sizes: IntArray) -> IntArray:
    """Return the ascending positions of the `sizes[h]` smallest `u` of every stratum h.

    stratum: (N,) of 0..H-1. u: (N,) in [0, 1). sizes: (H,) or (K, B). In-memory twin of the draw made in SQL.
    """
    order = np.lexsort((u, stratum))
    ordered = stratum[order]
    flat = sizes.reshape(-1)
    first = np.searchsorted(ordered, np.arange(len(flat)))
    rank = np.arange(len(ordered)) - first[ordered]
    return np.asarray(np.sort(order[rank < flat[ordered]]), dtype=np.int64)


def _apportion(weight: FloatArray, total: int, smallest: IntArray, largest: IntArray) -> IntArray:
    """Return whole numbers in proportion to `weight` within [smallest, largest], summing to `total`.

    `total` lies between the sums of the bounds. What rounding down leaves goes one by one to the largest weights that
    have room; what full strata leave goes to the others in proportion.
    """
    weight = np.where(largest > 0, weight, 0.0)
    scale = total / max(float(weight.sum()), 1e-300)
    sizes = _scaled(weight, scale, smallest, largest)
    if sizes.sum() > total:  # the minima of small strata took more than rounding left
        sizes = _scaled(weight, _largest_scale(weight, scale, total, smallest, largest), smallest, largest)
    order = np.argsort(-weight, axis=None, kind="stable")
    while (left := total - int(sizes.sum())) > 0:
        open_weight = np.where(sizes < largest, weight, 0.0)
        further = np.zeros_like(sizes)
        if left >= np.count_nonzero(sizes < largest) and open_weight.sum() > 0:
            further = np.minimum(np.floor(left * open_weight / open_weight.sum()), largest - sizes).astype(np.int64)
        if not further.any():
            with_room = order[(sizes < largest).reshape(-1)[order]]
            further.reshape(-1)[with_room[:left]] = 1
        sizes = sizes + further
    return sizes


def _largest_scale(weight: FloatArray, high: float, total: int, smallest: IntArray, largest: IntArray) -> float:
    low = 0.0
    for _ in range(80):  # bisection to the last bit
        middle = (low + high) / 2
        fits = _scaled(weight, middle, smallest, largest).sum() <= total
        low, high = (middle, high) if fits else (low, middle)
    return low


def _scaled(weight: FloatArray, scale: float, smallest: IntArray, largest: IntArray) -> IntArray:
    # 1e-9 keeps an exact product such as 0.1 * 30 from rounding down to 2.
    wanted = np.floor(np.minimum(weight * scale + 1e-9, largest))
    return np.asarray(np.clip(wanted, smallest, largest), dtype=np.int64)
