"""How well scores put the right images first: areas under ROC curves, with intervals. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.model.calibration import rows_at_once

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Z95 = 1.959963984540054
MOST_RANKED_CLASSES = 1_000  # those with the most images; each costs one sort of its images
MOST_RANKED_IMAGES = 20_000


def auroc(of_wanted: NDArray[np.floating], of_others: NDArray[np.floating]) -> dict[str, float]:
    """Return the chance that a wanted image scores above another one, ties half, and its 95 % interval.

    of_wanted, of_others: scores (P,) and (N,). DeLong, DeLong and Clarke-Pearson 1988. Raises DataError if one side
    is empty or a score is NaN.
    """
    above, below = _placements(of_wanted.astype(np.float64), of_others.astype(np.float64))
    error = np.sqrt(_variance_of_mean(above) + _variance_of_mean(below))
    return _interval(float(above.mean()), float(error))


def macro_auroc(
    logits: NDArray[np.floating], labels: IntArray, temperature: float, *, seed: int = 0
) -> dict[str, float | int] | None:
    """Return the mean over classes of the AUROC of a class's probability against all other classes (one-vs-rest).

    logits: (N, K). labels: (N,) class indices. None where no class has images on both sides. The interval is DeLong's
    with the placements of an image averaged over the classes, since the classes share their images. At most 20,000
    images, drawn by `seed`, and the 1,000 classes with the most of them are ranked; "classes" says how many.
    """
    if len(labels) > MOST_RANKED_IMAGES:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(labels))[:MOST_RANKED_IMAGES])
        logits, labels = logits[drawn], labels[drawn]
    present = np.bincount(labels, minlength=logits.shape[1])
    ranked = np.argsort(-present, kind="stable")[:MOST_RANKED_CLASSES]
    ranked = ranked[(present[ranked] > 0) & (present[ranked] < len(labels))]
    if not len(ranked):
        return None
    norm = np.concatenate([_log_sum(logits[some], temperature) for some in rows_at_once(logits)])  # (N,)
    influence, total = np.zeros(len(labels)), 0.0
    for k in ranked:
        scores, own = logits[:, k].astype(np.float64) / temperature - norm, labels == k
        above, below = _placements(scores[own], scores[~own])
        total += above.mean()
        influence[own] += (above - above.mean()) / len(above)
        influence[~own] += (below - below.mean()) / len(below)
    error = float(np.sqrt((influence**2).sum())) / len(ranked)
    return {**_interval(total / len(ranked), error), "classes": len(ranked)}


def _log_sum(logits: NDArray[np.floating], temperature: float) -> FloatArray:
    scaled = logits.astype(np.float64) / temperature
    highest = scaled.max(axis=1, keepdims=True)
    return np.asarray(highest[:, 0] + np.log(np.exp(scaled - highest).sum(axis=1)))


def _placements(wanted: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the share of others below each wanted score (P,), and of wanted scores above each other one (N,)."""
    if not len(wanted) or not len(others) or np.isnan(wanted).any() or np.isnan(others).any():
        raise DataError(f"{len(wanted)} scores against {len(others)}: both sides need some, and none may be NaN")
    order = np.argsort(wanted, kind="stable")
    steps = wanted[order]
    left, right = np.searchsorted(steps, others, "left"), np.searchsorted(steps, others, "right")
    reached = [np.cumsum(np.bincount(side, minlength=len(steps) + 1))[: len(steps)] for side in (left, right)]
    above = np.empty(len(steps))
    above[order] = (reached[0] + reached[1]) / (2 * len(others))
    return above, 1 - (left + right) / (2 * len(steps))


def _variance_of_mean(values: FloatArray) -> float:
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0


def _interval(value: float, error: float) -> dict[str, float]:
    low, high = max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)
    return {"value": round(value, 5), "low": round(low, 5), "high": round(high, 5)}
