"""Two models on the same images: how much better is one, and how sure is that?

The same image is hard for both models, so their answers are compared image by image: only where one is right and the
other wrong do they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

Metric = Literal["precision", "recall"]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus champion, in -1..1. centre, error: of the normal approximation; images: how many bear on it."""

    value: float
    centre: float
    error: float
    images: int

    def lower(self, alpha: float) -> float:
        """Return the one-sided lower bound at level `alpha`."""
        return self.centre + float(special.ndtri(alpha)) * self.error

    def upper(self, alpha: float) -> float:
        """Return the one-sided upper bound at level `alpha`."""
        return self.centre - float(special.ndtri(alpha)) * self.error


def overall_difference(labels: IntArray, candidate: IntArray, champion: IntArray) -> Difference:
    """Return the difference in accuracy over (N,) images, N > 0. Agresti and Min 2005: half an image to each cell."""
    return _paired_share(candidate == labels, champion == labels)


def class_difference(
    labels: IntArray, candidate: IntArray, champion: IntArray, class_index: int, metric: str
) -> Difference | None:
    """Return the difference in recall or precision of one class, None where one of the models has no such image.

    Recall compares the same images. Precision's denominators differ; its variance subtracts what the two models' images
    have in common (after Leisenring, Alonzo and Pepe 2000, with shares shrunk by one right and one wrong).
    """
    if metric == "recall":
        actual = labels == class_index
        if not actual.any():
            return None
        return _paired_share(candidate[actual] == class_index, champion[actual] == class_index)
    said_new, said_old = candidate == class_index, champion == class_index
    if not said_new.any() or not said_old.any():
        return None
    value = float((labels[said_new] == class_index).mean() - (labels[said_old] == class_index).mean())
    error = _precision_error(labels == class_index, said_new, said_old)
    return Difference(value, value, error, int((said_new | said_old).sum()))


def better_p_value(labels: IntArray, candidate: IntArray, champion: IntArray, class_index: int, metric: str) -> float:
    """Return the one-sided p-value of "the candidate is no better" in one class; 1 where nothing can be compared.

    Recall: McNemar's exact test with the mid-p correction. Precision: normal, from `class_difference`.
    """
    if metric == "recall":
        actual = labels == class_index
        right_new, right_old = candidate[actual] == class_index, champion[actual] == class_index
        gained, lost = int((right_new & ~right_old).sum()), int((~right_new & right_old).sum())
        return mid_p_value(gained, lost)
    difference = class_difference(labels, candidate, champion, class_index, metric)
    if difference is None:
        return 1.0
    return float(special.ndtr(-difference.value / difference.error))


def mid_p_value(gained: int, lost: int) -> float:
    """Return P(X > gained) + P(X = gained) / 2 for X binomial over gained + lost fair coins; 0.5 without any."""
    total = gained + lost
    more = float(special.bdtrc(gained, total, 0.5)) if gained < total else 0.0
    at_least = float(special.bdtrc(gained - 1, total, 0.5)) if gained > 0 else 1.0
    return (more + at_least) / 2


def _paired_share(right_new: BoolArray, right_old: BoolArray) -> Difference:
    images = len(right_new)
    gained, lost = int((right_new & ~right_old).sum()), int((~right_new & right_old).sum())
    widened, total = gained + lost + 1, images + 2
    centre = (gained - lost) / total
    error = float(np.sqrt(max(widened - (gained - lost) ** 2 / total, 0.0)) / total)
    return Difference((gained - lost) / images, centre, error, images)


def _precision_error(actual: BoolArray, said_new: BoolArray, said_old: BoolArray) -> float:
    sizes = int(said_new.sum()), int(said_old.sum())
    shares = [
        (float(actual[said].sum()) + 1) / (size + 2) for said, size in zip((said_new, said_old), sizes, strict=True)
    ]
    both = actual[said_new & said_old].astype(np.float64)
    covariance = float(((both - shares[0]) * (both - shares[1])).sum()) / (sizes[0] * sizes[1])
    variance = sum(share * (1 - share) / size for share, size in zip(shares, sizes, strict=True)) - 2 * covariance
    # Two models that say the class of the same images still differ by chance on the next ones: one image's worth.
    return float(np.sqrt(max(variance, (1 / max(sizes)) ** 2)))
