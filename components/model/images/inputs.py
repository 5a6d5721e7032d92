"""From stored pixels to what the network sees: image sets in memory and their normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.errors import DataError
from components.model.images.preprocess import PreprocessSpec
from components.model.images.room import ROWS_AT_ONCE, some_of


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with labels, in memory, or in a file where `room_for` put them.

    images: (N, size, size, channels) uint8. labels: (N,) int64 class indices, or, where images carry several labels,
    (N, K) int64 of 0 and 1. weights: (N,) float32, above 0; of several labels also (N, K), how much each counts, one of
    a row's above 0. targets: (N, K) float32, shares of each class that are learnt in place of the labels; None: the
    labels are. Raises DataError if the lengths differ or a weight is not a positive number.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    targets: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        targets = self.labels if self.targets is None else self.targets
        if not len(self.images) == len(self.labels) == len(self.weights) == len(targets):
            raise DataError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.weights)} weights do not match"
            )
        heaviest = self.weights.max(axis=1, initial=0) if self.weights.ndim == 2 else self.weights
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and (heaviest > 0).all()):
            raise DataError("a training weight is not a positive number; leave the image out instead of weighting it 0")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def several(self) -> bool:
        """Return whether images carry any number of the labels."""
        return self.labels.ndim == 2

    @property
    def inputs(self) -> NDArray[np.uint8]:
        """Return what a training step is given of every row."""
        return self.images

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> ImageSet:
        """Return the set of the given rows, by index or by mask."""
        targets = None if self.targets is None else self.targets[rows]
        return ImageSet(some_of(self.images, rows), self.labels[rows], self.weights[rows], targets)


def channel_statistics(
    images: NDArray[np.uint8], rows: NDArray[np.bool_] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels scaled to 0..1, rounded to six digits.

    images: (N, size, size, channels) uint8. rows: (N,), which of them count; None: all. Raises DataError for none.
    """
    places = np.arange(len(images)) if rows is None else np.flatnonzero(rows)
    if len(places) == 0:
        raise DataError("no images to take the mean and standard deviation of")
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(places), ROWS_AT_ONCE):
        some = images[places[start : start + ROWS_AT_ONCE]]
        counts += np.stack([np.bincount(some[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
    # A constant channel carries nothing; 1 keeps it from being divided by zero.
    std = np.where(std < 1e-3, 1.0, std)
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)


class Normalise(nn.Module):
    """Images (N, size, size, channels) uint8 to normalised (N, channels, size, size) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's input."""
        return self.scaled(images.permute(0, 3, 1, 2).float() / 255)

    def scaled(self, pixels: Tensor) -> Tensor:
        """Return pixels (N, channels, size, size) in 0..1, normalised."""
        return (pixels - self.mean) / self.std
