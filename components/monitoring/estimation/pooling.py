"""Estimates over several windows of one model: for classes too rare for the labels of one.

A stratum is then a window, a class and a confidence bin. N_wk/ΣN_wk weighs each window's share and variance, and each
window's bins keep their own pooled accuracy: what another window's answers say is never taken for this one's. What
comes out is the mean over the windows and not the newest level: of a fall in the last of three it shows a third.
Windows of different models are never pooled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.errors import DataError
from components.records import StratumCounts


def is_answered(counts: StratumCounts) -> bool:
    """Return whether every confidence bin that holds predictions has answers: a window without them tells nothing."""
    occupied = counts.population.sum(axis=0) > 0
    return bool(occupied.any() and (counts.labelled.sum(axis=0)[occupied] > 0).all())


def pool(windows: Sequence[StratumCounts]) -> StratumCounts:
    """Return the counts of all `windows` of one model as one, their bins side by side: (K, W * B) strata.

    `estimate` takes them as it takes one window's. Raises DataError for no window, or for different class lists.
    """
    if not windows:
        raise DataError("there is no window to pool; draw and answer one first")
    classes = windows[0].classes
    for other in windows[1:]:
        if other.classes != classes:
            raise DataError(f"windows of {classes} and of {other.classes} cannot be pooled: pool those of one model")

    def beside(name: str) -> np.ndarray:
        return np.concatenate([getattr(counts, name) for counts in windows], axis=1)

    return StratumCounts(
        classes, beside("population"), beside("labelled"), beside("answers"), beside("drawn"), beside("confidence")
    )
