"""From stored pixels to what the network sees: image sets in memory, whole batches, augmentation, normalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from components.errors import DataError
from components.model.images.preprocess import PreprocessSpec
from components.params import Augment

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with labels, in memory.

    images: (N, size, size, channels) uint8. labels: (N,) int64 class indices. weights: (N,) float32, above 0. targets:
    (N, K) float32, shares of each class that are learnt in place of the labels; None: the labels are.
    Raises DataError if the lengths differ or a weight is not a positive number.
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
        if not (np.isfinite(self.weights).all() and (self.weights > 0).all()):
            raise DataError("a training weight is not a positive number; leave the image out instead of weighting it 0")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> ImageSet:
        """Return the set of the given rows, by index or by mask."""
        targets = None if self.targets is None else self.targets[rows]
        return ImageSet(self.images[rows], self.labels[rows], self.weights[rows], targets)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels scaled to 0..1, rounded to six digits.

    images: (N, size, size, channels) uint8. Raises DataError for an empty set.
    """
    if len(images) == 0:
        raise DataError("no images to take the mean and standard deviation of")
    channels = images.shape[-1]
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(channels)])  # (C, 256)
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
    # A constant channel carries nothing; 1 keeps it from being divided by zero.
    std = np.where(std < 1e-3, 1.0, std)
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)


class WholeBatches:
    """An iterable of whole batches of an image set; collating sample by sample would cost more than a small network.

    With `seed`, every pass is a new shuffle, the same on every run, and a lone last image, which batch normalisation
    cannot use, is left to the next pass; without, the set comes once in its order. chances: (N,) above 0; every pass
    then draws as many images as there are, with replacement, in proportion to them.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        seed: int | None = None,
        chances: NDArray[np.float32] | None = None,
    ) -> None:
        self._images = torch.from_numpy(data.images)
        self._targets = torch.from_numpy(data.labels if data.targets is None else data.targets)
        self._weights = torch.from_numpy(data.weights)
        self._batch_size = batch_size
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._edges = None if chances is None else torch.from_numpy(np.cumsum(chances, dtype=np.float64))

    def __len__(self) -> int:
        rows = len(self._targets)
        batches = math.ceil(rows / self._batch_size)
        lone = self._generator is not None and batches > 1 and rows % self._batch_size == 1
        return batches - 1 if lone else batches

    def __iter__(self) -> Iterator[Batch]:
        rows = len(self._targets)
        order = self._order(rows)
        for number in range(len(self)):
            chosen = order[number * self._batch_size : (number + 1) * self._batch_size]
            yield self._images[chosen], self._targets[chosen], self._weights[chosen]

    def _order(self, rows: int) -> Tensor:
        if self._generator is None:
            return torch.arange(rows)
        if self._edges is None:
            return torch.randperm(rows, generator=self._generator)
        # Not torch.multinomial, which refuses more than 2 ** 24 images.
        drawn = torch.rand(rows, generator=self._generator, dtype=torch.float64) * self._edges[-1]
        return torch.searchsorted(self._edges, drawn, right=True).clamp_(max=rows - 1)


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


def augment(images: Tensor, rules: Augment) -> Tensor:
    """Return images (N, size, size, channels) uint8 as varied pixels (N, channels, size, size) float32 in 0..1.

    Every image draws its own change from torch's global generator. A shift is a whole number of pixels, and the edge
    is repeated: a black edge would tell a shifted white-ground image from an unshifted one.
    """
    number = len(images)
    if rules.shift or rules.rotate or rules.flip:
        change = _Moves.drawn(number, images.shape[1], rules, images.device)
        pixels = change.turned(_scaled(images)) if rules.rotate else _scaled(change.shifted(images))
    else:
        pixels = _scaled(images)
    if rules.brightness:
        pixels = pixels * _around_one(number, rules.brightness, pixels)
    if rules.contrast:
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = mean + (pixels - mean) * _around_one(number, rules.contrast, pixels)
    return pixels.clamp_(0, 1)


def _around_one(number: int, width: float, like: Tensor) -> Tensor:
    return 1 + width * (2 * torch.rand(number, 1, 1, 1, device=like.device) - 1)


def _scaled(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True, slots=True)
class _Moves:
    """What is done to N images. angle: (N,) radians. mirror: (N,) -1 or 1. offset: (N, 2) pixels, across and down."""

    angle: Tensor
    mirror: Tensor
    offset: Tensor

    @classmethod
    def drawn(cls, number: int, size: int, rules: Augment, device: torch.device) -> _Moves:
        angle = math.radians(rules.rotate) * (2 * torch.rand(number, device=device) - 1)
        mirror = torch.ones(number, device=device)
        if rules.flip:
            mirror = mirror - 2 * (torch.rand(number, device=device) < 0.5).float()
        offset = torch.round((2 * torch.rand(number, 2, device=device) - 1) * rules.shift * size)
        return cls(angle, mirror, offset)

    def shifted(self, images: Tensor) -> Tensor:
        """Return images (N, size, size, channels) as they are picked from one another's pixels: nothing is mixed."""
        number, size = len(images), images.shape[1]
        steps = torch.arange(size, device=images.device)
        across, down = self.offset.long().unbind(dim=1)
        columns = torch.where(self.mirror[:, None] > 0, steps, size - 1 - steps)  # (N, size)
        columns = (columns + across[:, None]).clamp_(0, size - 1)
        rows = (steps + down[:, None]).clamp_(0, size - 1)
        return images[torch.arange(number, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]

    def turned(self, pixels: Tensor) -> Tensor:
        """Return pixels (N, channels, size, size) turned, mirrored and shifted, interpolated."""
        offset = self.offset * 2 / pixels.shape[-1]  # in grid_sample's units the image spans -1..1
        cosine, sine = torch.cos(self.angle), torch.sin(self.angle)
        top = torch.stack([self.mirror * cosine, -self.mirror * sine, offset[:, 0]], dim=1)
        bottom = torch.stack([sine, cosine, offset[:, 1]], dim=1)
        grid = functional.affine_grid(torch.stack([top, bottom], dim=1), list(pixels.shape), align_corners=False)
        return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
