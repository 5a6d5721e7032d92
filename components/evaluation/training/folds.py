"""Cross-validation: the recipe trained k times, each time judged on images that it left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from components.evaluation.metrics import several
from components.evaluation.metrics.confusion import Confusion
from components.evaluation.metrics.one_class import macro_f1
from components.model.average_precision import mean_average_precision
from components.model.out_of_fold.folds import rarest_labels
from components.params import Audit, Train

if TYPE_CHECKING:
    from components.model.images.inputs import ImageSet
    from components.model.images.preprocess import PreprocessSpec


ANSWERED_FROM = 0.5


def cross_validated(
    data: ImageSet, groups: Sequence[str], classes: int, *, spec: PreprocessSpec, train: Train, folds: int
) -> dict[str, Any]:
    """Return accuracy and macro-F1 of every fold, with their mean and standard deviation.

    groups: (N,) group ids; a group is never on both sides. Each network learns all epochs of `train`, with the labels
    as they are, and the last weights are judged; a pre-trained one is fine-tuned whole, whatever `train.transfer` says.
    Raises DataError for fewer groups than folds.
    """
    # Lightning costs three seconds before the first image.
    from components.model.out_of_fold.probabilities import out_of_fold

    audit = Audit(folds=folds, epochs=train.epochs)
    probabilities, fold = out_of_fold(data, groups, classes, spec=spec, train=train, audit=audit)
    predicted = probabilities.argmax(axis=1)
    rows = []
    for number in range(folds):
        inside = fold == number
        counts = Confusion.of(data.labels[inside], predicted[inside], classes)
        accuracy = float((predicted[inside] == data.labels[inside]).mean())
        rows.append(
            {"images": int(inside.sum()), "accuracy": round(accuracy, 5), "macro_f1": round(macro_f1(counts), 5)}
        )
    return {"folds": rows, **{name: _spread([row[name] for row in rows]) for name in ("accuracy", "macro_f1")}}


def cross_validated_labels(
    data: ImageSet, groups: Sequence[str], classes: int, *, spec: PreprocessSpec, train: Train, folds: int
) -> dict[str, Any]:
    """Return the same where images carry several labels: mean average precision, and macro-F1 answered from 0.5 on.

    Folds balance the rarest label of each image. None stands where no image of a fold carries a label.
    """
    from components.model.out_of_fold.probabilities import out_of_fold

    audit = Audit(folds=folds, epochs=train.epochs)
    strata = rarest_labels(data.labels)
    probabilities, fold = out_of_fold(data, groups, classes, spec=spec, train=train, audit=audit, strata=strata)
    rows = []
    for number in range(folds):
        truth, likely = data.labels[fold == number] > 0, probabilities[fold == number]
        found = {
            "map": mean_average_precision(truth, likely),
            "macro_f1": several.macro_f1(truth, likely >= ANSWERED_FROM),
        }
        known = {name: None if np.isnan(value) else round(value, 5) for name, value in found.items()}
        rows.append({"images": len(truth), **known})
    return {"folds": rows, **{name: _spread([row[name] for row in rows]) for name in ("map", "macro_f1")}}


def _spread(given: Sequence[float | None]) -> dict[str, float] | None:
    values = [value for value in given if value is not None]
    if len(values) < 2:
        return None
    return {"mean": round(float(np.mean(values)), 5), "deviation": round(float(np.std(values, ddof=1)), 5)}
