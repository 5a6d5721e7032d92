"""Training one network on examples in memory, with Lightning."""

from __future__ import annotations

import copy
import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import nn

from components.errors import DataError
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.training.batches import Examples, WholeBatches
from components.model.training.hardware import choose_precision, choose_processes, ran_out_of_memory
from components.model.training.learner import SAVED_AS, Learner, PixelInputs, Recipe
from components.model.training.objectives.any_labels import objective_for
from components.model.training.objectives.distillation import Taught, Teaching, lesson
from components.model.training.objectives.imbalance import Remedy
from components.model.training.objectives.one_class import Objective
from components.model.training.progress import MetricsLog, ProgressBar, Recorder
from components.model.training.rates import Rates
from components.model.training.state import RunState
from components.params import Train

logger = logging.getLogger(__name__)

JUDGED_AT_ONCE = 512
SMALLEST_BATCH = 2  # batch normalisation has nothing to compare a single image with


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network, on the CPU and in eval mode, with the weights of its best epoch (the last without validation).

    epoch: number of the epoch the weights are of, from 0. epochs: how many were run. validation: the best epoch's
    metrics, empty without a validation set. precision: "bf16" or "fp32", what the arithmetic was done in. batch_size:
    what fitted into memory at once. resumed_at: the epoch a run that had been cut off went on at, else 0.
    """

    network: nn.Module
    epoch: int
    epochs: int
    validation: dict[str, float]
    precision: str
    batch_size: int
    resumed_at: int = 0


def fit(
    network: nn.Module,
    training: ImageSet,
    validation: ImageSet | None,
    *,
    spec: PreprocessSpec,
    params: Train,
    epochs: int | None = None,
    log: MetricsLog | None = None,
    checkpoints: Path | None = None,
    remedy: Remedy | None = None,
    rates: Rates | None = None,
    teaching: Teaching | None = None,
    state: RunState | None = None,
) -> Fitted:
    """Return `network` trained on images, the same for the same seed, data and machine.

    With `validation`, the epoch with the best macro-F1 (mean average precision, where images carry several labels) is
    kept, the best `params.keep_checkpoints` are written to `checkpoints`, and `params.patience` epochs without a better
    one end the run. `epochs` overrides the params'. remedy: for classes with few images. teaching: of a larger network,
    learnt beside the labels. rates: of the layers; without, all learn at `params.learning_rate`. state: keeps every
    whole epoch; a run that finds some there goes on after them, and ends as it would have ended.
    A batch too large for the memory is halved, and the gradients of two are added up.
    Raises DataError for too few images, and when the loss is not finite, with step, learning rate and batch.
    """
    weights, chances = remedy.counted(training.labels, training.weights) if remedy else (training.weights, None)
    objective = objective_for(training, params.label_smoothing, remedy)
    if teaching is not None:
        training, objective = lesson(training, teaching), Taught(objective, teaching.alpha, teaching.temperature)
    run = Run(
        PixelInputs(spec, params.augment),
        objective,
        rates or Rates.same(params.learning_rate),
        params if epochs is None else params.model_copy(update={"epochs": epochs}),
        log=log,
        checkpoints=checkpoints,
        state=state,
    )
    return run.fit(network, replace(training, weights=weights), validation, chances)


@dataclass(frozen=True, slots=True)
class Run:
    """How a network is trained, whatever its rows hold."""

    inputs: nn.Module
    objective: Objective
    rates: Rates
    params: Train
    log: MetricsLog | None = None
    checkpoints: Path | None = None
    state: RunState | None = None

    def fit(
        self,
        network: nn.Module,
        training: Examples,
        validation: Examples | None,
        chances: NDArray[np.float32] | None = None,
    ) -> Fitted:
        """Return the trained network. chances: (N,), how often training rows are drawn. Raises as the function."""
        if len(training) < 2:
            raise DataError(f"{len(training)} images to train on; ingest more, or quarantine and drop fewer")
        if validation is not None and (len(validation) == 0 or self.checkpoints is None):
            raise DataError("early stopping needs validation images and a folder for checkpoints; ingest more images")
        with ExitStack() as stack:
            stack.enter_context(_reproducible(self.params))
            stack.enter_context(_quiet())
            state = self.state
            if state is None and choose_processes(self.params.processes) > 1:  # how other processes hand over theirs
                state = RunState(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perennial-run-"))))
            return self._fit(network, training, validation, chances, state)

    def _fit(
        self,
        network: nn.Module,
        training: Examples,
        validation: Examples | None,
        chances: NDArray[np.float32] | None,
        state: RunState | None,
    ) -> Fitted:
        params, resumed_at = self.params, 0 if state is None else state.epochs()
        begun = copy.deepcopy(network.state_dict())
        batch_size, added_up = min(params.batch_size, max(2, len(training))), 1
        held_back = None if validation is None else WholeBatches(validation, JUDGED_AT_ONCE)
        while True:
            batches = WholeBatches(training, batch_size, params.seed, chances)
            steps = params.epochs * math.ceil(len(batches) / added_up)
            recipe = Recipe(params, self.objective, self.rates, steps, float(training.weights.mean()))
            learner = Learner(network, self.inputs, batches, recipe).train()  # Lightning would leave it as it is
            trainer, keeper = self._trainer(added_up, state, judging=held_back is not None)
            last = state.last if state is not None and state.last.is_file() else None
            try:
                if state is None or not state.ended():
                    trainer.fit(learner, batches, held_back, ckpt_path=last, weights_only=True)
            except Exception as error:
                if not ran_out_of_memory(error) or batch_size < 2 * SMALLEST_BATCH:
                    raise
                network.load_state_dict(begun)
                batch_size, added_up = batch_size // 2, added_up * 2
                logger.warning(
                    "out of memory; going on with batches of %d images, the gradients of %d added up",
                    batch_size, added_up,
                )  # fmt: skip
                continue
            return self._fitted(learner, trainer, keeper, state, batch_size, resumed_at)

    def _trainer(
        self, added_up: int, state: RunState | None, *, judging: bool
    ) -> tuple[Trainer, ModelCheckpoint | None]:
        params, keeper = self.params, None
        callbacks: list[Callback] = [ProgressBar(), *([Recorder(self.log, state)] if self.log else [])]
        if judging:
            watched = self.objective.watched
            keeper = ModelCheckpoint(
                self.checkpoints if state is None else state.checkpoints,
                "{epoch:03d}",
                watched,
                mode="max",
                save_top_k=params.keep_checkpoints,
                save_weights_only=True,
            )
            callbacks += [EarlyStopping(watched, mode="max", patience=params.patience), keeper]
        if state is not None:
            callbacks.append(state.keeper())
        processes = choose_processes(params.processes)
        several = "ddp_spawn_find_unused_parameters_true" if self.rates.unfreeze_every else "ddp_spawn"
        trainer = Trainer(
            max_epochs=params.epochs,
            accelerator="auto",
            devices=processes,
            strategy=several if processes > 1 else "auto",
            precision="bf16-mixed" if choose_precision(params.precision) == "bf16" else "32-true",
            accumulate_grad_batches=added_up,
            deterministic=params.deterministic,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=keeper is not None or state is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        return trainer, keeper

    def _fitted(
        self,
        learner: Learner,
        trainer: Trainer,
        keeper: ModelCheckpoint | None,
        state: RunState | None,
        batch_size: int,
        resumed_at: int,
    ) -> Fitted:
        if state is None:
            best, epochs, weights = learner.best, trainer.current_epoch, None
            best_file = keeper.best_model_path if keeper else ""
        else:  # what the last epoch wrote: it may have been another process that trained, now or before
            last = state.read()
            best, epochs, weights = last[SAVED_AS]["best"], int(last["epoch"]) + 1, last["state_dict"]
            best_file = last["callbacks"][keeper.state_key]["best_model_path"] if keeper else ""
        if best_file:
            weights = torch.load(best_file, map_location="cpu", weights_only=True)["state_dict"]
        if weights is not None:
            prefix = "network."
            learner.network.load_state_dict(
                {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            )
        if state is not None and keeper and self.checkpoints is not None:
            shutil.copytree(state.checkpoints, self.checkpoints, dirs_exist_ok=True)
        metrics = {name: value for name, value in best.items() if name != "epoch"}
        return Fitted(
            network=learner.network.cpu().eval(),
            epoch=int(best.get("epoch", epochs - 1)),
            epochs=epochs,
            validation=metrics,
            precision=choose_precision(self.params.precision),
            batch_size=batch_size,
            resumed_at=resumed_at,
        )


@contextmanager
def _reproducible(params: Train) -> Iterator[None]:
    strict, warning = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warning)  # Lightning sets it for the whole process


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's tips and device lines out of the log, and only for this run."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch\.optim)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
