"""Which answers a person should see: those less sure than a threshold that keeps a promise about all the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.metrics import proportion

FEWEST = 30  # accepted images, below which an accuracy is no promise


@dataclass(frozen=True, slots=True)
class Rejection:
    """A threshold on calibrated confidence; answers below it go to a person.

    stated: the accuracy that the accepted ones were to have. accuracy, coverage: what accepted images of the set it was
    chosen on have, and their share. reached: whether that is the stated one or more.
    """

    threshold: float
    stated: float
    accuracy: float
    coverage: float
    reached: bool

    def report(self, confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the threshold, and what it accepts of another set of answers (N,), with intervals."""
        accepted = confidence >= self.threshold
        return {
            "threshold": round(self.threshold, 6),
            "stated_accuracy": self.stated,
            "reached": self.reached,
            "chosen_on": {"accuracy": round(self.accuracy, 5), "coverage": round(self.coverage, 5)},
            "accepted": int(accepted.sum()),
            "accuracy": proportion(int(right[accepted].sum()), int(accepted.sum())),
            "coverage": proportion(int(accepted.sum()), len(accepted)),
        }


def choose_threshold(confidence: NDArray[np.floating], right: NDArray[np.bool_], stated: float) -> Rejection:
    """Return the lowest threshold whose accepted answers are right as often as `stated`; Chow 1970.

    confidence: (N,), calibrated, of the answer to each image. right: (N,). Of answers with one confidence all are
    accepted or none. Where no threshold keeps the promise for 30 images, nothing is accepted. Raises DataError for no
    images.
    """
    if not len(confidence):
        raise DataError("a threshold for answers needs validation images; ingest more")
    order = np.argsort(-confidence, kind="stable")
    sure, hits = confidence[order], np.cumsum(right[order])
    accepted = np.arange(1, len(sure) + 1)
    whole = np.append(sure[1:] < sure[:-1], True)  # the last answer of those with the same confidence
    good = whole & (hits >= stated * accepted) & (accepted >= min(FEWEST, len(sure)))
    if not good.any():
        return Rejection(1.0, stated, 1.0, 0.0, reached=False)
    last = int(np.flatnonzero(good)[-1])
    threshold = 0.0 if last == len(sure) - 1 else float(sure[last])
    return Rejection(threshold, stated, float(hits[last] / accepted[last]), float(accepted[last] / len(sure)), True)
