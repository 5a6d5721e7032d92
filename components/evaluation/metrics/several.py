"""What a classifier of several labels an image gets right, with intervals. Pure: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.metrics.one_class import wilson
from components.evaluation.metrics.rejection import Rejection, choose_threshold
from components.evaluation.metrics.set_answers import (
    BoolArray,
    FloatArray,
    SetAnswers,
    SetPart,
    label_calibration_error,
)
from components.model.average_precision import average_precisions
from components.model.calibration import sigmoid
from components.model.label_calibration import LabelRules, fit_label_rules
from components.params import Evaluate

MOST_DRAWS = 200  # of the bootstrap; each ranks all images anew
DRAWS_AT_ONCE = 2_000_000


def measure_several(
    parts: Mapping[str, SetPart], classes: Sequence[str], rules: Evaluate
) -> tuple[dict[str, Any], LabelRules]:
    """Return calibration, thresholds and the metrics of every part, and the rules that make logits answers.

    "answering" has what the scorer is told: how sure the least sure decision about an image must be, else a person
    should see it; chosen on validation.
    parts: the first is the one to judge calibration on; "validation", which calibration and thresholds are fitted on,
    must be among them. Raises DataError if it is not, or a part is of other classes.
    """
    if "validation" not in parts:
        raise DataError("no validation images to fit calibration and thresholds on; ingest more images")
    found = fit_label_rules(parts["validation"].logits, parts["validation"].labels)
    answers = {name: _answers(part, found, classes) for name, part in parts.items()}
    judged = next(iter(parts))
    plain = sigmoid(parts[judged].logits)
    positives = parts["validation"].labels.sum(axis=0)
    metrics = {
        "several": True,
        "calibration": {
            "temperature": round(1 / found.shared_scale, 5),
            "fitted_on": len(parts["validation"].labels),
            "measured_on": judged,
            "ece_before": _number(label_calibration_error(answers[judged].truth, plain, rules.ece_bins)),
            "ece_after": _number(answers[judged].calibration_error(rules.ece_bins)),
        },
        "labels": [
            {
                "name": name,
                "validation_images": int(positives[k]),
                "tuned": bool(found.own[k]),
                "threshold": float(found.thresholds[k]),
                "scale": float(found.scales[k]),
                "offset": float(found.offsets[k]),
            }
            for k, name in enumerate(classes)
        ],
        "answering": {"review": _review(answers["validation"], answers[judged], found, rules.accepted_accuracy)},
        "parts": {
            name: label_report(some, classes, draws=rules.bootstrap, ece_bins=rules.ece_bins)
            for name, some in answers.items()
        },
    }
    return metrics, found


def _answers(part: SetPart, rules: LabelRules, classes: Sequence[str]) -> SetAnswers:
    if part.logits.shape != part.labels.shape or part.labels.shape[1:] != (len(classes),) or not len(part.labels):
        raise DataError(
            f"{len(classes)} classes, labels {part.labels.shape} and logits {part.logits.shape}: nothing to measure, "
            "or the model answers another class list"
        )
    return SetAnswers.by(part, rules)


def choose_review(validation: SetAnswers, fitted: LabelRules, stated: float) -> Rejection:
    """Return how sure the least sure decision about an image must be for nobody to see it.

    A person is shown an image, not a label, so the promise is about images: of those that nobody sees, all labels are
    right as often as stated. A right set looks wrong as often as one of its labels is taken to be wrong; a set with one
    error looks right where that very label is.
    """
    labels = validation.truth.shape[1]
    return choose_threshold(
        validation.confidence, validation.right, stated, label_noise=fitted.set_noise, classes=labels + 1
    )


def _review(validation: SetAnswers, judged: SetAnswers, fitted: LabelRules, stated: float) -> dict[str, Any]:
    """Return which images a person should see, and what the others are worth."""
    chosen = choose_review(validation, fitted, stated)
    accepted = judged.confidence >= chosen.threshold
    single = (judged.truth == judged.said)[accepted]
    right = _number(float(single.mean())) if accepted.any() else None
    return chosen.report(judged.confidence, judged.right) | {"label_accuracy": right}


def macro_f1(truth: BoolArray, said: BoolArray) -> float:
    """Return the mean F1 over the labels that are there or said; NaN where there is none."""
    f1 = _f1(*_cells(truth, said)[:3].astype(np.float64))
    return float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan")


def label_report(
    answers: SetAnswers, classes: Sequence[str], *, draws: int = 1000, seed: int = 0, ece_bins: int = 15
) -> dict[str, Any]:
    """Return every metric of one set of images, ready for JSON; None stands where a number does not exist.

    Exact match (all labels of an image right), precision and recall carry Wilson intervals; mAP and F1 bootstrap ones,
    of images drawn anew. Means over labels are of those that some image carries (F1: or is said to). The baseline
    always answers every label; its order is at random.
    """
    truth, said, images = answers.truth, answers.said, len(answers.truth)
    generator = np.random.default_rng(seed)
    precisions, spread = _average_precisions(answers, min(draws, MOST_DRAWS), generator)
    cells = _cells(truth, said)
    f1, f1_drawn = _f1(*cells[:3].astype(np.float64)), _drawn_f1(cells, draws, generator)
    none = ~truth.any(axis=1)
    share = truth.mean(axis=0)
    with np.errstate(invalid="ignore"):
        drawn_map, drawn_macro = _nanmean(spread), _nanmean(f1_drawn)
    return {
        "images": images,
        "map": _interval(_mean(precisions), *_percentiles(drawn_map)),
        "macro_f1": _interval(_mean(f1), *_percentiles(drawn_macro)),
        "micro_f1": _number(float(_f1(*cells[:3].sum(axis=1).astype(np.float64)))),
        "exact_match": _share(int(answers.right.sum()), images),
        "label_accuracy": round(float((truth == said).mean()), 5),
        "labels_per_image": round(float(truth.sum(axis=1).mean()), 5),
        "without_labels": {
            "images": int(none.sum()),
            "answered_with_none": _share(int((none & ~said.any(axis=1)).sum()), int(none.sum())),
        },
        "ece": _number(answers.calibration_error(ece_bins)),
        "baseline": {
            "macro_f1": _number(_mean(np.where(share > 0, 2 * share / (1 + share), np.nan))),
            "map": _number(_mean(np.where(share > 0, share, np.nan))),
        },
        "classes": [
            {
                "name": name,
                "images": int(cells[0, k] + cells[2, k]),
                "predicted": int(cells[0, k] + cells[1, k]),
                "precision": _share(int(cells[0, k]), int(cells[0, k] + cells[1, k])),
                "recall": _share(int(cells[0, k]), int(cells[0, k] + cells[2, k])),
                "f1": _interval(float(f1[k]), *_percentiles(f1_drawn[:, k])),
                "average_precision": _interval(float(precisions[k]), *_percentiles(spread[:, k])),
            }
            for k, name in enumerate(classes)
        ],
    }


def _cells(truth: BoolArray, said: BoolArray) -> NDArray[np.int64]:
    """Return of every label how many images (4, K) are hits, false alarms, misses, and rightly without it."""
    return np.stack([
        (truth & said).sum(axis=0), (~truth & said).sum(axis=0), (truth & ~said).sum(axis=0),
        (~truth & ~said).sum(axis=0),
    ])  # fmt: skip


def _f1(hits: FloatArray, false: FloatArray, missed: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * hits / (2 * hits + false + missed))


def _drawn_f1(cells: NDArray[np.int64], draws: int, generator: np.random.Generator) -> FloatArray:
    """Return every label's F1 in draws of as many images (D, K); one draw of N images is a multinomial of its cells."""
    total = cells[:, 0].sum()
    columns = [generator.multinomial(total, cells[:, k] / total, size=draws) for k in range(cells.shape[1])]
    return np.stack([_f1(*drawn.T[:3].astype(np.float64)) for drawn in columns], axis=1)


