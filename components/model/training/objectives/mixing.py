"""Two images in one: Mixup (Zhang et al. 2018) adds them up, CutMix (Yun et al. 2019) puts a piece of one into one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from components.params import Augment


class Mixed(NamedTuple):
    """A batch of mixtures. share: how much of each image is of its own row; the rest is of row `other` (N,)."""

    pixels: Tensor
    share: float
    other: Tensor


def mix(pixels: Tensor, rules: Augment) -> Mixed | None:
    """Return images (N, channels, size, size) mixed with one another, or None where `rules` ask for none of it.

    With Mixup and CutMix, every batch is mixed in one way, by chance. Drawn from torch's global generator.
    """
    if not rules.mixup and not rules.cutmix:
        return None
    cut = bool(rules.cutmix) and (not rules.mixup or float(torch.rand(())) < 0.5)
    alpha = rules.cutmix if cut else rules.mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(pixels), device=pixels.device)
    if not cut:
        return Mixed(share * pixels + (1 - share) * pixels[other], share, other)
    side = pixels.shape[-1]
    length = round(side * (1 - share) ** 0.5)
    top, left = (int(torch.randint(0, side - length + 1, ())) for _ in range(2))
    pasted = pixels.clone()
    pasted[:, :, top : top + length, left : left + length] = pixels[other, :, top : top + length, left : left + length]
    return Mixed(pasted, 1 - (length / side) ** 2, other)
