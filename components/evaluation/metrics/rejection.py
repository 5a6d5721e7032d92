"""Which answers a person should see: those less sure than a threshold that keeps a promise about all the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.metrics.one_class import proportion

NO_ANSWER = -1.0  # the confidence of answers that no threshold accepts
FEWEST = 30  # accepted images, below which an accuracy is no promise


def offered(
    confidence: NDArray[np.floating], predicted: NDArray[np.integer], reject: int | None
) -> NDArray[np.floating]:
    """Return the confidence (N,) with which each image may be accepted: NO_ANSWER where class `reject` is answered."""
    return confidence if reject is None else np.where(predicted == reject, NO_ANSWER, confidence)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A threshold on calibrated confidence; answers below it go to a person.

    stated: the accuracy that the accepted ones are to have. label_noise: the share of labels taken to be wrong.
    accuracy, coverage: what accepted images of the set it was chosen on have by those labels, and their share. reached:
    whether a threshold keeps the promise.
    """

    threshold: float
    stated: float
    label_noise: float
    accuracy: float
    coverage: float
    reached: bool

    def report(self, confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the threshold, and what it accepts of another set of answers (N,), with intervals."""
        accepted = confidence >= self.threshold
        return {
            "threshold": round(self.threshold, 6),
            "stated_accuracy": self.stated,
            "label_noise": round(self.label_noise, 5),
            "reached": self.reached,
            "chosen_on": {"accuracy": round(self.accuracy, 5), "coverage": round(self.coverage, 5)},
            "accepted": int(accepted.sum()),
            "accuracy": proportion(int(right[accepted].sum()), int(accepted.sum())),
            "coverage": proportion(int(accepted.sum()), len(accepted)),
        }


def choose_threshold(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], stated: float, *, label_noise: float, classes: int
) -> Rejection:
    """Return the lowest threshold whose accepted answers are right as often as `stated`; Chow 1970.

    confidence: (N,), calibrated, of the answer to each image. right: (N,), by labels of which a share `label_noise` is
    taken to be any other of so many classes: a right answer then looks wrong as often, whatever its confidence. Of
    answers with one confidence all are accepted or none, of NO_ANSWER none. Where no threshold keeps the promise for 30
    images, nothing is accepted. Raises DataError for no images.
    """
    if not len(confidence):
        raise DataError("a threshold for answers needs validation images; ingest more")
    order = np.argsort(-confidence, kind="stable")
    sure, hits = confidence[order], np.cumsum(right[order])
    accepted = np.arange(1, len(sure) + 1)
    whole = np.append(sure[1:] < sure[:-1], True)  # the last answer of those with the same confidence
    by_chance = label_noise / max(1, classes - 1)  # wrong, and labelled wrong in the same way
    seen = stated * (1 - label_noise) + (1 - stated) * by_chance
    answers = int((sure > NO_ANSWER).sum())
    good = whole & (hits >= seen * accepted) & (accepted >= min(FEWEST, len(sure))) & (accepted <= answers)
    if not good.any():
        return Rejection(1.0, stated, label_noise, 1.0, 0.0, reached=False)
    last = int(np.flatnonzero(good)[-1])
    threshold = 0.0 if last == answers - 1 else float(sure[last])
    accuracy, coverage = float(hits[last] / accepted[last]), float(accepted[last] / len(sure))
    return Rejection(threshold, stated, label_noise, accuracy, coverage, reached=True)
