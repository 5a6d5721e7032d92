"""Label shift: the class mix of a window without labels, and the weights that train for it.

Label shift means that classes come more or less often but each looks as before, so P(prediction | truth) stays. Then
the window is a mixture of what each class shows, of which only the weights are unknown. They are found by expectation
maximisation, which keeps them non-negative, never by inverting a confusion matrix. Whether the assumption holds is not
asked here but in `prediction_drift`.

Every estimate is pulled toward the old mix as if `PRIOR_ROWS` further predictions had shown it: nothing beside a
window's thousands, but a class that is never predicted, of which the data say nothing, so has a finite answer.

Saerens, Latinne and Decaestecker 2002; Lipton, Wang and Smola 2018 (BBSE); Alexandari, Kundaje and Shrikumar 2020.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.errors import DataError
from components.monitoring.comparison.confusion import (
    MOST_ITERATIONS,
    PRIOR_ROWS,
    TINY,
    TOLERANCE,
    Confusion,
    MixEstimate,
    climb,
    mix_of,
    over,
    shift_factors,
)

__all__ = ["MixEstimate", "confusion_mix", "em_mix", "reweighting"]

CHUNK_NUMBERS = 2**22  # probabilities held as float64 at a time: 32 MiB
SUM_TOLERANCE = 1e-4  # single precision and rounding; what is off by less is scaled

FloatArray = NDArray[np.float64]


def em_mix(
    probabilities: NDArray[np.floating],
    prior: ArrayLike,
    *,
    tolerance: float = TOLERANCE,
    most_iterations: int = MOST_ITERATIONS,
) -> MixEstimate:
    """Return the mix under which calibrated probabilities, made under the mix `prior`, are most likely.

    probabilities: (N, K) of any float type, a memory map too; not negative, rows need only about sum to 1. prior: (K,)
    sums to 1; a class whose share is 0 keeps it. Rows are read in chunks of 32 MiB of float64 that meet vectors only,
    so that memory does not grow with N; every iteration reads all rows once. No standard error is given: the answer is
    as good as the calibration, whose error the number of rows does not show.
    Raises DataError for a prior that is none, for other shapes, and for rows that are no probabilities.
    """
    old = _checked_mix(prior, "prior")
    if probabilities.ndim != 2 or probabilities.shape[1] != len(old) or not len(probabilities):
        raise DataError(
            f"probabilities have shape {probabilities.shape}; with a prior of {len(old)} classes they must be "
            f"(N, {len(old)}) with at least one row"
        )
    _check_probabilities(probabilities, old > 0)
    rows = len(probabilities)

    def step(factors: FloatArray) -> FloatArray:
        seen = np.zeros(len(old))
        for _, chunk in _chunks(probabilities):
            seen += factors * (chunk.T @ (1 / (chunk @ factors)))
        return over(seen + PRIOR_ROWS * old, (rows + PRIOR_ROWS) * old)

    factors, iterations, converged = climb(step, (old > 0).astype(np.float64), tolerance, most_iterations)
    mix = factors * old
    return MixEstimate(mix / mix.sum(), None, iterations, converged)


def confusion_mix(
    joint_reference: ArrayLike,
    predicted_counts: ArrayLike,
    *,
    labels: ArrayLike = np.inf,
    reference_rows: float = np.inf,
    tolerance: float = TOLERANCE,
    most_iterations: int = MOST_ITERATIONS,
) -> MixEstimate:
    """Return the mix of the classes in the list under which the model makes `predicted_counts`.

    joint_reference: (I, K + 1) share of the reference's predictions per cell (predicted class, perhaps with a
    confidence bin) and truth, the last column is `other`, which comes as often as before; sums to 1. predicted_counts:
    (I,) the window's; a cell the reference never saw says nothing of the mix. labels: (I,) the answers behind each row;
    reference_rows: the predictions behind the row sums; without them the table is taken as exact, and the mix is the
    plain maximum likelihood. Standard errors are by the delta method: they need no generator, so that the same counts
    always give the same answer. That of a class near 0 is of the share before it was kept from falling below.
    Raises DataError for a table that is none, for counts that do not fit it, and where the two have nothing in common.
    """
    joint, counts = np.asarray(joint_reference, np.float64), np.asarray(predicted_counts, np.float64)
    if joint.ndim != 2 or not (np.isfinite(joint) & (joint >= 0)).all() or abs(joint.sum() - 1) > SUM_TOLERANCE:
        raise DataError(
            f"joint_reference has shape {joint.shape} and sums to {joint.sum():g}; it must be a table of shares "
            "(cells, classes + 1) with the sum 1"
        )
    joint = joint / joint.sum()
    behind = np.broadcast_to(np.asarray(labels, np.float64), len(joint))
    confusion = Confusion.from_joint(joint, behind, reference_rows)
    factors, iterations, converged = shift_factors(confusion, counts, tolerance, most_iterations)
    if not counts[confusion.mix @ confusion.joint.T > 0].any():
        raise DataError(
            "none of the window's predictions lies in a cell where the reference has a labelled class; label more of "
            "the reference window, or set a new reference"
        )
    return mix_of(confusion, factors, counts, iterations, converged)


def reweighting(new_mix: ArrayLike, training_mix: ArrayLike, bound: float) -> FloatArray:
    """Return (K,), the weight of each class in training so that it counts as often as under `new_mix`.

    Weights are proportional to new_mix / training_mix, cut to 1/bound..bound, and scaled before the cut so that their
    mean under `training_mix` is 1: the learning rate keeps its meaning, and no image counts more than `bound` times.
    A class that training has no image of gets the weight 1, which nothing uses. Shimodaira 2000; that cut weights trade
    a little bias for much variance, Ionides 2008. Raises DataError for mixes that are none, and for a bound below 1.
    """
    from scipy import optimize

    new, old = _checked_mix(new_mix, "new_mix"), _checked_mix(training_mix, "training_mix")
    if len(new) != len(old):
        raise DataError(f"new_mix has {len(new)} classes and training_mix {len(old)}; give both in the same class list")
    if not (np.isfinite(bound) and bound >= 1):
        raise DataError(f"bound is {bound}; it must be a number of at least 1, such as 5")
    ratio, cut = np.log(np.maximum(over(new, old), TINY)), float(np.log(bound))

    def weights(scale: float) -> FloatArray:
        return np.asarray(np.exp(np.clip(ratio + scale, -cut, cut)))

    def excess(scale: float) -> float:
        return float(old @ weights(scale)) - 1

    # From the scale where every weight is 1 / bound to the one where every weight is bound, their mean passes 1.
    low, high = -cut - float(ratio[old > 0].max()), cut - float(ratio[old > 0].min())
    scale = float(optimize.brentq(excess, low, high, xtol=1e-14)) if excess(low) < 0 < excess(high) else 0.0
    return np.where(old > 0, weights(scale), 1.0)


def _chunks(probabilities: NDArray[np.floating]) -> Iterator[tuple[int, FloatArray]]:
    size = max(1, CHUNK_NUMBERS // probabilities.shape[1])
    for first in range(0, len(probabilities), size):
        yield first, np.asarray(probabilities[first : first + size], dtype=np.float64)


def _check_probabilities(probabilities: NDArray[np.floating], possible: NDArray[np.bool_]) -> None:
    for first, chunk in _chunks(probabilities):
        usable = (np.isfinite(chunk) & (chunk >= 0)).all(axis=1) & (chunk[:, possible] > 0).any(axis=1)
        if not usable.all():
            row = int(np.argmin(usable))
            raise DataError(
                f"row {first + row} of the probabilities, which starts {chunk[row, :4]}, is not one of finite numbers "
                "of at least 0 with some mass on a class of the prior; score the batch again"
            )


def _checked_mix(values: ArrayLike, name: str) -> FloatArray:
    mix = np.asarray(values, dtype=np.float64)
    if mix.ndim != 1 or not (np.isfinite(mix) & (mix >= 0)).all() or abs(float(mix.sum()) - 1) > SUM_TOLERANCE:
        raise DataError(
            f"{name} has shape {mix.shape} and sums to {mix.sum():g}; it must be one share of at least 0 a class, "
            "with the sum 1"
        )
    return np.asarray(mix / mix.sum())
