"""Accuracy under corruption, under attack, and over five looks at an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from components.evaluation.examination.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from components.evaluation.metrics.confusion import Confusion
from components.evaluation.metrics.one_class import macro_f1, wilson
from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec

UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]
Answer = Callable[[UInt8Array], FloatArray]
"""From images (N, size, size, channels) uint8 to probabilities (N, K)."""
Right = Callable[[UInt8Array], BoolArray]
"""From so changed images to whether each (N,) is answered right."""

SHIFT = 0.04  # of the side, of a further look


@dataclass(frozen=True, slots=True)
class Target:
    """What an attacker drives up, summed over images, and which images are answered right, of logits and truth."""

    loss: Callable[[Tensor, Tensor], Tensor]
    right: Callable[[Tensor, Tensor], Tensor]


ONE_CLASS = Target(
    partial(functional.cross_entropy, reduction="sum"), lambda logits, truth: logits.argmax(dim=1) == truth
)
"""One class an image; truth: (N,) class indices."""


def corrupted_accuracy(right: Right, images: UInt8Array) -> dict[str, Any]:
    """Return the accuracy on N > 0 clean images, and for every corruption that at each of its five severities."""
    found = {
        kind: [round(float(right(corrupt(kind, images, severity)).mean()), 5) for severity in SEVERITIES]
        for kind in CORRUPTIONS
    }
    mean = float(np.mean(list(found.values())))
    return {
        "images": len(images),
        "clean": right_share(right(images)),
        "corruptions": found,
        "mean": round(mean, 5),
    }


def attacked_accuracy(
    network: nn.Module,
    spec: PreprocessSpec,
    images: UInt8Array,
    labels: IntArray,
    *,
    epsilon: float,
    steps: int,
    target: Target = ONE_CLASS,
) -> dict[str, Any]:
    """Return the accuracy on N > 0 images that an attacker changed, who knows the network.

    No pixel changes by more than `epsilon`, of 0..1. "fgsm" takes one step (Goodfellow et al. 2015), "pgd" `steps`
    smaller ones from a random start (Madry et al. 2018); an image counts as right only where every step failed.
    labels: what `target` holds logits against.
    """
    device = next(network.parameters()).device
    normalise = Normalise(spec).to(device)
    clean = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    truth = torch.from_numpy(labels).to(device)

    def answered(pixels: Tensor) -> Tensor:
        return torch.as_tensor(network(normalise.scaled(pixels)).float())

    def uphill(pixels: Tensor) -> Tensor:
        pixels = pixels.detach().requires_grad_(True)
        return torch.autograd.grad(target.loss(answered(pixels), truth), pixels)[0].sign()

    def moved(pixels: Tensor, step: float) -> Tensor:
        further = pixels + step * uphill(pixels)
        return torch.minimum(torch.maximum(further, clean - epsilon), clean + epsilon).clamp(0, 1)

    def is_right(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return target.right(answered(pixels), truth)

    network.eval()
    right = is_right(clean)
    once = right & is_right(moved(clean, epsilon))
    generator = torch.Generator().manual_seed(0)
    noise = (2 * torch.rand(clean.shape, generator=generator) - 1).to(device)
    pixels, held = (clean + epsilon * noise).clamp(0, 1), once
    for _ in range(steps):
        pixels = moved(pixels, 2.5 * epsilon / steps)
        held = held & is_right(pixels)
    shares = {
        name: round(float(one.float().mean()), 5) for name, one in (("clean", right), ("fgsm", once), ("pgd", held))
    }
    return {"images": len(labels), "epsilon": epsilon, "steps": steps, **shares}


def looked_at_five_times(
    answer: Answer, images: UInt8Array, scores: Callable[[FloatArray], dict[str, Any]], *, flip: bool
) -> dict[str, Any]:
    """Return the scores of one look at N > 0 images, and of the mean probabilities of five.

    flip: two of the further looks are mirrored, which is right only where training mirrored images, too.
    """
    first = total = answer(images)
    for view in further_views(images, flip=flip):
        total = total + answer(view)
    return {"images": len(images), "views": 5, "flip": flip, "once": scores(first), "averaged": scores(total / 5)}


def further_views(images: UInt8Array, *, flip: bool) -> list[UInt8Array]:
    """Return four looks at images (N, size, size, channels): shifted to each side, the edge repeated; two mirrored."""
    side = images.shape[1]
    step = max(1, round(SHIFT * side))
    steps = np.arange(side)
    moved = [np.clip(steps + way * step, 0, side - 1) for way in (-1, 1)]
    views = [images[:, :, moved[0]], images[:, :, moved[1]], images[:, moved[0]], images[:, moved[1]]]
    if flip:
        views[1], views[3] = views[1][:, :, ::-1], views[3][:, :, ::-1]
    return [np.ascontiguousarray(view) for view in views]


def right_share(right: BoolArray) -> dict[str, float]:
    """Return the share of N > 0 images that are answered right (N,), with Wilson's interval."""
    hits = int(right.sum())
    low, high = wilson(hits, len(right))
    return {"value": round(hits / len(right), 5), "low": round(low, 5), "high": round(high, 5)}


def class_scores(labels: IntArray, probabilities: FloatArray) -> dict[str, Any]:
    """Return accuracy, macro-F1 and Brier score of probabilities (N, K), one class (N,) an image."""
    truth, predicted = probabilities[np.arange(len(labels)), labels], probabilities.argmax(axis=1)
    return {
        "accuracy": right_share(predicted == labels),
        "macro_f1": round(macro_f1(Confusion.of(labels, predicted, probabilities.shape[1])), 5),
        "brier": round(float((1 - 2 * truth + (probabilities**2).sum(axis=1)).mean()), 5),
    }
