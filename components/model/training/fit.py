"""Training one network on image sets in memory, with Lightning."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_f1_score

from components.errors import DataError
from components.model.images.inputs import Batch, ImageSet, Normalise, WholeBatches, augment
from components.model.images.preprocess import PreprocessSpec
from components.model.training.imbalance import Remedy, losses
from components.model.training.mixing import mix
from components.model.training.progress import MetricsLog, ProgressBar, Recorder
from components.params import Train

WATCHED = "validation_macro_f1"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network, on the CPU and in eval mode, with the weights of its best epoch (the last without validation).

    epoch: number of the epoch the weights are of, from 0. epochs: how many were run. validation: the best epoch's
    metrics, empty without a validation set. precision: "bf16" or "fp32", what the arithmetic was done in.
    """

    network: nn.Module
    epoch: int
    epochs: int
    validation: dict[str, float]
    precision: str


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
) -> Fitted:
    """Return `network` trained on `training`, the same for the same seed, data and machine.

    With `validation`, the epoch with the best macro-F1 is kept, the best `params.keep_checkpoints` are written to
    `checkpoints`, and `params.patience` epochs without a better one end the run. `epochs` overrides the params'.
    remedy: for classes with few images.
    Raises DataError for too few images, and when the loss is not finite, with step, learning rate and batch.
    """
    if len(training) < 2:
        raise DataError(f"{len(training)} images to train on; ingest more, or quarantine and drop fewer")
    if validation is not None and (len(validation) == 0 or checkpoints is None):
        raise DataError("early stopping needs validation images and a folder for checkpoints; ingest more images")
    precision = choose_precision(params.precision)
    chances = None
    if remedy is not None and remedy.kind == "class-weights":
        training = replace(training, weights=training.weights * remedy.of_rows(training.labels))
    elif remedy is not None and remedy.kind == "sampling":
        chances = remedy.of_rows(training.labels)
    with _reproducible(params.seed), _quiet():
        batches = WholeBatches(training, params.batch_size, params.seed, chances)
        steps = (epochs or params.epochs) * len(batches)
        learner = _Learner(network, spec, params, steps, float(training.weights.mean()), remedy)
        callbacks: list[Callback] = [ProgressBar(), *([Recorder(log)] if log else [])]
        keeper = None
        if validation is not None:
            keeper = ModelCheckpoint(
                checkpoints,
                "{epoch:03d}",
                WATCHED,
                mode="max",
                save_top_k=params.keep_checkpoints,
                save_weights_only=True,
            )
            callbacks += [EarlyStopping(WATCHED, mode="max", patience=params.patience), keeper]
        trainer = _trainer(epochs or params.epochs, precision, callbacks, keeper is not None)
        held_back = None if validation is None else WholeBatches(validation, 512)
        trainer.fit(learner, batches, held_back)
    return _fitted(learner, trainer, keeper, precision)


def choose_precision(wanted: Literal["auto", "bf16", "fp32"]) -> Literal["bf16", "fp32"]:
    """Return the arithmetic to train in; "auto" takes bf16 where the hardware has it (measured: 2 times faster)."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    features = torch.cpu.get_capabilities()
    return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"


class _Learner(LightningModule):  # type: ignore[misc] # Lightning is read without its types
    def __init__(
        self,
        network: nn.Module,
        spec: PreprocessSpec,
        params: Train,
        steps: int,
        mean_weight: float,
        remedy: Remedy | None,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.normalise = Normalise(spec)
        self._params, self._steps, self._mean_weight = params, steps, mean_weight
        self._losses = partial(losses, smoothing=params.label_smoothing, remedy=remedy)
        self._predicted: list[Tensor] = []
        self._truth: list[Tensor] = []
        self._held_back: list[Tensor] = []
        self.best: dict[str, float] = {}

    def training_step(self, batch: Batch, number: int) -> Tensor:
        images, targets, weights = batch  # targets: class indices (N,) or shares of every class (N, K)
        pixels = augment(images, self._params.augment)
        mixed = mix(pixels, self._params.augment)
        logits = self.network(self.normalise.scaled(pixels if mixed is None else mixed.pixels)).float()  # (N, K)
        of_rows = weights * self._losses(logits, targets)
        if mixed is not None:
            others = weights[mixed.other] * self._losses(logits, targets[mixed.other])
            of_rows = mixed.share * of_rows + (1 - mixed.share) * others
        # By the set's mean weight, not the batch's: a heavy image counts the same whatever company it is in.
        loss = of_rows.mean() / self._mean_weight
        if not torch.isfinite(loss):
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise DataError(
                f"the loss became {loss.item()} at step {self.global_step}, epoch {self.current_epoch}, "
                f"batch {number}, learning rate {rate:.2g}; lower train.learning_rate or set train.precision to fp32"
            )
        return loss

    def validation_step(self, batch: Batch, _number: int) -> None:
        images, labels, _ = batch
        logits = self.network(self.normalise(images)).float()
        self._held_back.append(functional.cross_entropy(logits, labels, reduction="sum"))
        self._predicted.append(logits.argmax(dim=1))
        self._truth.append(labels)

    def on_validation_epoch_end(self) -> None:
        predicted, truth = torch.cat(self._predicted), torch.cat(self._truth)
        classes = max(int(predicted.max()), int(truth.max()), 1) + 1
        metrics = {
            WATCHED: multiclass_f1_score(predicted, truth, classes, average="macro"),
            "validation_accuracy": (predicted == truth).float().mean(),
            "validation_loss": torch.stack(self._held_back).sum() / len(truth),
        }
        self.log_dict(metrics)
        if float(metrics[WATCHED]) > self.best.get(WATCHED, -1.0):
            self.best = {name: float(value) for name, value in metrics.items()} | {"epoch": self.current_epoch}
        self._predicted, self._truth, self._held_back = [], [], []

    def on_before_optimizer_step(self, _optimizer: torch.optim.Optimizer) -> None:
        # Here and not in the Trainer, which refuses to clip for a fused optimizer.
        nn.utils.clip_grad_norm_(self.network.parameters(), self._params.gradient_clip)

    def configure_optimizers(self) -> Any:
        params, steps = self._params, self._steps
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
        )
        warmup = max(1, round(params.warmup_fraction * steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _trainer(epochs: int, precision: str, callbacks: list[Callback], checkpointing: bool) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=checkpointing,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _fitted(learner: _Learner, trainer: Trainer, keeper: ModelCheckpoint | None, precision: str) -> Fitted:
    metrics = dict(learner.best)
    epoch = int(metrics.pop("epoch", trainer.current_epoch - 1))
    if keeper is not None:
        stored = torch.load(keeper.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        prefix = "network."
        learner.network.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
    return Fitted(learner.network.cpu().eval(), epoch, trainer.current_epoch, metrics, precision)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


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
