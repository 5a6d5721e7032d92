"""The stage that learns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.errors import ConfigurationError
from components.model.artifact import START_FOLDER, WEIGHTS_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.dataset import StoredImages
from components.model.networks.backbones import network_of
from components.model.training.contact_sheet import write_contact_sheet
from components.model.training.objectives.distillation import Teaching, teach
from components.model.training.objectives.imbalance import Remedy, remedy_for
from components.model.training.progress import MetricsLog
from components.model.training.selection import try_backbones
from components.model.training.state import RunState, run_key
from components.model.training.transfer import Trained, train
from components.model.training.warm_start import as_fed, champion_in, take_over
from components.params import AUTO, CHAMPION, Params, Train
from components.stages.files import METRICS_FILE, METRICS_LOG_FILE, fresh, write_json
from components.stages.training_set import TrainingSet, load_training_set

logger = logging.getLogger(__name__)

CONTACT_SHEET = Path("augmentation") / "contact_sheet.png"


def run(params: Params, states: Path | None = None) -> None:
    """Write a trained model: model.pt (weights only), model.json, metrics.jsonl, metrics.json, checkpoints.

    And what augmentation does, on a contact sheet. states: a folder that outlives this process, where a run keeps its
    whole epochs; one cut off goes on from there.
    """
    stored = StoredImages.of(params)
    given = load_training_set(stored, params)
    backbone, tried = _backbone(given, params)
    seed = params.train.seed + params.restart.number
    rules = params.train.model_copy(update={"seed": seed, "backbone": backbone})
    spec, network, rules = _begun(given, params, rules)
    folder = fresh(params.paths.model)
    write_contact_sheet(given.training.images, params.train.augment, seed, folder / CONTACT_SHEET)
    remedy = remedy_for(given.training.labels, given.training.weights, spec.classes, params.train.imbalance)
    state = None if states is None else _state(states, given, params)
    trained = train(
        network,
        given.training,
        given.validation,
        spec=spec.preprocess,
        params=rules,
        log=MetricsLog(folder / METRICS_LOG_FILE),
        checkpoints=folder / "checkpoints",
        remedy=remedy,
        teaching=_teaching(stored, given, params),
        state=state,
    )
    torch.save(trained.fitted.network.state_dict(), folder / WEIGHTS_FILE)
    write_spec(folder, spec)
    imbalance = _told(remedy, spec.classes)
    write_json(folder / METRICS_FILE, given.told | {"imbalance": imbalance, "shortlist": tried} | _metrics(trained))
    if state is not None:
        state.discard()
    fitted = trained.fitted
    if fitted.resumed_at:
        logger.info("train: a run that was cut off went on after its first %d epochs", fitted.resumed_at)
    logger.info(
        "train: %d images, %s; best epoch %d of %d",
        len(given.training), trained.plan.reason, fitted.epoch + 1, fitted.epochs,
    )  # fmt: skip


def _backbone(given: TrainingSet, params: Params) -> tuple[str, list[dict[str, Any]]]:
    """Return the backbone to train and, where params.yaml leaves the choice, what was found of the shortlist."""
    if params.train.backbone != AUTO:
        return params.train.backbone, []
    if given.training.several:
        raise ConfigurationError("train.backbone auto compares answers of one class an image; name a backbone")
    prepared = partial(given.learning.prepared_for, params=params)
    name, tried = try_backbones(given.training, given.validation, given.learning.classes, prepared, params.train)
    return name, [one.as_json() for one in tried]


def _begun(given: TrainingSet, params: Params, rules: Train) -> tuple[ModelSpec, nn.Module, Train]:
    """Return what is to be trained, with its first weights, and the rules of it: from nothing where no champion is."""
    learning, from_champion = given.learning, rules.pretrained == CHAMPION and params.start.version > 0
    preprocess = learning.prepared_for(rules.backbone, params)
    spec = ModelSpec(learning.classes, preprocess, rules.backbone, several=learning.data.several, head=rules.head)
    if from_champion:
        spec = as_fed(spec, champion_in(START_FOLDER, params.start))
    network = network_of(rules, len(spec.classes), spec.preprocess, rules.seed)
    if from_champion:
        take_over(network, spec.classes, START_FOLDER)
        logger.info("train: from the weights of version %d", params.start.version)
    elif rules.pretrained == CHAMPION:
        rules = rules.model_copy(update={"pretrained": "none"})
        logger.info("train: from nothing: there was no champion to start from")
    return spec, network, rules


def _metrics(trained: Trained) -> dict[str, Any]:
    fitted = trained.fitted
    return {
        "strategy": trained.plan.strategy,
        "strategy_reason": trained.plan.reason,
        "phases": trained.phases,
        "batch_size": fitted.batch_size,
        "best_epoch": fitted.epoch,
        "epochs": fitted.epochs,
        "precision": fitted.precision,
        **{name: round(value, 5) for name, value in fitted.validation.items()},
    }


def _told(remedy: Remedy | None, classes: Sequence[str]) -> dict[str, Any]:
    if remedy is None:
        return {}
    factors = {name: round(float(factor), 4) for name, factor in zip(classes, remedy.factors, strict=True)}
    return {"remedy": remedy.kind, "factors": factors}


def _teaching(stored: StoredImages, given: TrainingSet, params: Params) -> Teaching | None:
    """Return what the teacher that params.yaml names says of the training images, or None."""
    wanted = params.train.distil
    if not wanted.teacher:
        return None
    return teach(
        Path(wanted.teacher),
        lambda spec: stored.pixels(given.learning.rows.filter(given.rows), spec),
        given.learning.classes,
        alpha=wanted.alpha,
        temperature=wanted.temperature,
    )


def _state(states: Path, given: TrainingSet, params: Params) -> RunState:
    """Return the state of the run with exactly these images, settings, teacher and code."""
    lock, teacher = Path(params.paths.code_lock), Path(params.train.distil.teacher) / WEIGHTS_FILE
    settings = {
        "train": params.train.model_dump(mode="json"),
        "restart": params.restart.number,
        "start": params.start.sha256,
        "preprocess": given.learning.spec.digest(),
        "code": file_sha256(lock) if lock.is_file() else "",
        "teacher": file_sha256(teacher) if teacher.is_file() else "",
    }
    return RunState.of(states, run_key(given.training, given.image_ids, settings))
