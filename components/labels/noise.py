"""How labels go wrong: which class is given in place of which, estimated by confident learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.labels.issues import MOST_AT_ONCE, confident_joint

MOST_PAIRS = 50


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """present: (C,) indices of the classes that some row was given; the rest is about these, in their order.

    wrong: (C,) the estimated share, of the rows that were given a class, that are of another. joint: (C, C) the
    estimated number of rows that were given the class of the line and are of the column's.
    """

    present: NDArray[np.int64]
    wrong: NDArray[np.float64]
    joint: NDArray[np.int64]

    def report(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return shares by class, and the commonest confusions, at most MOST_PAIRS, for metrics.json."""
        mistaken = self.joint * ~np.eye(len(self.present), dtype=bool)
        order = np.argsort(-mistaken, axis=None, kind="stable")[:MOST_PAIRS]
        given, true = np.unravel_index(order, mistaken.shape)
        names = [classes[k] for k in self.present]
        pairs = [
            {"given": names[i], "likely": names[j], "images": int(mistaken[i, j])}
            for i, j in zip(given.tolist(), true.tolist(), strict=True)
            if mistaken[i, j]
        ]
        return {
            "wrong": {name: round(float(share), 5) for name, share in zip(names, self.wrong, strict=True)},
            "confusions": pairs,
        }


def estimate_noise(given: NDArray[np.integer], probabilities: NDArray[np.floating]) -> LabelNoise | None:
    """Return how labels go wrong: the calibrated confident joint of Northcutt et al. 2021; None where it has no say.

    given: (N,) class indices. probabilities: (N, K), out of fold. It has no say with fewer than two classes, or with
    more than MOST_AT_ONCE, whose table of all pairs would not fit.
    """
    present = np.unique(given)
    if not 2 <= len(present) <= MOST_AT_ONCE:
        return None
    joint = confident_joint(given, probabilities, present)
    rows = np.maximum(joint.sum(axis=1), 1)
    return LabelNoise(present.astype(np.int64), 1 - np.diag(joint) / rows, joint)
