"""What answers from what a backbone sees: its own linear layer, or a hidden layer and a linear one."""

from __future__ import annotations

from typing import Any

from torch import nn

from components.errors import ConfigurationError

HIDDEN = 512
"""Most units of the hidden layer; it has no more than it is given features."""


class HiddenLayerHead(nn.Sequential):
    """A hidden layer, and a linear one that answers: features (N, D) to logits (N, classes)."""

    def __init__(self, features: int, classes: int, dropout: float) -> None:
        width = min(HIDDEN, features)
        super().__init__(
            nn.Linear(features, width), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(width, classes)
        )


def with_hidden_layer(network: Any, dropout: float) -> None:
    """Put a hidden layer before the layer of `network` that answers, all of it fresh.

    Raises ConfigurationError for a network whose last layer is no linear one.
    """
    last = network.get_classifier()
    if not isinstance(last, nn.Linear):
        raise ConfigurationError(
            f"train.head mlp takes the place of a linear layer, and {type(network).__name__} answers by another; "
            "set it to linear"
        )
    name = next(name for name, module in network.named_modules() if module is last)
    head = HiddenLayerHead(last.in_features, last.out_features, dropout)
    network.set_submodule(name, head)


def first_and_last(head: nn.Module | None) -> tuple[nn.Linear, nn.Linear]:
    """Return the layer that is given the features and the one that answers, the same in a linear head.

    Raises ConfigurationError for another layer, or one without a bias.
    """
    first, last = (head[0], head[-1]) if isinstance(head, HiddenLayerHead) else (head, head)
    if isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and first.bias is not None:
        return first, last
    raise ConfigurationError(
        f"the last layer is {type(head).__name__}, no linear one with a bias; set train.transfer.strategy to full"
    )
