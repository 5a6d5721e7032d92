"""What is done where some classes have far more images than others: one remedy at a time, on training images alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from components.errors import ConfigurationError
from components.params import Imbalance

Kind = Literal["class-weights", "focal", "sampling"]


@dataclass(frozen=True, slots=True)
class Remedy:
    """How classes are balanced. factors: (K,) float32, how much more a class's images count, or are drawn.

    gamma: of the focal loss, how much less an image counts that is answered right with confidence already.
    """

    kind: Kind
    factors: NDArray[np.float32]
    gamma: float = 0.0

    def of_rows(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the factor of every row's class (N,).

        Of labels (N, K) of 0 and 1 the largest factor that one of a row's has; 1 where it has none.
        """
        if labels.ndim == 1:
            return self.factors[labels]
        largest = np.where(labels > 0, self.factors, 0.0).max(axis=1)
        return np.where(largest > 0, largest, 1.0).astype(np.float32)

    def counted(
        self, labels: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return how much every row counts, as `weights`, and how often it is drawn (N,), or None where all alike."""
        if self.kind == "class-weights":
            factors = self.of_rows(labels)
            return weights * (factors if weights.ndim == 1 else factors[:, None]), None
        return weights, self.of_rows(labels) if self.kind == "sampling" else None


def remedy_for(
    labels: NDArray[np.int64], weights: NDArray[np.float32], classes: Sequence[str], rules: Imbalance
) -> Remedy | None:
    """Return the remedy that `rules` ask for on training rows (N,), or of several labels each (N, K), or None.

    A class's factor is how far its share of the weights lies below an equal one, to the power of `rules.strength`, or
    what `rules.factors` says; they are scaled so that together the rows count as much as before. A class without rows
    has factor 1. Raises ConfigurationError for factors of a class that does not exist.
    """
    if rules.remedy == "none":
        return None
    counted = np.bincount(labels, weights, len(classes)) if labels.ndim == 1 else _carried(labels, weights)
    there = counted > 0
    equal = counted.sum() / there.sum()
    factors = np.ones(len(classes))
    factors[there] = (equal / counted[there]) ** rules.strength
    for name, factor in _known(rules.factors, classes).items():
        factors[classes.index(name)] = factor
    factors /= (factors * counted).sum() / counted.sum()
    return Remedy(rules.remedy, np.where(there, factors, 1.0).astype(np.float32), rules.gamma)


def _carried(labels: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how much the rows count that carry each label (K,)."""
    counted = weights if weights.ndim == 2 else weights[:, None]
    return np.asarray((labels * counted).sum(axis=0, dtype=np.float64))


def _known(factors: Mapping[str, float], classes: Sequence[str]) -> Mapping[str, float]:
    unknown = sorted(factors.keys() - set(classes))
    if unknown:
        raise ConfigurationError(f"train.imbalance.factors names {unknown!r}; the classes are {list(classes)!r}")
    return factors


def losses(logits: Tensor, targets: Tensor, *, smoothing: float, remedy: Remedy | None) -> Tensor:
    """Return every row's loss (N,): cross-entropy, or the focal loss (Lin et al. 2017) where that is the remedy.

    logits: (N, K). targets: class indices (N,), or shares of every class (N, K). smoothing: the share of each row's
    target that is spread over all classes.
    """
    if remedy is None or remedy.kind != "focal":
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    classes = logits.shape[1]
    shares = functional.one_hot(targets, classes).to(logits.dtype) if targets.ndim == 1 else targets
    shares = shares * (1 - smoothing) + smoothing / classes
    log_likely = functional.log_softmax(logits, dim=1)
    alpha = torch.from_numpy(remedy.factors).to(logits.device)
    return -(shares * alpha * (1 - log_likely.exp()) ** remedy.gamma * log_likely).sum(dim=1)
