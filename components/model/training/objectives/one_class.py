"""What a training run minimises, and what it is judged by between epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from components.model.training.objectives.imbalance import Remedy, losses

MACRO_F1 = "validation_macro_f1"


class Tally(Protocol):
    """The answers to a validation set, collected batch by batch."""

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in the answers (n, K) to n rows."""

    def metrics(self) -> dict[str, Tensor]:
        """Return every metric of what was taken in, `Objective.watched` among them."""


class Objective(Protocol):
    """watched: the validation metric that epochs are compared by; higher is better."""

    @property
    def watched(self) -> str:
        """Return the name of the metric that epochs are compared by."""

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return every row's loss (N,), times its weight."""

    def tally(self) -> Tally:
        """Return an empty tally."""


@dataclass(frozen=True, slots=True)
class OneLabel:
    """Cross-entropy, or the remedy's loss, for images of exactly one class each; watched is macro-F1."""

    smoothing: float
    remedy: Remedy | None = None

    @property
    def watched(self) -> str:
        """Return the name of the metric that epochs are compared by."""
        return MACRO_F1

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return every row's loss (N,), times its weight (N,).

        targets: class indices (N,), or shares of every class (N, K).
        """
        return weights * losses(logits, targets, smoothing=self.smoothing, remedy=self.remedy)

    def tally(self) -> OneLabelTally:
        """Return an empty tally."""
        return OneLabelTally()


@dataclass(slots=True)
class OneLabelTally:
    """Macro-F1, accuracy and cross-entropy of one answer an image."""

    _predicted: list[Tensor] = field(default_factory=list)
    _truth: list[Tensor] = field(default_factory=list)
    _losses: list[Tensor] = field(default_factory=list)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in the answers (n, K) to n rows with class indices (n,)."""
        self._losses.append(functional.cross_entropy(logits, targets, reduction="sum"))
        self._predicted.append(logits.argmax(dim=1))
        self._truth.append(targets)

    def metrics(self) -> dict[str, Tensor]:
        """Return macro-F1 over the classes that are there or predicted, accuracy and mean loss."""
        from torchmetrics.functional.classification import multiclass_f1_score

        predicted, truth = torch.cat(self._predicted), torch.cat(self._truth)
        classes = max(int(predicted.max()), int(truth.max()), 1) + 1
        return {
            MACRO_F1: multiclass_f1_score(predicted, truth, classes, average="macro"),
            "validation_accuracy": (predicted == truth).float().mean(),
            "validation_loss": torch.stack(self._losses).sum() / len(truth),
        }
