"""Networks of our own for small images, trained from nothing. They answer to the calls that timm networks know."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

SMALL_CNN = "small_cnn"
SMALL_RESNET = "small_resnet"
FINAL_SIDE = 7  # pixels a side near which they stop halving


class SmallNetwork(nn.Module):
    """Layers that see, `body`, and one that answers, `classifier`, from the map as it lies.

    On small, centred images that is worth four points over averaging the places out.
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


class Residual(nn.Module):
    """Two convolutions, whose result is added to what they were given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_convolution(width, width), *_convolution(width, width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return maps of the same shape."""
        seen: Tensor = inputs + self.inner(inputs)
        return seen


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


def small_resnet(classes: int, channels: int, size: int, dropout: float) -> SmallNetwork:
    """Return a residual network, eight times the work of `small_cnn` at 28 pixels for a point or two more.

    It begins with pixels in fours, not with a convolution at full size, which would cost a third of all time.
    """
    halvings = max(2, _halvings(size))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["fours0"] = nn.PixelUnshuffle(2)
    layers["stem0"] = nn.Sequential(*_convolution(4 * channels, 64))
    layers["residual0"] = Residual(64)
    before, side = 64, size // 2
    for stage in range(1, halvings):
        width = min(256, 2 * before)
        layers[f"wider{stage}"] = nn.Sequential(*_convolution(before, width, pooled=True))
        layers[f"residual{stage}"] = Residual(width)
        before, side = width, side // 2
    layers[f"pool{halvings}"] = nn.MaxPool2d(2)
    return SmallNetwork(nn.Sequential(layers), before * (side // 2) ** 2, classes, dropout)


def _halvings(size: int) -> int:
    return max(1, round(math.log2(size / FINAL_SIDE)))


def _convolution(before: int, width: int, *, pooled: bool = False) -> list[nn.Module]:
    halved = [nn.MaxPool2d(2)] if pooled else []
    return [
        nn.Conv2d(before, width, 3, padding=1, bias=False), *halved, nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    ]  # fmt: skip


SMALL_NETWORKS = {SMALL_CNN: small_cnn, SMALL_RESNET: small_resnet}
