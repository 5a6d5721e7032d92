"""Average precision of every label: how well its images are ranked before all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def average_precisions(
    truth: NDArray[np.integer] | NDArray[np.bool_], scores: NDArray[np.floating], weights: FloatArray | None = None
) -> FloatArray:
    """Return the average precision of every label: (K,), NaN for one that no image carries.

    truth: (N, K), which labels an image carries. scores: (N, K), higher is likelier. weights: (D, N), how often each
    image counts in each of D draws; the result is then (D, K). Images of equal score are ranked together, so their
    order does not matter: Σ (R_n - R_(n-1)) P_n over the different scores.
    """
    counted = np.ones((1, len(truth))) if weights is None else weights
    found = np.full((len(counted), truth.shape[1]), np.nan)
    for k in range(truth.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked = scores[order, k]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        if not len(ranked):
            continue
        of_rank = counted[:, order]
        hits = np.cumsum(of_rank * truth[order, k], axis=1)[:, ends]
        said = np.cumsum(of_rank, axis=1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(said > 0, hits / said, 0.0)
            found[:, k] = (gained * precision).sum(axis=1) / hits[:, -1]
    return found[0] if weights is None else found


def mean_average_precision(truth: NDArray[np.integer] | NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the mean of `average_precisions` over the labels that some image carries (mAP); NaN where none does."""
    of_label = average_precisions(truth, scores)
    return float(np.nanmean(of_label)) if np.isfinite(of_label).any() else float("nan")
