"""Every class's production accuracy from a stratified sample of labels, with intervals that keep their promise.

Symbols are those of survey sampling. h is a stratum (predicted class and confidence bin) with N_h predictions, n_h of
them labelled; W_h = N_h / N_k is its weight in its class, f_h = n_h / N_h the share labelled, x_hy the answers y.
Point estimates are plain stratified ones. Variances use smoothed shares, since a stratum of two right answers is no
proof of perfection. `process_effective` leaves out the finite-population correction (f = 0): the trigger asks whether
the process that makes predictions has changed, not what this one month was.

Wilson 1927; Korn and Graubard 1998; Franco et al. 2019 (PMC6690503).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.estimation.rates import MOST_EFFECTIVE, Rates, effective_labels, rates_from, wilson_interval
from components.records import Interval, StratumCounts

PRIOR_LABELS = 2.0  # weight of the confidence bin's pooled accuracy in a smoothed share
MOST_UNANSWERED = 0.2
"""Share of predictions in strata without an answer above which a guess about those strata would be the result."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """What one draw says of one segment of one window, under one class list of K classes.

    predicted: (K,) N_k. precision, recall: per class. accuracy: overall; None without labels, and where more than
    MOST_UNANSWERED of the predictions are in strata without an answer. calibration_error: 0..1 over the confidence
    bins; None likewise, and where a confidence is not a number. unanswered: (K,) share of the class's predictions in
    such strata; unanswered_overall: of all predictions. joint: (K, K + 1) estimated share of the window's predictions
    that were predicted as the row and labelled as the column (the last is `other`); sums to 1. mix: (K,) estimated
    share of each class among the predictions whose truth is in the list, mix_spread: (K,) its relative variance, inf
    where the class was not seen; mix_effective: independent labels that would estimate the whole mix as well. complete:
    (K,) whether every prediction of the class is labelled. labelled: settled answers in all; drawn: tasks.
    """

    classes: tuple[str, ...]
    predicted: IntArray
    precision: Rates
    recall: Rates
    accuracy: Interval | None
    calibration_error: float | None
    unanswered: FloatArray
    unanswered_overall: float
    joint: FloatArray
    mix: FloatArray
    mix_spread: FloatArray
    mix_effective: float
    complete: NDArray[np.bool_]
    labelled: int
    drawn: int


def estimate(counts: StratumCounts) -> Estimates:
    """Return the estimates from `counts`. Raises DataError if its arrays contradict each other."""
    check_counts(counts)
    strata = _Strata(counts)
    precision, class_variance = _precision(strata)
    recall, actual, actual_variance = _recall(strata, class_variance)
    joint = _joint(strata)
    mix, mix_effective = _mix(joint, actual_variance, strata)
    return Estimates(
        classes=counts.classes,
        predicted=counts.population.sum(axis=1),
        precision=precision,
        recall=recall,
        accuracy=_overall(strata),
        calibration_error=_calibration_error(strata),
        unanswered=strata.unanswered,
        unanswered_overall=strata.unanswered_overall,
        joint=joint,
        mix=mix,
        mix_spread=np.where(actual > 0, actual_variance / np.maximum(actual**2, 1e-300), np.inf),
        mix_effective=mix_effective,
        complete=np.asarray((counts.labelled == counts.population).all(axis=1)),
        labelled=int(counts.labelled.sum()),
        drawn=int(counts.drawn.sum()),
    )


def check_counts(counts: StratumCounts) -> None:
    """Raise DataError, naming the first offending stratum, if the arrays of `counts` contradict each other."""
    classes = len(counts.classes)
    shape = counts.population.shape
    wanted = {"labelled": shape, "drawn": shape, "confidence": shape, "answers": (*shape, classes + 1)}
    if len(shape) != 2 or shape[0] != classes:
        raise DataError(f"counts.population has shape {shape}; with {classes} classes it must be ({classes}, bins)")
    for name, expected in wanted.items():
        if getattr(counts, name).shape != expected:
            raise DataError(f"counts.{name} has shape {getattr(counts, name).shape}; it must be {expected}")
    rules = (
        ("fewer than 0 answers", (counts.answers < 0).any(axis=2)),
        ("answers that do not add up to its labels", counts.answers.sum(axis=2) != counts.labelled),
        ("more labels than predictions", counts.labelled > counts.population),
        ("more labels than tasks", counts.labelled > counts.drawn),
    )
    for complaint, broken in rules:
        if broken.any():
            k, b = np.argwhere(broken)[0]
            n, drawn, labelled = counts.population[k, b], counts.drawn[k, b], counts.labelled[k, b]
            raise DataError(
                f"class {counts.classes[k]!r}, confidence bin {b} has {complaint} (N {n}, drawn {drawn}, "
                f"labelled {labelled}, answers {int(counts.answers[k, b].sum())}); count the window again"
            )


def own_class(answers: IntArray) -> IntArray:
    """Return x_h (K, B), the answers (K, B, K + 1) that agree with the prediction."""
    diagonal = np.arange(answers.shape[0])
    return np.asarray(answers[diagonal, :, diagonal])


def recall_shares(counts: StratumCounts, class_index: int) -> FloatArray:
    """Return (K, B), the smoothed share of each stratum whose truth is class `class_index`."""
    strata = _Strata(counts)
    share = np.empty(strata.N.shape)
    for b in range(strata.bins):
        share[:, b] = _smoothed_answers(strata, b)[:, class_index]
    share[class_index] = strata.smoothed[class_index]
    return share


def truth_shares(counts: StratumCounts) -> FloatArray:
    """Return (K, B, K), the smoothed share of every class among the truths of every stratum (predicted, bin)."""
    strata = _Strata(counts)
    shares = np.stack([_smoothed_answers(strata, b) for b in range(strata.bins)], axis=1)
    every = np.arange(len(counts.classes))
    shares[every, :, every] = strata.smoothed
    return shares


class _Strata:
    """The counts as floats, with the shares every estimator starts from."""

    def __init__(self, counts: StratumCounts) -> None:
        self.N = counts.population.astype(np.float64)
        self.n = counts.labelled.astype(np.float64)
        self.answers = counts.answers
        self.confidence = counts.confidence
        self.least_missed = counts.least_missed
        self.bins = self.N.shape[1]
        self.N_k = self.N.sum(axis=1)
        self.total = float(self.N.sum())
        right = own_class(counts.answers).astype(np.float64)
        self.bin_accuracy = (right.sum(axis=0) + 0.5) / (self.n.sum(axis=0) + 1)  # p̄_b
        self.share = np.where(self.n > 0, right / np.maximum(self.n, 1), self.bin_accuracy)  # p̂_h
        self.smoothed = np.where(
            self.n > 0, (right + PRIOR_LABELS * self.bin_accuracy) / (self.n + PRIOR_LABELS), self.bin_accuracy
        )  # p̃_h
        self.finite = 1 - np.where(self.N > 0, self.n / np.maximum(self.N, 1), 0)  # 1 - f_h
        self.divisor = np.maximum(self.n - 0.5, 0.5)
        unseen = np.where(self.n > 0, 0, self.N).sum(axis=1)
        self.unanswered = unseen / np.maximum(self.N_k, 1)
        self.unanswered_overall = float(unseen.sum()) / max(self.total, 1)
        # (K, K): expected share of truth k among what was predicted i and is wrong.
        self.confusable = self.N_k[None, :] / np.maximum(self.total - self.N_k, 1)[:, None]


def _precision(strata: _Strata) -> tuple[Rates, tuple[FloatArray, FloatArray]]:
    """Return precision, and the variance (K,) of N_k P_k for this window and for the process."""
    weight = strata.N / np.maximum(strata.N_k, 1)[:, None]
    spread = weight**2 * strata.smoothed * (1 - strata.smoothed) / strata.divisor
    labels = strata.n.sum(axis=1).astype(np.int64)
    rates = rates_from(
        value=(weight * strata.share).sum(axis=1),
        smoothed=(weight * strata.smoothed).sum(axis=1),
        variance=(spread * strata.finite).sum(axis=1),
        process_variance=spread.sum(axis=1),
        labels=labels,
        measured=(strata.N_k > 0) & (labels > 0),
    )
    squared = strata.N_k**2
    return rates, ((spread * strata.finite).sum(axis=1) * squared, spread.sum(axis=1) * squared)


def _recall(strata: _Strata, found_variance: tuple[FloatArray, FloatArray]) -> tuple[Rates, FloatArray, FloatArray]:
    """Return recall, and how many predictions are truly k: smoothed estimates (K,) and their process variance (K,)."""
    classes = len(strata.N_k)
    missed, smoothed_missed, variance, process_variance = (np.zeros(classes) for _ in range(4))
    for b in range(strata.bins):  # one bin at a time: a (K, B, K) array of floats would not fit for many classes
        seen = strata.n[:, b] > 0
        smoothed = _smoothed_answers(strata, b)
        plain = np.where(
            seen[:, None], strata.answers[:, b, :classes] / np.maximum(strata.n[:, b], 1)[:, None], smoothed
        )
        np.fill_diagonal(plain, 0)
        spread = strata.N[:, b, None] ** 2 * smoothed * (1 - smoothed) / strata.divisor[:, b, None]
        missed += strata.N[:, b] @ plain
        smoothed_missed += strata.N[:, b] @ smoothed
        variance += strata.finite[:, b] @ spread
        process_variance += spread.sum(axis=0)
    found = (strata.N * strata.share).sum(axis=1)
    smoothed_found = (strata.N * strata.smoothed).sum(axis=1)
    everywhere = smoothed_found + smoothed_missed
    labels = strata.answers[:, :, :classes].sum(axis=(0, 1))

    def combined(of_found: FloatArray, of_missed: FloatArray) -> FloatArray:
        top = smoothed_missed**2 * of_found + smoothed_found**2 * of_missed
        return np.asarray(top / np.maximum(everywhere**4, 1e-300))

    rates = rates_from(
        value=found / np.maximum(found + missed, 1e-300),
        smoothed=smoothed_found / np.maximum(everywhere, 1e-300),
        variance=combined(found_variance[0], variance),
        process_variance=combined(found_variance[1], process_variance),
        labels=labels,
        measured=(labels > 0) & (found + missed > 0),
    )
    return rates, everywhere, found_variance[1] + process_variance


def _smoothed_answers(strata: _Strata, b: int) -> FloatArray:
    """Return (K, K), the smoothed share of truth k in stratum (predicted i, bin b); 0 where i = k."""
    prior = (1 - strata.bin_accuracy[b]) * strata.confusable
    n = strata.n[:, b, None]
    counted = (strata.answers[:, b, : len(strata.N_k)] + PRIOR_LABELS * prior) / (n + PRIOR_LABELS)
    if strata.least_missed:
        counted = np.maximum(counted, strata.least_missed / (n + 1))
    smoothed = np.minimum(np.where(n > 0, counted, prior), 1)
    np.fill_diagonal(smoothed, 0)
    return np.asarray(smoothed)


def _overall(strata: _Strata) -> Interval | None:
    labels = int(strata.n.sum())
    if labels == 0 or strata.unanswered_overall > MOST_UNANSWERED:
        return None
    weight = strata.N / strata.total
    value = np.array([(weight * strata.share).sum()])
    smoothed = np.array([(weight * strata.smoothed).sum()])
    spread = weight**2 * strata.finite * strata.smoothed * (1 - strata.smoothed) / strata.divisor
    effective = effective_labels(smoothed, np.array([spread.sum()]), np.array([MOST_EFFECTIVE]))
    low, high = wilson_interval(value, effective, np.array([labels]))
    return Interval(float(value[0]), float(low[0]), float(high[0]))


def _calibration_error(strata: _Strata) -> float | None:
    """Return the mean gap of confidence and accuracy over the bins, weighted by predictions; None if not known."""
    if strata.n.sum() == 0 or strata.unanswered_overall > MOST_UNANSWERED:
        return None
    confident = np.where(strata.N > 0, strata.N * strata.confidence, 0).sum(axis=0)
    if np.isnan(confident).any():
        return None
    right = (strata.N * strata.share).sum(axis=0)
    return float(np.abs(confident - right).sum() / strata.total)


def _joint(strata: _Strata) -> FloatArray:
    classes = len(strata.N_k)
    joint = np.zeros((classes, classes + 1))
    for b in range(strata.bins):
        joint += strata.answers[:, b] * (strata.N[:, b] / np.maximum(strata.n[:, b], 1))[:, None]
    total = joint.sum()
    return np.asarray(joint / total if total > 0 else joint)


def _mix(joint: FloatArray, actual_variance: FloatArray, strata: _Strata) -> tuple[FloatArray, float]:
    """Return the class mix (K,) and the independent labels it is worth, after Rao and Scott 1981 (first order)."""
    inside = joint[:, :-1].sum(axis=0)
    if inside.sum() <= 0:
        return np.full(len(inside), np.nan), 0.0
    mix = inside / inside.sum()
    seen = mix > 0
    relative = float((actual_variance[seen] / strata.total**2 / mix[seen]).sum())
    freedom = float((1 - mix[seen]).sum())
    # Labels of a single class alone have no spread to go by: they are worth their number, not the whole window.
    sampling = relative / freedom if freedom > 0 else 1 / float(strata.answers[:, :, :-1].sum())
    # The window itself is a sample of the process: its own size bounds what it can tell of the mix.
    return mix, 1 / (sampling + 1 / strata.total)