def _average_precisions(
    answers: SetAnswers, draws: int, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return every label's average precision (K,), and in draws of as many images (D, K)."""
    images = len(answers.truth)
    piece = max(1, DRAWS_AT_ONCE // images)
    spread = []
    for start in range(0, draws, piece):
        weights = generator.multinomial(images, np.full(images, 1 / images), size=min(piece, draws - start))
        spread.append(average_precisions(answers.truth, answers.probabilities, weights.astype(np.float64)))
    return average_precisions(answers.truth, answers.probabilities), np.concatenate(spread)


def _nanmean(drawn: FloatArray) -> FloatArray:
    """Return the mean of each draw (D, K) over its labels, NaN where it has none."""
    known = np.isfinite(drawn)
    many = known.sum(axis=1)
    return np.where(many > 0, np.where(known, drawn, 0.0).sum(axis=1) / np.maximum(many, 1), np.nan)


def _mean(values: FloatArray) -> float:
    return float(_nanmean(values[None])[0])


def _percentiles(drawn: FloatArray) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def _share(successes: int, trials: int) -> dict[str, float] | None:
    return _interval(successes / trials, *wilson(successes, trials)) if trials else None


def _interval(value: float, low: float, high: float) -> dict[str, float] | None:
    if not np.isfinite([value, low, high]).all():
        return None
    return {"value": round(value, 5), "low": round(low, 5), "high": round(high, 5)}


def _number(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None
