"""What a model must beat: a linear classifier of the pixels, small enough to be there in a second."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics import several
from components.evaluation.metrics.confusion import Confusion
from components.evaluation.metrics.one_class import macro_f1, wilson
from components.model.average_precision import mean_average_precision

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int64]

MOST_SIDE = 14  # pixels a side that the classifier sees
MOST_CLASSES = 200  # above which its fit would take longer than the evaluation
STEPS = 60
ANSWERED_FROM = 0.5
SPREAD = 3.0
"""How far the logits are expected to lie apart (standard deviation), of standardised pixels: the L2 penalty."""


def linear_baseline(
    images: UInt8Array, labels: IntArray, judged: UInt8Array, truth: IntArray, classes: int
) -> dict[str, Any] | None:
    """Return accuracy, with Wilson's interval, and macro-F1 of multinomial logistic regression on small pixels.

    images, labels: learnt from, (M, size, size, channels) uint8 and (M,) class indices. judged, truth: (N, …), (N,).
    None where there is nothing to judge, one class to learn from, or more than 200.
    """
    if not len(truth) or classes > MOST_CLASSES or len(np.unique(labels)) < 2:
        return None
    scaled, asked = _standardised(images, judged)
    predicted = _fitted(scaled, labels).predict(asked)
    hits = int((predicted == truth).sum())
    low, high = wilson(hits, len(truth))
    return {
        "accuracy": {"value": round(hits / len(truth), 5), "low": round(low, 5), "high": round(high, 5)},
        "macro_f1": round(macro_f1(Confusion.of(truth, predicted, classes)), 5),
        "learnt_from": len(labels),
        "images": len(truth),
    }


def linear_label_baseline(
    images: UInt8Array, labels: IntArray, judged: UInt8Array, truth: NDArray[np.bool_]
) -> dict[str, Any] | None:
    """Return macro-F1 and mean average precision of one logistic regression a label, answered from 0.5 on.

    images, judged: as of `linear_baseline`. labels, truth: (M, K) and (N, K), 0 and 1. A label that all or none of the
    images learnt from carry has the probability that they give it. None where there is nothing to judge, or more than
    200 labels.
    """
    classes = labels.shape[1]
    if not len(truth) or not len(labels) or classes > MOST_CLASSES:
        return None
    scaled, asked = _standardised(images, judged)
    likely = np.tile(labels.mean(axis=0), (len(truth), 1))
    for k in range(classes):
        if 0 < labels[:, k].sum() < len(labels):
            likely[:, k] = _fitted(scaled, labels[:, k]).predict_proba(asked)[:, 1]
    ranked, answered = mean_average_precision(truth, likely), several.macro_f1(truth, likely >= ANSWERED_FROM)
    return {
        "macro_f1": None if np.isnan(answered) else round(answered, 5),
        "map": None if np.isnan(ranked) else round(ranked, 5),
        "learnt_from": len(labels),
        "images": len(truth),
    }


def _standardised(images: UInt8Array, judged: UInt8Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    pixels, asked = small_pixels(images), small_pixels(judged)
    mean, deviation = pixels.mean(axis=0), pixels.std(axis=0) + 1e-3
    return (pixels - mean) / deviation, (asked - mean) / deviation


def _fitted(pixels: NDArray[np.float32], labels: IntArray) -> LogisticRegression:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=SPREAD**2 / pixels.shape[1], max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline stopped early is a baseline
        return model.fit(pixels, labels)


def small_pixels(images: UInt8Array) -> NDArray[np.float32]:
    """Return images (N, size, size, channels) as rows (N, D) in 0..1, means over cells: at most 14 × 14 of them."""
    number, size = images.shape[:2]
    edges = np.linspace(0, size, min(size, MOST_SIDE) + 1).astype(np.int64)
    sums = np.add.reduceat(np.add.reduceat(images, edges[:-1], axis=1, dtype=np.float32), edges[:-1], axis=2)
    area = np.diff(edges)[:, None] * np.diff(edges)[None, :]
    return np.asarray((sums / (255 * area[None, :, :, None])).reshape(number, -1), np.float32)
