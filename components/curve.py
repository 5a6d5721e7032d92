"""The learning curve of a dataset version: `python -m components.curve FILE SECONDS`, in a workspace.

The recipe of params.yaml is trained shortly on nested shares of the training images, each for as many steps: fewer
images are seen more often, so that the smaller trainings are not merely shorter. No stage, since its result is no part
of a model, and since it is bounded in time: what is finished when the time is up is what is told.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError, PerennialError
from components.params import Params, load_params

if TYPE_CHECKING:
    from components.evaluation.training.advice import LearningCurve
    from components.model.images.dataset import LearningSet
    from components.model.images.inputs import ImageSet

logger = logging.getLogger("components.curve")

EPOCHS = 6  # of a training on all images, at most: a curve needs points that are alike, not good ones
EIGHTHS = ((8, 0), (2, 0), (4, 0), (1, 0), (2, 1), (4, 1), (1, 1))
"""What is trained on, in this order: eighths of the training images, and which nested choice of them."""
MOST_ASKED = 5_000  # images learnt from, whose errors are counted

IntArray = NDArray[np.int64]


def learning_curve(
    params: Params, seconds: float, clock: Callable[[], float], written: Callable[[LearningCurve], None]
) -> LearningCurve:
    """Return the curve of the dataset at `params.paths`; after the first, no training begins that would end too late.

    seconds: from the start, of loading too.
    written: is given the curve after every training. Held out are the validation and the golden images.
    Raises DataError for too few images to hold out or to divide.
    """
    from components.evaluation.training.advice import CurvePoint, LearningCurve
    from components.labels.stale import read_stale
    from components.model.images.dataset import StoredImages, load_learning
    from components.model.out_of_fold.folds import assign_folds

    started = clock()
    stored = StoredImages.of(params)
    learning = load_learning(stored, params.preprocess, params.train)
    weights, doubted = _weigh(learning, params)
    outdated = learning.named(read_stale(Path(params.paths.audit)) if _audited(params) else ())
    learnt = learning.training & (weights > 0) & ~outdated
    images, labels = _held_out(params, learning, ~learning.training & ~outdated)
    if not len(labels):
        raise DataError("no image is held out to measure on; ingest more")
    classes = len(learning.classes)
    training = replace(learning.data.take(learnt), weights=weights[learnt])
    groups = [g for g, used in zip(learning.rows["group_id"].to_pylist(), learnt, strict=True) if used]
    of_class = np.bincount(labels, minlength=classes)
    doubts = None if doubted is None else _shares(doubted[learnt], training.labels, classes)
    points: list[CurvePoint] = []
    longest = 0.0
    for eighths, choice in EIGHTHS:
        before = clock()
        if points and before - started + longest > seconds:
            break
        some = np.flatnonzero(assign_folds(groups, training.labels, 8, seed=params.train.seed + choice) < eighths)
        wrong, wrong_learnt, asked = _train(training.take(some), images, labels, learning, params, eighths, choice)
        points.append(CurvePoint(len(some) / len(training), len(some), wrong, wrong_learnt, asked))
        longest = max(longest, clock() - before)
        curve = LearningCurve(
            learning.classes, tuple(map(int, of_class)), tuple(points), doubts, round(clock() - started, 3)
        )
        written(curve)
        logger.info("curve: %d images, %d of %d wrong", len(some), sum(wrong), len(labels))
    return curve


def _train(
    some: ImageSet,
    images: NDArray[np.uint8],
    labels: IntArray,
    learning: LearningSet,
    params: Params,
    eighths: int,
    choice: int,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return errors by class on the images held out, and on images learnt from, with how many of these were asked."""
    from components.model.answering import predict_logits
    from components.model.networks.backbones import network_of
    from components.model.training.fit import fit

    spec, classes = learning.spec, len(learning.classes)
    seed = params.train.seed + choice
    network = network_of(params.train, classes, spec, seed)
    epochs = max(1, round(min(params.train.epochs, EPOCHS) * 8 / eighths))
    fitted = fit(network, some, None, spec=spec, params=params.train.model_copy(update={"seed": seed}), epochs=epochs)
    asked = np.random.default_rng(seed).permutation(len(some))[:MOST_ASKED]

    def wrong(pixels: NDArray[np.uint8], truth: IntArray) -> tuple[int, ...]:
        missed = predict_logits(fitted.network, pixels, spec).argmax(axis=1) != truth
        return tuple(map(int, np.bincount(truth[missed], minlength=classes)))

    of_asked = np.bincount(some.labels[asked], minlength=classes)
    return wrong(images, labels), wrong(some.images[asked], some.labels[asked]), tuple(map(int, of_asked))


def _held_out(params: Params, learning: LearningSet, judging: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], IntArray]:
    from components.data.manifest import without
    from components.labels.stale import read_stale
    from components.model.images.dataset import StoredImages

    stored = StoredImages.of(params)
    rows = without(stored.manifest.select("golden"), read_stale(Path(params.paths.audit)) if _audited(params) else ())
    own = learning.data.take(judging)
    return (
        np.concatenate([own.images, stored.pixels(rows, learning.spec)]),
        np.concatenate([own.labels, stored.labels(rows)]),
    )


def _audited(params: Params) -> bool:
    from components.labels.suspects import SUSPECTS_FILE

    return (Path(params.paths.audit) / SUSPECTS_FILE).is_file()


def _weigh(learning: LearningSet, params: Params) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return every row's training weight (N,), and what the audit doubts (N,), None where there is no audit."""
    from components.labels.suspects import read_suspects, training_weights

    suspect, known = np.zeros(len(learning.data), bool), None
    if _audited(params):
        suspect = known = read_suspects(Path(params.paths.audit), learning.rows["image_id"].to_pylist())
    weights = training_weights(
        suspect, learning.given, learning.production, policy=params.audit.policy,
        suspect_weight=params.audit.suspect_weight, production_weight=params.train.production_weight,
    )  # fmt: skip
    return weights, known


def _shares(doubted: NDArray[np.bool_], labels: IntArray, classes: int) -> tuple[float, ...]:
    many = np.bincount(labels, minlength=classes)
    return tuple(map(float, np.bincount(labels[doubted], minlength=classes) / np.maximum(many, 1)))


def main(arguments: Sequence[str]) -> int:
    """Write the curve of the working folder's dataset to a file and return the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for the stages: idle threads would spin
    file, seconds = Path(arguments[0]), float(arguments[1])
    logging.basicConfig(format="%(message)s")

    def written(curve: Any) -> None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(curve.as_json()), encoding="utf-8")
        part.replace(file)

    try:
        learning_curve(load_params(Path("params.yaml")), seconds, time.monotonic, written)
    except PerennialError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
