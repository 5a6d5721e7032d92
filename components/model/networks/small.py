"""Networks of our own for small images, trained from nothing. They answer to the calls that timm networks know."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

SMALL_CNN = "small_cnn"
MEDIUM_CNN = "medium_cnn"
FINAL_SIDE = 7  # pixels a side near which the small one stops halving
LARGEST_SIDE = 48  # that the medium one looks at closely
STEM_WIDTH = 24


class SmallNetwork(nn.Module):
    """Layers that see, `body`, and one that answers, `classifier`, from the map as it lies.

    Of few layers on small, centred images that is worth four points over averaging the places out.
    """

    def __init__(self, body: nn.Sequential, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised images (N, channels, size, size)."""
        return self.forward_head(self.forward_features(inputs))

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Return the map (N, width, side, side) that the classifier sees."""
        seen: Tensor = self.body(inputs)
        return seen

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or what the classifier is given (N, D)."""
        embedding: Tensor = self.dropout(features.flatten(1))
        if pre_logits:
            return embedding
        logits: Tensor = self.classifier(embedding)
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the layer that answers."""
        return self.classifier

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002  (timm's way of calling it)
        """Return how timm divides the layers into groups, from the first to the last."""
        return {"blocks": r"^body\.\D+(\d+)"}


def small_cnn(classes: int, channels: int, size: int, dropout: float) -> SmallNetwork:
    """Return a plain VGG-like network: 5.7 million multiply-adds at 28 pixels and one channel.

    It halves the image until 5 to 10 pixels are left a side.
    """
    halvings = _halvings(size)
    widths = [32, 64, 64, *[128] * halvings][: halvings + 1]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, side = channels, size
    for stage, width in enumerate(widths):
        layers[f"conv{stage}"] = nn.Conv2d(before, width, 3, padding=1, bias=False)
        if stage < halvings:  # before the norm: a quarter of the memory traffic, half the time on a CPU
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            side //= 2
        layers[f"norm{stage}"] = nn.BatchNorm2d(width)
        layers[f"act{stage}"] = nn.ReLU(inplace=True)
        before = width
    return SmallNetwork(nn.Sequential(layers), before * side * side, classes, dropout)


def medium_cnn(classes: int, channels: int, size: int, dropout: float) -> SmallNetwork:
    """Return a network of two convolutions a stage: ten times the work of `small_cnn` at 28 pixels for a point or two.

    It sees the image at its full size first, halved beforehand where that is more than 48 pixels, and keeps of every
    feature how strong it is where it is strongest. Wide, early-pooled stages as in Jordan 2024, "94 % on CIFAR-10".
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, side, first = channels, size, max(0, math.ceil(math.log2(size / LARGEST_SIDE)))
    for number in range(max(1, first)):
        layers[f"stem{number}"] = nn.Sequential(*_convolution(before, STEM_WIDTH, pooled=number < first))
        before, side = STEM_WIDTH, side // 2 if number < first else side
    for number, width in enumerate((64, 128, 256), start=max(1, first)):
        if side > 1:
            layers[f"halved{number}"] = nn.Sequential(*_convolution(before, width, pooled=True))
            layers[f"seen{number}"] = nn.Sequential(*_convolution(width, width))
            before, side = width, side // 2
    layers["strongest"] = nn.AdaptiveMaxPool2d(1)
    return SmallNetwork(nn.Sequential(layers), before, classes, dropout)


def _halvings(size: int) -> int:
    return max(1, round(math.log2(size / FINAL_SIDE)))


def _convolution(before: int, width: int, *, pooled: bool = False) -> list[nn.Module]:
    halved = [nn.MaxPool2d(2)] if pooled else []
    return [
        nn.Conv2d(before, width, 3, padding=1, bias=False), *halved, nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    ]  # fmt: skip


SMALL_NETWORKS = {SMALL_CNN: small_cnn, MEDIUM_CNN: medium_cnn}
