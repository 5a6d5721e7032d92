"""Changes to training images that leave their labels true, drawn anew for every image and every pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from components.params import Augment


def augment(images: Tensor, rules: Augment) -> Tensor:
    """Return images (N, size, size, channels) uint8 as varied pixels (N, channels, size, size) float32 in 0..1.

    Every image draws its own change from torch's global generator. A shift is a whole number of pixels, and the edge
    is repeated: a black edge would tell a shifted white-ground image from an unshifted one.
    """
    number = len(images)
    one_by_one = _image_by_image(rules, images.shape[1])
    if one_by_one is not None:
        images = torch.stack([one_by_one(image) for image in images.permute(0, 3, 1, 2)]).permute(0, 2, 3, 1)
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
    if rules.erase:
        pixels = _erased(pixels, rules.erase)
    return pixels.clamp_(0, 1)


@lru_cache(maxsize=8)
def _image_by_image(rules: Augment, size: int) -> Callable[[Tensor], Tensor] | None:
    """Return what torchvision does to one image (channels, size, size) uint8, or None where nothing is asked of it."""
    if rules.policy == "none" and rules.crop == 1 and not rules.saturation and not rules.hue:
        return None
    from torchvision.transforms import v2

    steps: list[Any] = []
    if rules.policy != "none":
        steps.append(v2.TrivialAugmentWide() if rules.policy == "trivial" else v2.RandAugment())
    if rules.crop < 1:
        steps.append(v2.RandomResizedCrop(size, scale=(rules.crop, 1.0), antialias=True))
    if rules.saturation or rules.hue:  # torchvision leaves grey images as they are
        steps.append(v2.ColorJitter(saturation=rules.saturation, hue=rules.hue))
    composed: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return composed


def _erased(pixels: Tensor, share: float) -> Tensor:
    """Return images (N, channels, size, size) with a square of each, partly outside perhaps, in the batch's mean grey.

    DeVries and Taylor 2017.
    """
    size = pixels.shape[-1]
    half = share * size / 2
    centre = torch.rand(len(pixels), 2, device=pixels.device) * size
    steps = torch.arange(size, device=pixels.device) + 0.5
    down, across = ((steps - centre[:, axis, None]).abs() < half for axis in range(2))
    return pixels.masked_fill((down[:, :, None] & across[:, None, :])[:, None], float(pixels.mean()))


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
