"""The report's further questions about the judged set, each on as many images as params allow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data.manifest import without
from components.evaluation.examination.baseline import linear_baseline
from components.evaluation.examination.judged import IntArray, Judged, JudgedImages, drawn
from components.evaluation.examination.robustness import (
    attacked_accuracy,
    class_scores,
    corrupted_accuracy,
    looked_at_five_times,
)
from components.evaluation.examination.unfamiliar import energy_threshold, strange_images, unfamiliar_report
from components.evaluation.measure import Part
from components.evaluation.metrics.slices import slice_rows
from components.evaluation.training.curve import Epoch
from components.evaluation.training.diagnosis import diagnose
from components.evaluation.training.folds import cross_validated
from components.model.answering import predict_logits
from components.model.calibration import softmax
from components.model.images.inputs import ImageSet
from components.model.serving.predictor import energy
from components.params import Data, Evaluate, Train

Right = Callable[[NDArray[np.float32], IntArray], NDArray[np.bool_]]

MOST_JUDGED = 2_000  # images that the linear baseline answers
MOST_LEARNT = 1_000  # images learnt from that the network answers


def examine(
    judged: Judged,
    validation: Part,
    epochs: tuple[Epoch, ...],
    outdated: frozenset[str],
    *,
    rules: Evaluate,
    train: Train,
    data: Data,
) -> dict[str, Any]:
    """Return what metrics.json says beside the metrics of the sets.

    epochs: of the training. outdated: images whose labels no longer count. data: limits of images from outside. Raises
    as `strange_images` and `cross_validated` do.
    """
    learnt = without(judged.stored.manifest.select("train"), outdated)
    return {
        "baselines": {"linear": _linear(judged, learnt, rules.report.linear_images)},
        "training": _training(judged, validation, epochs, learnt, rules.batch_size),
        "slices": slice_rows(judged.answers.right, judged.properties()),
        **_robustness(judged, rules, flip=train.augment.flip),
        "unfamiliar": _unfamiliar(judged, validation, rules, data),
        "folds": _folds(judged, outdated, rules.folds, train) if rules.folds else None,
    }


def _linear(judged: Judged, learnt: pa.Table, most: int) -> dict[str, Any] | None:
    if not most or not len(learnt):
        return None
    stored, preprocess = judged.stored, judged.spec.preprocess
    rows = learnt.take(pa.array(drawn(len(learnt), most)))
    asked = judged.drawn(MOST_JUDGED)
    return linear_baseline(
        stored.pixels(rows, preprocess),
        stored.labels(rows),
        judged.pixels(asked),
        judged.labels[asked],
        len(judged.spec.classes),
    )


def _robustness(judged: Judged, rules: Evaluate, *, flip: bool) -> dict[str, Any]:
    """Return accuracy on worse images, under attack and over five looks, each None where it is not asked."""
    limits, preprocess = rules.report, judged.spec.preprocess

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict_logits(judged.network, images, preprocess, rules.batch_size)

    def asked(most: int, question: Callable[[NDArray[np.uint8], IntArray], dict[str, Any]]) -> dict[str, Any] | None:
        places = judged.drawn(most)
        return question(judged.pixels(places), judged.labels[places]) if len(places) else None

    attack = partial(
        attacked_accuracy, judged.network, preprocess, epsilon=limits.attack_epsilon, steps=limits.attack_steps
    )

    def corrupted(images: NDArray[np.uint8], labels: IntArray) -> dict[str, Any]:
        return corrupted_accuracy(lambda changed: answer(changed).argmax(axis=1) == labels, images)

    def five_looks(images: NDArray[np.uint8], labels: IntArray) -> dict[str, Any]:
        return looked_at_five_times(
            lambda view: softmax(answer(view), judged.temperature), images, partial(class_scores, labels), flip=flip
        )

    return {
        "robustness": asked(limits.corrupted_images, corrupted),
        "attacks": asked(limits.attacked_images, attack),
        "five_looks": asked(limits.five_looks_images, five_looks),
    }


def _unfamiliar(judged: Judged, validation: Part, rules: Evaluate, data: Data) -> dict[str, Any] | None:
    """Return how well energy tells other things from the judged images; None where it is not asked."""
    preprocess, most = judged.spec.preprocess, rules.report.ood_images
    if not most:
        return None
    others = {
        name: energy(predict_logits(judged.network, images, preprocess, rules.batch_size), judged.temperature)
        for name, images in strange_images(rules.ood, preprocess, data, most).items()
    }
    threshold = energy_threshold(energy(validation.logits, judged.temperature), rules.familiar_share)
    return unfamiliar_report(judged.energy, threshold, rules.familiar_share, others)


def _folds(judged: Judged, outdated: frozenset[str], folds: int, train: Train) -> dict[str, Any]:
    data, groups = learning_rows(judged, outdated, train)
    return cross_validated(
        data, groups, len(judged.spec.classes), spec=judged.spec.preprocess, train=train, folds=folds
    )


def learning_rows(judged: JudgedImages, outdated: frozenset[str], train: Train) -> tuple[ImageSet, list[str]]:
    """Return training and validation images together, with their groups, for cross-validation."""
    stored = judged.stored
    rows = without(stored.manifest.select("train", "validation"), outdated)
    weights = np.where(rows["window"].is_valid().to_numpy(), train.production_weight, 1.0).astype(np.float32)
    data = ImageSet(stored.pixels(rows, judged.spec.preprocess), stored.labels(rows), weights)
    return data, rows["group_id"].to_pylist()


def _training(
    judged: Judged, validation: Part, epochs: tuple[Epoch, ...], learnt: pa.Table, batch_size: int
) -> dict[str, Any]:
    """Return the diagnosis, and how many images of the training split are answered with their label."""
    found = diagnose(epochs, validation.labels, validation.logits.argmax(axis=1)).as_json()

    def right(logits: NDArray[np.float32], labels: IntArray) -> NDArray[np.bool_]:
        return np.asarray(logits.argmax(axis=1) == labels)

    return {**found, "epochs": len(epochs), **learnt_share(judged, learnt, right, batch_size)}


def learnt_share(judged: JudgedImages, learnt: pa.Table, right: Right, batch_size: int) -> dict[str, Any]:
    """Return "learnt", the share of the images learnt from that are answered right, and of how many, 1,000 at most.

    learnt: their rows of the manifest; of none the share is None. right: of logits (n, K) and labels, which rows are.
    """
    if not len(learnt):
        return {"learnt": None, "learnt_images": 0}
    rows = learnt.take(pa.array(drawn(len(learnt), MOST_LEARNT)))
    pixels = judged.stored.pixels(rows, judged.spec.preprocess)
    logits = predict_logits(judged.network, pixels, judged.spec.preprocess, batch_size)
    share = float(right(logits, judged.stored.labels(rows)).mean())
    return {"learnt": round(share, 5), "learnt_images": len(rows)}
