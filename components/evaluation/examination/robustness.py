"""Accuracy under corruption, under attack, and over five looks at an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from components.evaluation.examination.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from components.evaluation.metrics.confusion import Confusion
from components.evaluation.metrics.one_class import macro_f1, wilson
from components.model.calibration import softmax
from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec

UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating]
Answer = Callable[[UInt8Array], FloatArray]
"""From images (N, size, size, channels) uint8 to logits (N, K)."""

SHIFT = 0.04  # of the side, of a further look


def corrupted_accuracy(answer: Answer, images: UInt8Array, labels: IntArray) -> dict[str, Any]:
    """Return the accuracy on N > 0 clean images, and for every corruption that at each of its five severities."""
    found = {
        kind: [_share(answer(corrupt(kind, images, severity)), labels) for severity in SEVERITIES]
        for kind in CORRUPTIONS
    }
    mean = float(np.mean(list(found.values())))
    return {
        "images": len(labels),
        "clean": _interval(answer(images), labels),
        "corruptions": found,
        "mean": round(mean, 5),
    }


def attacked_accuracy(
    network: nn.Module, spec: PreprocessSpec, images: UInt8Array, labels: IntArray, *, epsilon: float, steps: int
) -> dict[str, Any]:
    """Return the accuracy on N > 0 images that an attacker changed, who knows the network.

    No pixel changes by more than `epsilon`, of 0..1. "fgsm" takes one step (Goodfellow et al. 2015), "pgd" `steps`
    smaller ones from a random start (Madry et al. 2018); an image counts as right only where every step failed.
    """
    device = next(network.parameters()).device
    normalise = Normalise(spec).to(device)
    clean = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    truth = torch.from_numpy(labels).to(device)

    def answered(pixels: Tensor) -> Tensor:
        return torch.as_tensor(network(normalise.scaled(pixels)).float())

    def uphill(pixels: Tensor) -> Tensor:
        pixels = pixels.detach().requires_grad_(True)
        loss = functional.cross_entropy(answered(pixels), truth, reduction="sum")
        return torch.autograd.grad(loss, pixels)[0].sign()

    def moved(pixels: Tensor, step: float) -> Tensor:
        further = pixels + step * uphill(pixels)
        return torch.minimum(torch.maximum(further, clean - epsilon), clean + epsilon).clamp(0, 1)

    network.eval()
    right = _right(answered, clean, truth)
    once = right & _right(answered, moved(clean, epsilon), truth)
    generator = torch.Generator().manual_seed(0)
    noise = (2 * torch.rand(clean.shape, generator=generator) - 1).to(device)
    pixels, held = (clean + epsilon * noise).clamp(0, 1), once
    for _ in range(steps):
        pixels = moved(pixels, 2.5 * epsilon / steps)
        held = held & _right(answered, pixels, truth)
    shares = {
        name: round(float(one.float().mean()), 5) for name, one in (("clean", right), ("fgsm", once), ("pgd", held))
    }
    return {"images": len(labels), "epsilon": epsilon, "steps": steps, **shares}


def looked_at_five_times(
    answer: Answer, images: UInt8Array, labels: IntArray, *, temperature: float, flip: bool
) -> dict[str, Any]:
    """Return accuracy, macro-F1 and Brier score of one look at N > 0 images, and of five averaged.

    flip: two of the further looks are mirrored, which is right only where training mirrored images, too.
    """
    first = total = softmax(answer(images), temperature)
    for view in further_views(images, flip=flip):
        total = total + softmax(answer(view), temperature)
    return {
        "images": len(labels),
        "views": 5,
        "flip": flip,
        "once": _scores(first, labels),
        "averaged": _scores(total / 5, labels),
    }


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


def _right(answered: Callable[[Tensor], Tensor], pixels: Tensor, truth: Tensor) -> Tensor:
    with torch.inference_mode():
        return answered(pixels).argmax(dim=1) == truth


def _share(logits: FloatArray, labels: IntArray) -> float:
    return round(float((logits.argmax(axis=1) == labels).mean()), 5)


def _interval(scores: FloatArray, labels: IntArray) -> dict[str, float]:
    hits = int((scores.argmax(axis=1) == labels).sum())
    low, high = wilson(hits, len(labels))
    return {"value": round(hits / len(labels), 5), "low": round(low, 5), "high": round(high, 5)}


def _scores(probabilities: FloatArray, labels: IntArray) -> dict[str, Any]:
    truth = probabilities[np.arange(len(labels)), labels]
    counts = Confusion.of(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    return {
        "accuracy": _interval(probabilities, labels),
        "macro_f1": round(macro_f1(counts), 5),
        "brier": round(float((1 - 2 * truth + (probabilities**2).sum(axis=1)).mean()), 5),
    }
