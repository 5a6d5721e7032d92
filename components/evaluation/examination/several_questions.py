"""The report's further questions where images carry several labels, each on as many images as params allow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from components.data.manifest import without
from components.evaluation.examination.baseline import linear_label_baseline
from components.evaluation.examination.judged import IntArray, JudgedImages, drawn
from components.evaluation.examination.questions import MOST_JUDGED, learning_rows, learnt_share
from components.evaluation.examination.robustness import (
    Target,
    attacked_accuracy,
    corrupted_accuracy,
    looked_at_five_times,
    right_share,
)
from components.evaluation.metrics.set_answers import SetAnswers, SetPart
from components.evaluation.metrics.several import macro_f1
from components.evaluation.metrics.slices import slice_rows
from components.evaluation.training.curve import Epoch
from components.evaluation.training.diagnosis import diagnose
from components.evaluation.training.folds import cross_validated_labels
from components.model.answering import predict_logits
from components.model.label_calibration import LabelRules
from components.params import Evaluate, Train


def examine_several(
    judged: JudgedImages,
    answers: SetAnswers,
    fitted: LabelRules,
    validation: IntArray,
    epochs: tuple[Epoch, ...],
    outdated: frozenset[str],
    *,
    rules: Evaluate,
    train: Train,
) -> dict[str, Any]:
    """Return what metrics.json says beside the metrics of the sets; an image is right where all its labels are.

    answers: to the judged images, by the rules `fitted`. validation: its labels (N, K). epochs: of the training.
    outdated: images whose labels no longer count. Raises as `cross_validated_labels` does.
    """
    learnt = without(judged.stored.manifest.select("train"), outdated)

    def right(logits: NDArray[np.float32], labels: IntArray) -> NDArray[np.bool_]:
        return SetAnswers.by(SetPart(logits, labels), fitted).right

    return {
        "baselines": {"linear": _linear(judged, answers, learnt, rules.report.linear_images)},
        "training": {
            **diagnose(epochs, validation).as_json(),
            "epochs": len(epochs),
            **learnt_share(judged, learnt, right, rules.batch_size),
        },
        "slices": slice_rows(answers.right, judged.properties()),
        **_robustness(judged, answers, fitted, rules, flip=train.augment.flip),
        "folds": _folds(judged, outdated, rules.folds, train) if rules.folds else None,
    }


def label_target(fitted: LabelRules) -> Target:
    """Return what an attacker drives up where images carry several labels: cross-entropy, summed over labels."""
    scales, offsets, thresholds = (
        torch.from_numpy(values).float() for values in (fitted.scales, fitted.offsets, fitted.thresholds)
    )

    def calibrated(logits: Tensor) -> Tensor:
        return logits * scales.to(logits.device) + offsets.to(logits.device)

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(calibrated(logits), truth.float(), reduction="sum")

    def right(logits: Tensor, truth: Tensor) -> Tensor:
        said = calibrated(logits).sigmoid() >= thresholds.to(logits.device)
        return (said == (truth > 0)).all(dim=1)

    return Target(loss, right)


def label_scores(
    labels: IntArray, thresholds: NDArray[np.floating], probabilities: NDArray[np.floating]
) -> dict[str, Any]:
    """Return the share of images with all labels right, and macro-F1, of each label's probability (N, K)."""
    answers = SetAnswers.of(probabilities, labels, thresholds)
    return {
        "exact_match": right_share(answers.right),
        "macro_f1": round(float(np.nan_to_num(macro_f1(answers.truth, answers.said))), 5),
    }


def _linear(judged: JudgedImages, answers: SetAnswers, learnt: pa.Table, most: int) -> dict[str, Any] | None:
    if not most or not len(learnt):
        return None
    stored, asked = judged.stored, judged.drawn(MOST_JUDGED)
    rows = learnt.take(pa.array(drawn(len(learnt), most)))
    return linear_label_baseline(
        stored.pixels(rows, judged.spec.preprocess), stored.labels(rows), judged.pixels(asked), answers.truth[asked]
    )


def _robustness(
    judged: JudgedImages, answers: SetAnswers, fitted: LabelRules, rules: Evaluate, *, flip: bool
) -> dict[str, Any]:
    limits, preprocess = rules.report, judged.spec.preprocess

    def likely(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return fitted.probabilities(predict_logits(judged.network, images, preprocess, rules.batch_size))

    def asked(most: int, question: Callable[[NDArray[np.uint8], IntArray], dict[str, Any]]) -> dict[str, Any] | None:
        places = judged.drawn(most)
        return question(judged.pixels(places), answers.truth[places].astype(np.int64)) if len(places) else None

    def corrupted(images: NDArray[np.uint8], labels: IntArray) -> dict[str, Any]:
        return corrupted_accuracy(lambda some: SetAnswers.of(likely(some), labels, fitted.thresholds).right, images)

    def five_looks(images: NDArray[np.uint8], labels: IntArray) -> dict[str, Any]:
        return looked_at_five_times(likely, images, partial(label_scores, labels, fitted.thresholds), flip=flip)

    attack = partial(
        attacked_accuracy, judged.network, preprocess,
        epsilon=limits.attack_epsilon, steps=limits.attack_steps, target=label_target(fitted),
    )  # fmt: skip
    return {
        "robustness": asked(limits.corrupted_images, corrupted),
        "attacks": asked(limits.attacked_images, attack),
        "five_looks": asked(limits.five_looks_images, five_looks),
    }


def _folds(judged: JudgedImages, outdated: frozenset[str], folds: int, train: Train) -> dict[str, Any]:
    data, groups = learning_rows(judged, outdated, train)
    return cross_validated_labels(
        data, groups, len(judged.spec.classes), spec=judged.spec.preprocess, train=train, folds=folds
    )
