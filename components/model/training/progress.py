"""What a training run says while it runs: lines in metrics.jsonl, and a bar where a person is watching."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

from components.model.training.state import RunState

EVERY_STEPS = 50


def _now() -> datetime:
    return datetime.now(UTC)


class MetricsLog:
    """A file of JSON lines, {"step", "epoch", "time", name: value…}, that another process may follow while it grows."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = _now) -> None:
        self.path, self._clock = path, clock

    def write(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Append one line; it is whole on disk when this returns."""
        line = {"step": step, "epoch": epoch, "time": self._clock().isoformat()}
        line |= {name: float(f"{value:.6g}") for name, value in values.items()}  # a rate may be 1e-8
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def resume(self, kept: Path, epochs: int) -> None:
        """Take over the lines of the first `epochs` epochs from the file `kept`, if there is one."""
        if kept.is_file():
            lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if json.loads(line)["epoch"] < epochs]
            self.path.write_text("".join(whole), encoding="utf-8")


class Recorder(Callback):  # type: ignore[misc] # Lightning is read without its types
    """Writes the loss and learning rate every 50 steps, and an epoch's metrics at its end."""

    def __init__(self, log: MetricsLog, state: RunState | None = None) -> None:
        self._log = log
        self._state = state
        self._losses: list[torch.Tensor] = []

    def on_train_start(self, trainer: Trainer, _learner: LightningModule) -> None:
        """Begin with the lines of the epochs that an earlier process ran."""
        if self._state is not None and trainer.is_global_zero:
            self._log.resume(self._state.log, trainer.current_epoch)

    def on_train_batch_end(self, trainer: Trainer, _learner: LightningModule, outputs: Any, *_batch: Any) -> None:
        """Remember the loss, and write it every EVERY_STEPS."""
        self._losses.append(outputs["loss"].detach())
        if trainer.global_step % EVERY_STEPS == 0 and trainer.is_global_zero:
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            values = {"train_loss": float(outputs["loss"]), "learning_rate": rate}
            self._log.write(trainer.global_step, trainer.current_epoch, values)

    def on_train_epoch_end(self, trainer: Trainer, _learner: LightningModule) -> None:
        """Write the epoch's mean training loss and its validation metrics."""
        values = {"epoch_train_loss": float(torch.stack(self._losses).mean())}
        values |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._losses = []
        if trainer.is_global_zero:
            self._log.write(trainer.global_step, trainer.current_epoch, values)
            if self._state is not None:
                shutil.copyfile(self._log.path, self._state.log)


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
