"""What a classifier gets right, with intervals. Pure: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.model.calibration import expected_calibration_error

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Z95 = 1.959963984540054
DRAWS_AT_ONCE = 2_000_000  # numbers held by one piece of the bootstrap: 16 MB


def confusion(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> IntArray:
    """Return counts (K, K): row the label, column the prediction. Raises DataError for an index outside 0..K-1."""
    if labels.shape != predicted.shape:
        raise DataError(f"{len(labels)} labels and {len(predicted)} predictions do not match")
    for name, values in (("label", labels), ("prediction", predicted)):
        if len(values) and not (values.min() >= 0 and values.max() < classes):
            raise DataError(
                f"a {name} lies outside the class list: {values.min()}..{values.max()}, not 0..{classes - 1}"
            )
    cells = labels.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def precision_recall_f1(counts: NDArray[np.integer]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return precision, recall and F1 (K,) of a confusion matrix; NaN where nothing was predicted or nothing is there.

    F1 is NaN only for a class that is neither predicted nor there.
    """
    hits = np.diag(counts).astype(np.float64)
    return _ratios(hits, counts.sum(axis=0).astype(np.float64), counts.sum(axis=1).astype(np.float64))


def macro_f1(counts: NDArray[np.integer]) -> float:
    """Return the mean F1 over the classes that are predicted or there; NaN for an empty matrix."""
    f1 = precision_recall_f1(counts)[2]
    return float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan")


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a proportion; (0, 1) without trials. Wilson 1927."""
    if trials <= 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def bootstrap_f1(counts: NDArray[np.integer], draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return 95 % percentile intervals, (2,) of macro-F1 and (K, 2) of every class's F1, by redrawing the images.

    counts: (K, K). Redrawing N images is one multinomial over the cells that are not empty, so the cost does not grow
    with K². A class that is neither predicted nor there has NaN.
    """
    classes, total = len(counts), int(counts.sum())
    if total == 0:
        return np.full(2, np.nan), np.full((classes, 2), np.nan)
    rows, columns = np.nonzero(counts)
    shares = counts[rows, columns] / total
    generator = np.random.default_rng(seed)
    piece = max(1, DRAWS_AT_ONCE // max(len(rows), classes))
    drawn_f1 = np.empty((draws, classes))
    for start in range(0, draws, piece):
        drawn = generator.multinomial(total, shares, size=min(piece, draws - start))  # (D, cells)
        hits = _sum_by(drawn * (rows == columns), rows, classes)
        f1 = _ratios(hits, _sum_by(drawn, columns, classes), _sum_by(drawn, rows, classes))[2]
        drawn_f1[start : start + len(drawn)] = f1
    known = np.isfinite(drawn_f1)
    macro = np.where(known, drawn_f1, 0.0).sum(axis=1) / known.sum(axis=1)
    of_class = np.full((classes, 2), np.nan)
    for number in np.flatnonzero(known.any(axis=0)):
        of_class[number] = np.percentile(drawn_f1[known[:, number], number], (2.5, 97.5))
    return np.percentile(macro, (2.5, 97.5)), of_class


def classification_report(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    ece_bins: int = 15,
) -> dict[str, Any]:
    """Return every metric of one set of images, ready for JSON; None stands where a number does not exist.

    labels: (N,) class indices. probabilities: (N, K), rows sum to 1. Accuracy, precision and recall carry Wilson
    intervals (a bootstrap of a proportion near 1 has no width), F1 a bootstrap one. Raises DataError for no rows.
    """
    if len(labels) == 0 or probabilities.shape != (len(labels), len(classes)):
        raise DataError(
            f"{len(labels)} labels, probabilities {probabilities.shape}, {len(classes)} classes: nothing to measure, "
            "or the model answers another class list"
        )
    counts = confusion(labels, probabilities.argmax(axis=1), len(classes))
    hits, present = int(np.trace(counts)), counts.sum(axis=1)
    macro, of_class = bootstrap_f1(counts, bootstrap, seed)
    truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    majority = int(present.argmax())
    return {
        "images": len(labels),
        "accuracy": _proportion(hits, len(labels)),
        "macro_f1": _interval(macro_f1(counts), *macro),
        "top5": round(float(_rank(probabilities, truth).mean()), 5) if len(classes) > 5 else None,
        "log_loss": round(float(-np.log(np.maximum(truth, 1e-12)).mean()), 5),
        "brier": round(float(1 - 2 * truth.mean() + (probabilities.astype(np.float64) ** 2).sum(axis=1).mean()), 5),
        "ece": round(expected_calibration_error(probabilities, labels, ece_bins), 5),
        "baseline": {"class": classes[majority], "accuracy": round(int(present[majority]) / len(labels), 5)},
        "classes": _class_rows(counts, classes, of_class),
        "confusion": counts.tolist() if len(classes) <= 200 else None,
    }


def _class_rows(counts: IntArray, classes: Sequence[str], f1_intervals: FloatArray) -> list[dict[str, Any]]:
    f1 = precision_recall_f1(counts)[2]
    predicted, present = counts.sum(axis=0), counts.sum(axis=1)
    return [
        {
            "name": name,
            "images": int(present[k]),
            "predicted": int(predicted[k]),
            "precision": _proportion(int(counts[k, k]), int(predicted[k])),
            "recall": _proportion(int(counts[k, k]), int(present[k])),
            "f1": _interval(float(f1[k]), *f1_intervals[k]),
        }
        for k, name in enumerate(classes)
    ]


def _ratios(hits: FloatArray, predicted: FloatArray, present: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / predicted, hits / present, 2 * hits / (predicted + present)


def _sum_by(drawn: NDArray[np.integer], keys: IntArray, classes: int) -> FloatArray:
    """Return sums (D, K) of columns (D, cells) that share a key; keys need not be sorted."""
    order = np.argsort(keys, kind="stable")
    present, starts = np.unique(keys[order], return_index=True)
    sums = np.zeros((len(drawn), classes))
    sums[:, present] = np.add.reduceat(drawn[:, order], starts, axis=1)
    return sums


def _rank(probabilities: NDArray[np.floating], truth: FloatArray) -> NDArray[np.bool_]:
    above = (probabilities.astype(np.float64) > truth[:, None]).sum(axis=1)
    return np.asarray(above < 5)


def _proportion(successes: int, trials: int) -> dict[str, float] | None:
    return _interval(successes / trials, *wilson(successes, trials)) if trials else None


def _interval(value: float, low: float, high: float) -> dict[str, float] | None:
    if not np.isfinite([value, low, high]).all():
        return None
    return {"value": round(float(value), 5), "low": round(float(low), 5), "high": round(float(high), 5)}
