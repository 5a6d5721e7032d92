"""Which images people are asked about where an image carries several labels: few images that serve all labels.

Every label k is a problem of its own: an image is predicted to carry it or not to, with a confidence. Its strata are
(label, carries it or not, confidence bin), and in each of them the images with the smallest `u` are drawn. `u` belongs
to the image, so what one label asks about another label's draw mostly holds already. Half of the images are the base,
those with the smallest `u` of all: they are nearly all that tells which images lack a label surely and are wrong. The
other half goes to predictions of labels and to uncertain absences, an equal part to each label; a label common enough
to be served by the base takes nothing of it.

An answer about an image counts for a label only where the image belongs to that label's sample, u <= limit of its
stratum: an image drawn because it is uncertain about one label is no random image to another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.monitoring.judgement.trigger import TOP_UP_BUDGET_SHARE, Suspicion, plan_top_up
from components.monitoring.sampling.one_class import FEWEST_PER_STRATUM, draw_shares
from components.params import Monitor
from components.records import LabelCounts, LabelOverlap, LabelSizes, StratumCounts

BASE_SHARE = 0.5
BISECTIONS = 50
LEAST_MISSED = 0.5
"""Jeffreys' half an answer. Nearly all images are surely without a rare label, and a sample of them seldom meets one
that carries it: to meet none says less than the right answers of that confidence bin would make of it.
"""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def of_label(counts: LabelCounts, k: int) -> StratumCounts:
    """Return label `k` as a problem of two classes: the label, and "not" the label."""
    answers = np.zeros((*counts.population[k].shape, 3), dtype=np.int64)
    answers[..., 0] = counts.present[k]
    answers[..., 1] = counts.labelled[k] - counts.present[k]
    name = counts.classes[k]
    return StratumCounts(
        classes=(name, f"not {name}"),
        population=counts.population[k],
        labelled=counts.labelled[k],
        answers=answers,
        drawn=counts.drawn[k],
        confidence=counts.confidence[k],
        least_missed=LEAST_MISSED,
    )


def allocate_labels(counts: LabelCounts, overlap: LabelOverlap, n: int) -> LabelSizes:
    """Return the draw of about `n` different images from the strata of `counts` (population and confidence).

    Its expected number of images is at most `n`, as far as `overlap` tells it, or what at least 2 images of every
    stratum take where that is more. Raises DataError for a stratum whose mean confidence is not in 0..1.
    """
    images = int(counts.population[0].sum()) if len(counts.population) else 0
    n = min(n, images)
    nothing = np.zeros_like(counts.population)
    if n <= 0:
        return LabelSizes(0, nothing)
    own = _without_sure_absences(counts.population)
    smallest = np.minimum(own, FEWEST_PER_STRATUM)
    shares = _shares(own, counts.confidence)
    base = max(1, round(n * BASE_SHARE))

    def sizes(scale: float) -> IntArray:
        return np.asarray(np.clip(np.floor(scale * shares + 1e-9), smallest, own), dtype=np.int64)

    def fits(of_base: int, drawn: IntArray) -> bool:
        return expected_images(counts.population, overlap, LabelSizes(of_base, drawn)) <= n + 0.5

    every = sizes(_scale_of_all(own, shares))
    if fits(base, every):  # all predictions of labels are drawn, and the base takes what is left
        low, high = base, n
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle, every) else (low, middle - 1)
        return LabelSizes(low, every)
    scale = _largest(lambda one: fits(base, sizes(one)), _scale_of_all(own, shares))
    return LabelSizes(base, sizes(scale))


def expected_images(population: IntArray, overlap: LabelOverlap, sizes: LabelSizes) -> float:
    """Return how many different images `sizes` is expected to draw: an image is drawn if any of its strata draws it.

    population: (K, 2, B). It is drawn for stratum h with n_h / N_h, for the base with base / N, and, as all go by the
    same `u`, with the largest of these in all.
    """
    images = int(population[0].sum())
    base = sizes.base / images
    chance = (sizes.sizes / np.maximum(population, 1)).reshape(-1)
    beyond = np.maximum(chance[overlap.stratum] - base, 0.0)
    most = np.zeros(int(overlap.image.max()) + 1 if len(overlap.image) else 0)
    np.maximum.at(most, overlap.image, beyond)
    return sizes.base + images / max(overlap.images, 1e-9) * float(most.sum())


def overlap_of(stratum: IntArray) -> LabelOverlap:
    """Return how the strata meet in (N, K) images whose strata are known: flat indices into (K, 2, B), -1 for none."""
    image, label = np.nonzero(stratum >= 0)
    return LabelOverlap(float(len(stratum)), image.astype(np.int64), stratum[image, label])


def plan_label_top_up(counts: LabelCounts, suspects: Sequence[Suspicion], rules: Monitor) -> IntArray:
    """Return (K, 2, B) further images for the worst of `suspects` (worst first), as `plan_top_up` does for classes.

    Each of these labels is topped up in its own problem; what two of them ask for is often the same image.
    """
    plan = np.zeros_like(counts.population)
    if rules.topup_labels == 0:
        return plan
    affordable = int(TOP_UP_BUDGET_SHARE * counts.tasks / rules.topup_labels)
    remaining = max(rules.topup_classes, affordable if rules.topup_classes else 0)
    seen: set[int] = set()
    for suspect in suspects:
        k = suspect.class_index
        if k in seen or len(seen) == remaining:
            continue
        seen.add(k)
        plan[k] = plan_top_up(of_label(counts, k), [replace(suspect, class_index=0)], rules)
    return plan


def _without_sure_absences(population: IntArray) -> IntArray:
    """Return (K, 2, B) without the stratum that the base serves: surely not carrying the label."""
    own = population.copy()
    own[:, 1, -1] = 0
    return own


def _shares(own: IntArray, confidence: FloatArray) -> FloatArray:
    """Return q_h (K, 2, B): each label's predictions and each label's uncertain absences have an equal part."""
    rows = own.reshape(-1, own.shape[-1])
    if not rows.any():
        return np.zeros(own.shape)
    occupied = np.where(rows > 0, confidence.reshape(rows.shape), np.nan)
    return draw_shares(rows, occupied).reshape(own.shape)


def _scale_of_all(own: IntArray, shares: FloatArray) -> float:
    """Return the least scale at which every stratum is drawn whole."""
    occupied = own > 0
    return float((own[occupied] / np.maximum(shares[occupied], 1e-300)).max()) + 1 if occupied.any() else 0.0


def _largest(fits: Callable[[float], bool], high: float) -> float:
    low = 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def draw_labels(stratum: IntArray, u: FloatArray, sizes: LabelSizes) -> tuple[IntArray, FloatArray, IntArray]:
    """Return the drawn positions, ascending, the limits (K, 2, B) and how many images of each stratum they hold.

    stratum: (N, K) of flat indices into (K, 2, B). u: (N,) in [0, 1). A stratum's limit is the largest `u` that is
    drawn of it, NaN where none is. In-memory twin of the draw made in SQL.
    """
    order = np.argsort(u, kind="stable")
    shape = sizes.sizes.shape
    flat = sizes.sizes.reshape(-1)
    of_base = u[order[sizes.base - 1]] if sizes.base else -1.0
    limits, held = np.full(flat.shape, np.nan), np.zeros(flat.shape, dtype=np.int64)
    drawn = np.zeros(len(u), dtype=bool)
    for h in range(len(flat)):
        members = order[stratum[order, h // (shape[1] * shape[2])] == h]
        many = max(int(flat[h]), int(np.count_nonzero(u[members] <= of_base)))
        held[h] = min(many, len(members))
        if held[h]:
            limits[h] = u[members[held[h] - 1]]
            drawn[members[: held[h]]] = True
    return np.flatnonzero(drawn), limits.reshape(shape), held.reshape(shape)
