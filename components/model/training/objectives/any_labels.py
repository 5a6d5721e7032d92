"""What training minimises where an image carries any number of the labels: a question of its own for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from components.model.average_precision import mean_average_precision
from components.model.images.inputs import ImageSet
from components.model.training.objectives.imbalance import Remedy
from components.model.training.objectives.one_class import Objective, OneLabel

MEAN_AP = "validation_map"


def objective_for(data: ImageSet, smoothing: float, remedy: Remedy | None = None) -> Objective:
    """Return what is minimised on these images: one label each, or any number of them."""
    return AnyLabels(smoothing, remedy) if data.several else OneLabel(smoothing, remedy)


@dataclass(frozen=True, slots=True)
class AnyLabels:
    """Binary cross-entropy, or its focal form, over all labels; epochs are compared by mean average precision."""

    smoothing: float
    remedy: Remedy | None = None

    @property
    def watched(self) -> str:
        """Return the name of the metric that epochs are compared by."""
        return MEAN_AP

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return every row's loss (N,), the mean over labels, each times its weight.

        logits, targets: (N, K), the latter 0 and 1 or shares between. weights: (N,), or (N, K) where labels of one
        image count differently. Half of `smoothing` moves to the other answer. The focal form is that of Lin et al.
        2017; a label's factor weighs the images that carry it.
        """
        counted = weights if weights.ndim == 2 else weights[:, None]
        shares = targets.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
        if self.remedy is None or self.remedy.kind != "focal":
            plain = functional.binary_cross_entropy_with_logits(logits, shares, reduction="none")
            return (counted * plain).mean(dim=1)
        alpha = torch.from_numpy(self.remedy.factors).to(logits.device)
        likely = torch.sigmoid(logits)
        there = alpha * shares * (1 - likely) ** self.remedy.gamma * functional.logsigmoid(logits)
        absent = (1 - shares) * likely**self.remedy.gamma * functional.logsigmoid(-logits)
        return -(counted * (there + absent)).mean(dim=1)

    def tally(self) -> AnyLabelsTally:
        """Return an empty tally."""
        return AnyLabelsTally()


@dataclass(slots=True)
class AnyLabelsTally:
    """Mean average precision, exact matches and cross-entropy of sets of labels."""

    _logits: list[Tensor] = field(default_factory=list)
    _truth: list[Tensor] = field(default_factory=list)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in the answers (n, K) to n rows of 0 and 1 (n, K)."""
        self._logits.append(logits)
        self._truth.append(targets)

    def metrics(self) -> dict[str, Tensor]:
        """Return mAP over the labels that are there, the share of images all of whose labels are right, mean loss."""
        logits, truth = torch.cat(self._logits), torch.cat(self._truth)
        ranked = mean_average_precision(truth.cpu().numpy(), logits.cpu().numpy())
        right = (logits > 0) == (truth > 0)
        return {
            # Without a single label in the validation set nothing is ranked: then every epoch is as good.
            MEAN_AP: torch.tensor(0.0 if math.isnan(ranked) else ranked),
            "validation_exact_match": right.all(dim=1).float().mean(),
            "validation_loss": functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype)),
        }
