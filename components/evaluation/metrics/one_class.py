"""What a classifier gets right, with intervals. Pure: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.metrics.confusion import Confusion
from components.model.calibration import calibration_error, rows_at_once, softmax

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Z95 = 1.959963984540054
MOST_CONFUSED = 20  # pairs of classes in a report
MOST_TABLED = 200  # classes, above which a report holds no table of all pairs
DRAWS_AT_ONCE = 2_000_000  # numbers held by one piece of the bootstrap: 16 MB


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a model says of N images of K classes, without the (N, K) it was taken from.

    labels, predicted: (N,) class indices. confidence: (N,) of the predicted class. truth: (N,) probability of
    the label. squares: (N,) sum of the squared probabilities. in_top5: (N,) bool, fewer than five classes are above it.
    """

    classes: int
    labels: IntArray
    predicted: IntArray
    confidence: FloatArray
    truth: FloatArray
    squares: FloatArray
    in_top5: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: NDArray[np.floating], labels: NDArray[np.integer], temperature: float | None = None) -> Answers:
        """Return the answers of probabilities (N, K), or, with a `temperature`, of logits; some rows at a time.

        Raises DataError if the shapes differ, or a score is not finite.
        """
        if scores.ndim != 2 or len(scores) != len(labels):
            raise DataError(f"{len(labels)} labels and scores of shape {scores.shape} do not match")
        parts = []
        for some in rows_at_once(scores):
            part = scores[some].astype(np.float64) if temperature is None else softmax(scores[some], temperature)
            if not np.isfinite(part).all():
                raise DataError("scores are not finite; the training diverged, lower train.learning_rate")
            truth = part[np.arange(len(part)), labels[some]]
            above = (part > truth[:, None]).sum(axis=1)
            parts.append((part.argmax(axis=1), part.max(axis=1), truth, (part**2).sum(axis=1), above < 5))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.empty(0)] * 5
        return cls(scores.shape[1], labels.astype(np.int64), *columns)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Return which images (N,) are answered right."""
        return np.asarray(self.predicted == self.labels)

    @property
    def log_loss(self) -> float:
        """Return the mean negative log-probability of the label."""
        return float(-np.log(np.maximum(self.truth, 1e-12)).mean())

    def calibration_error(self, bins: int) -> float:
        """Return the expected calibration error, in 0..1."""
        return calibration_error(self.confidence, self.right, bins)


def precision_recall_f1(counts: Confusion) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return precision, recall and F1 (K,) of a confusion; NaN where nothing was predicted or nothing is there.

    F1 is NaN only for a class that is neither predicted nor there.
    """
    return _ratios(*(column.astype(np.float64) for column in (counts.hits, counts.predicted, counts.present)))


def macro_f1(counts: Confusion) -> float:
    """Return the mean F1 over the classes that are predicted or there; NaN where there is no image."""
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


def bootstrap_f1(counts: Confusion, draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return 95 % percentile intervals, (2,) of macro-F1 and (K, 2) of every class's F1, by redrawing the images.

    Redrawing N images is one multinomial over the pairs that occur, so neither time nor memory grows with K². A class
    that is neither predicted nor there has NaN.
    """
    classes, total = counts.classes, counts.total
    if total == 0:
        return np.full(2, np.nan), np.full((classes, 2), np.nan)
    rows, columns = counts.rows, counts.columns
    shares = counts.counts / total
    generator = np.random.default_rng(seed)
    piece = max(1, DRAWS_AT_ONCE // max(len(rows), classes))
    drawn_f1, macro = np.empty((draws, classes), np.float32), np.empty(draws)
    for start in range(0, draws, piece):
        drawn = generator.multinomial(total, shares, size=min(piece, draws - start))  # (D, cells)
        hits = _sum_by(drawn * (rows == columns), rows, classes)
        f1 = _ratios(hits, _sum_by(drawn, columns, classes), _sum_by(drawn, rows, classes))[2]
        macro[start : start + len(drawn)] = np.nanmean(f1, axis=1)
        drawn_f1[start : start + len(drawn)] = f1
    of_class = np.full((classes, 2), np.nan)
    for number in range(classes):
        known = drawn_f1[np.isfinite(drawn_f1[:, number]), number]
        if len(known):
            of_class[number] = np.percentile(known.astype(np.float64), (2.5, 97.5))
    return np.percentile(macro, (2.5, 97.5)), of_class


def classification_report(
    answers: Answers, classes: Sequence[str], *, bootstrap: int = 1000, seed: int = 0, ece_bins: int = 15
) -> dict[str, Any]:
    """Return every metric of one set of images, ready for JSON; None stands where a number does not exist.

    Accuracy, precision and recall carry Wilson intervals (a bootstrap of a proportion near 1 has no width), F1 a
    bootstrap one. Raises DataError for no images, or another number of classes.
    """
    labels, images = answers.labels, len(answers.labels)
    if images == 0 or answers.classes != len(classes):
        raise DataError(
            f"{images} labels, probabilities of {answers.classes} classes, {len(classes)} classes: nothing to measure, "
            "or the model answers another class list"
        )
    counts = Confusion.of(labels, answers.predicted, len(classes))
    present = counts.present
    macro, of_class = bootstrap_f1(counts, bootstrap, seed)
    majority = int(present.argmax())
    return {
        "images": images,
        "accuracy": proportion(int(counts.hits.sum()), images),
        "macro_f1": _interval(macro_f1(counts), *macro),
        "top5": round(float(answers.in_top5.mean()), 5) if len(classes) > 5 else None,
        "log_loss": round(answers.log_loss, 5),
        "brier": round(float(1 - 2 * answers.truth.mean() + answers.squares.mean()), 5),
        "ece": round(answers.calibration_error(ece_bins), 5),
        "baseline": {"class": classes[majority], "accuracy": round(int(present[majority]) / images, 5)},
        "classes": _class_rows(counts, classes, of_class),
        "confused": [
            {"label": classes[label], "predicted": classes[said], "images": many}
            for label, said, many in counts.worst(MOST_CONFUSED)
        ],
        "confusion": counts.table().tolist() if len(classes) <= MOST_TABLED else None,
    }


def _class_rows(counts: Confusion, classes: Sequence[str], f1_intervals: FloatArray) -> list[dict[str, Any]]:
    f1 = precision_recall_f1(counts)[2]
    hits, predicted, present = counts.hits, counts.predicted, counts.present
    return [
        {
            "name": name,
            "images": int(present[k]),
            "predicted": int(predicted[k]),
            "precision": proportion(int(hits[k]), int(predicted[k])),
            "recall": proportion(int(hits[k]), int(present[k])),
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


def proportion(successes: int, trials: int) -> dict[str, float] | None:
    """Return a share with its 95 % Wilson interval, ready for JSON; None without trials."""
    return _interval(successes / trials, *wilson(successes, trials)) if trials else None


def _interval(value: float, low: float, high: float) -> dict[str, float] | None:
    if not np.isfinite([value, low, high]).all():
        return None
    return {"value": round(float(value), 5), "low": round(float(low), 5), "high": round(float(high), 5)}
