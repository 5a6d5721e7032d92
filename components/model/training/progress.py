"""What a training run says while it runs: lines in metrics.jsonl, and a bar where a person is watching."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

EVERY_STEPS = 50


class MetricsLog:
    """A file of JSON lines, {"step", "epoch", "time", name: value…}, that another process may follow while it grows."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._path, self._clock = path, clock

    def write(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Append one line; it is whole on disk when this returns."""
        line = {"step": step, "epoch": epoch, "time": self._clock().isoformat()}
        line |= {name: round(value, 6) for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Recorder(Callback):  # type: ignore[misc] # Lightning is read without its types
    """Writes the loss and learning rate every 50 steps, and an epoch's metrics at its end."""

    def __init__(self, log: MetricsLog) -> None:
        self._log = log
        self._losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, _learner: LightningModule, outputs: Any, *_batch: Any) -> None:
        """Remember the loss, and write it every EVERY_STEPS."""
        self._losses.append(outputs["loss"].detach())
        if trainer.global_step % EVERY_STEPS == 0:
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            values = {"train_loss": float(outputs["loss"]), "learning_rate": rate}
            self._log.write(trainer.global_step, trainer.current_epoch, values)

    def on_train_epoch_end(self, trainer: Trainer, _learner: LightningModule) -> None:
        """Write the epoch's mean training loss and its validation metrics."""
        values = {"epoch_train_loss": float(torch.stack(self._losses).mean())}
        values |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._log.write(trainer.global_step, trainer.current_epoch, values)
        self._losses = []


class ProgressBar(Callback):  # type: ignore[misc] # Lightning is read without its types
    """A bar over the steps on stderr, if that is a terminal."""

    def on_train_start(self, trainer: Trainer, _learner: LightningModule) -> None:
        """Open the bar."""
        total = int(trainer.estimated_stepping_batches)
        self._bar = tqdm(total=total, desc="training", unit="step", file=sys.stderr, disable=not sys.stderr.isatty())

    def on_train_batch_end(self, *_step: Any) -> None:
        """Advance the bar."""
        self._bar.update()

    def on_train_end(self, _trainer: Trainer, _learner: LightningModule) -> None:
        """Close the bar."""
        self._bar.close()
