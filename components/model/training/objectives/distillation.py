"""Knowledge distillation: a small network learns what a large one says of every image, not its label alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from components.errors import ConfigurationError, DataError
from components.model.answering import predict_logits
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import restore
from components.model.training.objectives.one_class import Objective, Tally


@dataclass(frozen=True, slots=True, eq=False)
class Teaching:
    """What a teacher says of N training images, and how much it counts.

    logits: (N, K) float32, of the images as they are. alpha: the teacher's share of the loss, in 0..1; the labels have
    the rest. temperature: above 0; the higher, the more the teacher's lesser classes count.
    Raises ConfigurationError for a share or a temperature out of range.
    """

    logits: NDArray[np.float32]
    alpha: float
    temperature: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not self.temperature > 0:
            raise ConfigurationError(
                f"distillation with alpha {self.alpha} and temperature {self.temperature}; alpha is in 0..1, the "
                "temperature above 0"
            )

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Return the teaching of the given rows, by index or by mask."""
        return type(self)(self.logits[rows], self.alpha, self.temperature)


def distilled(losses: Tensor, logits: Tensor, teacher: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """Return each image's loss (N,): alpha T² KL(teacher/T || student/T) + (1 - alpha) of its own loss.

    losses: (N,), what the student loses by the labels. logits, teacher: (N, K), of student and teacher. T², as the
    softened gradients shrink with it. Hinton, Vinyals and Dean 2015.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    wanted = functional.log_softmax(teacher / temperature, dim=1)
    apart = functional.kl_div(student, wanted, reduction="none", log_target=True).sum(dim=1)
    return alpha * temperature**2 * apart + (1 - alpha) * losses


@dataclass(frozen=True, slots=True)
class Taught:
    """The loss of a network that has a teacher; `labels` is what it would minimise without one. An `Objective`."""

    labels: Objective
    alpha: float
    temperature: float

    @property
    def watched(self) -> str:
        """Return the name of the metric that epochs are compared by."""
        return self.labels.watched

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return every row's loss (N,), times its weight (N,). targets: (N, 1 + K) or (N, 2 K), of `lesson`."""
        classes = logits.shape[1]
        said, own = targets[:, -classes:], targets[:, :-classes]
        # A class index, or shares of every class.
        alike = torch.ones_like(weights)
        losses = self.labels.losses(logits, own[:, 0].long() if own.shape[1] == 1 else own, alike)
        return weights * distilled(losses, logits, said, alpha=self.alpha, temperature=self.temperature)

    def tally(self) -> Tally:
        """Return an empty tally; validation rows have labels alone."""
        return self.labels.tally()


def lesson(training: ImageSet, teaching: Teaching) -> ImageSet:
    """Return `training` with targets that hold what is learnt of the labels, and after it the teacher's logits.

    Raises DataError if the teacher spoke of another number of images.
    """
    if len(training) != len(teaching.logits):
        raise DataError(f"{len(training)} images, and a teacher that spoke of {len(teaching.logits)}")
    own = training.labels[:, None].astype(np.float32) if training.targets is None else training.targets
    return replace(training, targets=np.hstack([own, teaching.logits]).astype(np.float32))


def teach(
    folder: Path,
    pixels: Callable[[PreprocessSpec], NDArray[np.uint8]],
    classes: tuple[str, ...],
    *,
    alpha: float,
    temperature: float,
) -> Teaching:
    """Return what the trained model in `folder` says of the images that `pixels` gives as that model wants them.

    It says it once, before training: a teacher asked again for every augmented image would cost the time of a large
    network in every epoch, and what is varied here (a shift, a mirroring) does not change what an image shows.
    classes: the student's; the teacher must know each, in any order, and may know others. Raises ConfigurationError if
    it does not, IntegrityError and RefusedError as `restore`.
    """
    network, spec = restore(folder)
    missing = [name for name in classes if name not in spec.classes]
    if missing:
        raise ConfigurationError(
            f"the teacher in {folder} does not know {', '.join(map(repr, missing[:5]))}; train it on these classes"
        )
    logits = predict_logits(network, pixels(spec.preprocess), spec.preprocess)
    places = [spec.classes.index(name) for name in classes]
    return Teaching(np.ascontiguousarray(logits[:, places]), alpha, temperature)
