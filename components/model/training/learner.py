"""One training step and one validation pass, as Lightning asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from components.errors import DataError
from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.training.augmentation import augment
from components.model.training.batches import Batch, WholeBatches, seed_of
from components.model.training.objectives.mixing import mix
from components.model.training.objectives.one_class import Objective
from components.model.training.rates import LayerGroups, Rates, clip, optimizer_and_schedule, still_if_frozen
from components.params import Augment, Train

SAVED_AS = "perennial"


class Inputs(Protocol):
    """From what a batch holds to what the network takes. A torch module, so that it moves with the network."""

    def for_training(self, batch: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Return the network's input (n, …), and, where rows are mixed, each one's other row (n,) and its own share."""

    def for_judging(self, batch: Tensor) -> Tensor:
        """Return the network's input (n, …)."""


class PixelInputs(nn.Module):
    """Images (n, size, size, channels) uint8, varied and mixed in training, and normalised."""

    def __init__(self, spec: PreprocessSpec, rules: Augment) -> None:
        super().__init__()
        self._normalise = Normalise(spec)
        self._rules = rules

    def for_training(self, batch: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Return the network's input, and how rows are mixed."""
        pixels = augment(batch, self._rules)
        mixed = mix(pixels, self._rules)
        if mixed is None:
            return self._normalise.scaled(pixels), None, 1.0
        return self._normalise.scaled(mixed.pixels), mixed.other, mixed.share

    def for_judging(self, batch: Tensor) -> Tensor:
        """Return the network's input."""
        scaled: Tensor = self._normalise(batch)
        return scaled


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a run is made of beside its data. steps: of the optimizer. weight: the training rows' mean one."""

    params: Train
    objective: Objective
    rates: Rates
    steps: int
    weight: float


class Learner(LightningModule):  # type: ignore[misc] # Lightning is read without its types
    """A network that learns. best: the metrics and the number of the best epoch so far."""

    def __init__(self, network: nn.Module, inputs: nn.Module, batches: WholeBatches, recipe: Recipe) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.inputs: Any = inputs
        self.best: dict[str, float] = {}
        self._batches, self._recipe = batches, recipe
        self._layers = LayerGroups(network, apart=recipe.rates.differ)
        self._tally = recipe.objective.tally()

    def on_fit_start(self) -> None:
        """Take this process's part of every batch."""
        self._batches.share = (self.global_rank, self.trainer.world_size)

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """Return the loss. Raises DataError, with step, rate and batch, where it is not finite."""
        if number == 0:
            self._begin_epoch()
        inputs, targets, weights = batch
        prepared, other, share = self.inputs.for_training(inputs)
        logits = self.network(prepared).float()  # (n, K)
        objective = self._recipe.objective
        of_rows = objective.losses(logits, targets, weights)
        if other is not None:
            of_rows = share * of_rows + (1 - share) * objective.losses(logits, targets[other], weights[other])
        # By the set's mean weight, not the batch's: a heavy image counts the same whatever company it is in. By the
        # whole batch's rows: processes average their gradients, and theirs may not be equal parts.
        rows = self._batches.rows_of(number) / self.trainer.world_size
        loss: Tensor = of_rows.sum() / (rows * self._recipe.weight)
        if not torch.isfinite(loss):
            rate = self.trainer.optimizers[0].param_groups[-1]["lr"]
            raise DataError(
                f"the loss became {loss.item()} at step {self.global_step}, epoch {self.current_epoch}, "
                f"batch {number}, learning rate {rate:.2g}; lower train.learning_rate or set train.precision to fp32"
            )
        return loss

    def _begin_epoch(self) -> None:
        # Not from a generator that goes on from epoch to epoch: a resumed run is to draw what a whole one would.
        torch.manual_seed(seed_of(self._recipe.params.seed, self.current_epoch, self.global_rank))
        if self._recipe.rates.unfreeze_every:
            self.network.train()
            self._layers.freeze(self.current_epoch, self._recipe.rates)

    def train(self, mode: bool = True) -> Learner:
        """Go to training mode, but for frozen layers; or to evaluation mode."""
        super().train(mode)
        if mode:
            still_if_frozen(self.network)
        return self

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._tally = self._recipe.objective.tally()

    def validation_step(self, batch: Batch, _number: int) -> None:
        """Take in the answers to a batch."""
        inputs, targets, _ = batch
        self._tally.add(self.network(self.inputs.for_judging(inputs)).float(), targets)

    def on_validation_epoch_end(self) -> None:
        """Tell the metrics, and remember them if they are the best."""
        metrics = self._tally.metrics()
        self.log_dict(metrics)
        watched = self._recipe.objective.watched
        if float(metrics[watched]) > self.best.get(watched, -1.0):
            self.best = {name: float(value) for name, value in metrics.items()} | {"epoch": self.current_epoch}

    def on_before_optimizer_step(self, _optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients."""
        # Here and not in the Trainer, which refuses to clip for a fused optimizer.
        clip(self.network, self._recipe.params.gradient_clip)

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule."""
        recipe = self._recipe
        return optimizer_and_schedule(
            self._layers, recipe.rates, recipe.params, steps=recipe.steps, watched=recipe.objective.watched
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run must know: the best epoch, and whether early stopping has ended the run."""
        checkpoint[SAVED_AS] = {"best": self.best, "ended": bool(self.trainer.should_stop)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the best epoch up again."""
        self.best = dict(checkpoint[SAVED_AS]["best"])
