"""The stage that learns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.labels.stale import read_meanings, read_stale, read_successors
from components.labels.suspects import read_out_of_fold, read_suspects, soft_targets, training_weights
from components.model.artifact import WEIGHTS_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.dataset import LearningSet, StoredImages, load_learning
from components.model.images.inputs import ImageSet
from components.model.networks.backbones import build
from components.model.training.contact_sheet import write_contact_sheet
from components.model.training.imbalance import Remedy, remedy_for
from components.model.training.progress import MetricsLog
from components.model.training.state import RunState, run_key
from components.model.training.transfer import train
from components.monitoring.drift.label_shift import reweighting
from components.params import Params
from components.stages.files import METRICS_FILE, METRICS_LOG_FILE, fresh, write_json

logger = logging.getLogger(__name__)

CONTACT_SHEET = Path("augmentation") / "contact_sheet.png"

MOST_REWEIGHTED = 4.0
"""How many times an image may count where training is weighted by the classes' shares in production."""


def run(params: Params, states: Path | None = None) -> None:
    """Write a trained model: model.pt (weights only), model.json, metrics.jsonl, metrics.json, checkpoints.

    And what augmentation does, on a contact sheet.

    states: a folder that outlives this process, where a run keeps its whole epochs; one cut off goes on from there.
    """
    learning = load_learning(StoredImages.of(params), params.preprocess, params.train)
    suspect = read_suspects(Path(params.paths.audit), learning.rows["image_id"].to_pylist())
    weights = _weigh(learning, suspect, params)
    outdated = learning.named(read_stale(Path(params.paths.audit)))
    learning, relearnt = _relearn(learning, read_meanings(Path(params.paths.audit)))
    weights = np.where(relearnt > 0, relearnt, weights)
    taken_over = read_successors(Path(params.paths.audit))
    weights *= np.array([taken_over.get(name, 1.0) for name in learning.rows["image_id"].to_pylist()], np.float32)
    learnt = learning.training & (weights > 0) & (~outdated | (relearnt > 0))
    targets = _targets(learning, suspect & learning.given & (relearnt == 0), params)
    weights, of_class = _as_in_production(learning, weights, learnt, params)
    judging = ~learning.training & ~outdated
    spec = ModelSpec(learning.classes, learning.spec, params.train.backbone, several=learning.data.several)
    seed = params.train.seed + params.restart.number
    network = build(
        spec.backbone,
        classes=len(spec.classes),
        channels=spec.preprocess.channels,
        size=spec.preprocess.size,
        dropout=params.train.dropout,
        pretrained=params.train.pretrained,
        seed=seed,
    )
    folder = fresh(params.paths.model)
    training = replace(
        learning.data.take(learnt), weights=weights[learnt], targets=None if targets is None else targets[learnt]
    )
    write_contact_sheet(training.images, params.train.augment, seed, folder / CONTACT_SHEET)
    remedy = remedy_for(training.labels, training.weights, spec.classes, params.train.imbalance)
    state = None if states is None else _state(states, learning, training, learnt, params)
    trained = train(
        network,
        training,
        learning.data.take(judging),
        spec=spec.preprocess,
        params=params.train.model_copy(update={"seed": seed}),
        log=MetricsLog(folder / METRICS_LOG_FILE, _now),
        checkpoints=folder / "checkpoints",
        remedy=remedy,
        state=state,
    )
    fitted = trained.fitted
    torch.save(fitted.network.state_dict(), folder / WEIGHTS_FILE)
    write_spec(folder, spec)
    metrics = {
        "images": int(learnt.sum()),
        "production_images": int((learnt & learning.production).sum()),
        "left_out": int((learning.training & ~learnt).sum()),
        "out_of_date": int(outdated.sum()),
        "relearnt": int((relearnt > 0).sum()),
        "took_over": len(taken_over),
        "weighted_down": int((learnt & (weights < 1)).sum()),
        "validation_images": int(judging.sum()),
        "class_weights": of_class,
        "imbalance": _told(remedy, spec.classes),
        "strategy": trained.plan.strategy,
        "strategy_reason": trained.plan.reason,
        "phases": trained.phases,
        "batch_size": fitted.batch_size,
        "best_epoch": fitted.epoch,
        "epochs": fitted.epochs,
        "precision": fitted.precision,
        **{name: round(value, 5) for name, value in fitted.validation.items()},
    }
    write_json(folder / METRICS_FILE, metrics)
    if state is not None:
        state.discard()
    if fitted.resumed_at:
        logger.info("train: a run that was cut off went on after its first %d epochs", fitted.resumed_at)
    logger.info(
        "train: %d images, %s; best epoch %d of %d",
        metrics["images"], trained.plan.reason, fitted.epoch + 1, fitted.epochs,
    )  # fmt: skip


def _now() -> datetime:
    return datetime.now(UTC)


def _state(
    states: Path, learning: LearningSet, training: ImageSet, learnt: NDArray[np.bool_], params: Params
) -> RunState:
    """Return the state of the run with exactly these images, settings and code."""
    lock = Path(params.paths.code_lock)
    settings = {
        "train": params.train.model_dump(mode="json"),
        "restart": params.restart.number,
        "preprocess": learning.spec.digest(),
        "code": file_sha256(lock) if lock.is_file() else "",
    }
    image_ids = [name for name, taken in zip(learning.rows["image_id"].to_pylist(), learnt, strict=True) if taken]
    return RunState.of(states, run_key(training, image_ids, settings))


def _told(remedy: Remedy | None, classes: Sequence[str]) -> dict[str, Any]:
    if remedy is None:
        return {}
    factors = {name: round(float(factor), 4) for name, factor in zip(classes, remedy.factors, strict=True)}
    return {"remedy": remedy.kind, "factors": factors}


def _weigh(learning: LearningSet, suspect: NDArray[np.bool_], params: Params) -> NDArray[np.float32]:
    """Return every row's training weight (N,), 0 where it is left out."""
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
