"""What an audit says of images that carry several labels: the doubted ones, in words and in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.labels.findings import LABEL, Finding
from components.labels.issues import LabelSetIssues

NONE = "none of them"

IntArray = NDArray[np.int64]


def shown_sets(given: NDArray[np.integer], classes: Sequence[str]) -> list[str]:
    """Return every row's labels (N, K) of 0 and 1 as people read them: (N,)."""
    return [" | ".join(classes[k] for k in np.flatnonzero(row).tolist()) or NONE for row in given]


def unjudgeable_labels(groups: Sequence[str], given: NDArray[np.integer], folds: int) -> IntArray:
    """Return the labels that some row carries, but fewer groups than folds: a model may never have seen them."""
    ids = np.unique(np.asarray(groups), return_inverse=True)[1]
    numbers = [len(np.unique(ids[column > 0])) for column in given.T]
    return np.array([k for k, number in enumerate(numbers) if 0 < number < folds], np.int64)


def set_findings(
    image_ids: Sequence[str], given: NDArray[np.integer], issues: LabelSetIssues, probabilities: NDArray[np.floating],
    classes: Sequence[str],
) -> Iterator[Finding]:  # fmt: skip
    """Yield the images with a doubted label; severity: the disbelief in the least believable one."""
    rows = np.flatnonzero(issues.suspect)
    before = shown_sets(given[rows], classes)
    after = shown_sets(given[rows] ^ issues.doubted[rows], classes)
    for row, was, likely in zip(rows.tolist(), before, after, strict=True):
        own = np.where(given[row] > 0, probabilities[row], 1 - probabilities[row])
        worst = min(np.flatnonzero(issues.doubted[row]).tolist(), key=lambda k: own[k])
        side = "that it is there" if given[row, worst] else "that it is not there"
        words = f"{classes[worst]}: {side} is believed with {100 * own[worst]:.1f}\u00a0%"
        yield Finding(image_ids[row], LABEL, round(1 - float(own[worst]), 5), was, words, likely=likely)


def label_rows(
    given: NDArray[np.integer], issues: LabelSetIssues, probabilities: NDArray[np.floating], not_judged: IntArray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return what metrics.json says of every label that some image carries.

    threshold: the mean belief in it where it is given. suspects: images of which it is doubted, whether it is there;
    likely: whether most of these are without it.
    """
    found = []
    for k in np.flatnonzero(given.any(axis=0)).tolist():
        carries, doubted = given[:, k] > 0, issues.doubted[:, k]
        gone = int((doubted & carries).sum())
        found.append({
            "name": classes[k],
            "images": int(carries.sum()),
            "suspects": int(doubted.sum()),
            "judged": k not in not_judged,
            "threshold": round(float(probabilities[carries, k].mean()), 5),
            "likely": None if not doubted.any() else f"not {classes[k]}" if 2 * gone > doubted.sum() else classes[k],
        })  # fmt: skip
    return found
