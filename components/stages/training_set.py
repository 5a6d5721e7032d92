"""What a training is given: which images of a dataset version, under which labels, and how much each counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.labels.stale import read_meanings, read_stale, read_successors
from components.labels.suspects import (
    per_row,
    read_doubted_labels,
    read_out_of_fold,
    read_suspects,
    soft_targets,
    training_weights,
)
from components.model.images.dataset import LearningSet, StoredImages, load_learning
from components.model.images.inputs import ImageSet
from components.monitoring.drift.label_shift import reweighting
from components.params import Params

MOST_REWEIGHTED = 4.0
"""How many times an image may count where training is weighted by the classes' shares in production."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """training, validation: the images. rows: (N,) bool, which of `learning`'s are in the first. told: for people."""

    learning: LearningSet
    training: ImageSet
    validation: ImageSet
    rows: NDArray[np.bool_]
    told: dict[str, Any]

    @property
    def image_ids(self) -> list[str]:
        """Return the ids of the training images, in their order."""
        every = self.learning.rows["image_id"].to_pylist()
        return [image_id for image_id, taken in zip(every, self.rows, strict=True) if taken]


def load_training_set(stored: StoredImages, params: Params) -> TrainingSet:
    """Return what the dataset version and its audit give to learn from.

    Doubted labels count as `audit.policy` says; what is out of date is left out, or learnt under the class it means
    now, in training alone. Raises as `load_learning`, and DataError where the audit has not been made.
    """
    audit = Path(params.paths.audit)
    learning = load_learning(stored, params.preprocess, params.train)
    image_ids = learning.rows["image_id"].to_pylist()
    several = learning.data.several
    suspect = read_doubted_labels(audit, image_ids, learning.classes) if several else read_suspects(audit, image_ids)
    weights = _weigh(learning, suspect, params)
    outdated = learning.named(read_stale(audit))
    learning, relearnt = _relearn(learning, read_meanings(audit))
    weights = np.where(per_row(relearnt > 0, weights), per_row(relearnt, weights), weights)
    taken_over = read_successors(audit)
    weights *= per_row(np.array([taken_over.get(image_id, 1.0) for image_id in image_ids], np.float32), weights)
    rows = learning.training & _of_any(weights > 0) & (~outdated | (relearnt > 0))
    targets = _targets(learning, suspect & per_row(learning.given & (relearnt == 0), suspect), params)
    weights, of_class = _as_in_production(learning, weights, rows, params)
    judging = ~learning.training & ~outdated
    training = replace(
        learning.data.take(rows), weights=weights[rows], targets=None if targets is None else targets[rows]
    )
    told = {
        "images": int(rows.sum()),
        "production_images": int((rows & learning.production).sum()),
        "left_out": int((learning.training & ~rows).sum()),
        "out_of_date": int(outdated.sum()),
        "relearnt": int((relearnt > 0).sum()),
        "took_over": len(taken_over),
        "weighted_down": int((rows & _of_any(weights < 1)).sum()),
        "validation_images": int(judging.sum()),
        "class_weights": of_class,
    }
    return TrainingSet(learning, training, learning.data.take(judging), rows, told)


def _of_any(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows (N,) it is true of, or of one of whose labels."""
    return np.asarray(found.any(axis=1) if found.ndim == 2 else found)


def _weigh(learning: LearningSet, suspect: NDArray[np.bool_], params: Params) -> NDArray[np.float32]:
    """Return every row's training weight (N,), or that of every label (N, K); 0 where it is left out."""
    return training_weights(
        suspect,
        learning.given,
        learning.production,
        policy=params.audit.policy,
        suspect_weight=params.audit.suspect_weight,
        production_weight=params.train.production_weight,
    )


def _targets(learning: LearningSet, doubted: NDArray[np.bool_], params: Params) -> NDArray[np.float32] | None:
    """Return what is learnt in place of the labels (N, K), where the policy for doubted ones says so."""
    if params.audit.policy != "soft-targets":
        return None
    probabilities = read_out_of_fold(Path(params.paths.audit), learning.rows["image_id"].to_pylist())
    return soft_targets(learning.data.labels, probabilities, doubted)


def _relearn(
    learning: LearningSet, meanings: Mapping[str, tuple[str, float]]
) -> tuple[LearningSet, NDArray[np.float32]]:
    """Return the set with training images under the class they mean now, and how much each of them counts (N,), else 0.

    In training alone: what was inferred measures nothing.
    """
    labels, counts = learning.data.labels.copy(), np.zeros(len(learning.training), np.float32)
    for row, image_id in enumerate(learning.rows["image_id"].to_pylist()):
        if image_id in meanings and learning.training[row]:
            means, counts[row] = meanings[image_id]
            labels[row] = learning.classes.index(means)
    return replace(learning, data=replace(learning.data, labels=labels)), counts


def _as_in_production(
    learning: LearningSet, weights: NDArray[np.float32], learnt: NDArray[np.bool_], params: Params
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return the weights (N,) with every class counting as often as in `params.mix`, and what each was multiplied by.

    Unchanged, and nothing, where no mix is noted, a class of the data is not in it, or images carry several.
    """
    shares = params.mix.shares
    if learning.data.several or not shares or not set(learning.classes) <= shares.keys():
        return weights, {}
    labels = learning.data.labels
    wanted = np.array([shares[name] for name in learning.classes])
    given = np.bincount(labels[learnt], weights[learnt], len(learning.classes))
    factors = reweighting(wanted / wanted.sum(), given / given.sum(), MOST_REWEIGHTED)
    told = {name: round(float(factor), 4) for name, factor in zip(learning.classes, factors, strict=True)}
    return (weights * factors[labels]).astype(np.float32), told
