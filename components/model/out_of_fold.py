"""Probabilities of every image by a model that did not see it, for the label audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.model.answering import predict_logits
from components.model.backbones import build
from components.model.calibration import softmax
from components.model.folds import assign_folds
from components.model.inputs import ImageSet
from components.model.preprocess import PreprocessSpec
from components.model.training import fit
from components.params import Audit, Train


def out_of_fold(
    data: ImageSet, groups: Sequence[str], classes: int, *, spec: PreprocessSpec, train: Train, audit: Audit
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return probabilities (N, K) and the fold (N,) whose model gave them; it was trained on the other folds.

    groups: (N,) group ids; a group is never on both sides. Raises DataError for fewer groups than folds.
    """
    fold = assign_folds(groups, data.labels, audit.folds, train.seed)
    probabilities = np.empty((len(data), classes), dtype=np.float32)
    for number in range(audit.folds):
        inside = fold == number
        seeded = train.model_copy(update={"seed": train.seed + 1 + number})
        network = build(
            train.backbone,
            classes=classes,
            channels=spec.channels,
            size=spec.size,
            dropout=train.dropout,
            pretrained=train.pretrained,
            seed=seeded.seed,
        )
        fitted = fit(network, data.take(~inside), None, spec=spec, params=seeded, epochs=audit.epochs)
        probabilities[inside] = softmax(predict_logits(fitted.network, data.images[inside], spec))
    return probabilities, fold
