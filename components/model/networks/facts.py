"""What is known of a network before it is trained: size, work, input, and its weights' source and licence."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn

from components.model.networks.backbones import build
from components.model.networks.small import SMALL_NETWORKS
from components.model.networks.weights import has_package

logger = logging.getLogger(__name__)

TRIED = (
    "small_cnn", "medium_cnn", "resnet18", "resnet50", "tf_efficientnet_lite0", "efficientnet_b0", "efficientnet_b4",
    "tf_efficientnetv2_s", "mobilenetv3_large_100", "convnext_tiny", "vgg16", "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
)  # fmt: skip
"""Backbones that build, train, export with parity and score; any other name that timm knows may do so too."""

LARGE = 100_000_000  # parameters: more than a machine without a GPU trains in a night


@dataclass(frozen=True, slots=True)
class BackboneFacts:
    """parameters: of the whole network. macs: multiply-adds of one image. input_size: pixels a side that the weights

    were made for, 0 where there are none. licence: of the weights; "" where there are none. weights: where they come
    from.
    """

    name: str
    parameters: int
    macs: int
    input_size: int
    licence: str
    weights: str

    def warning(self, *, gpu: bool) -> str:
        """Return what to consider before training it on this machine, or nothing."""
        if gpu or self.parameters <= LARGE:
            return ""
        return (
            f"{self.name} has {self.parameters / 1e6:.0f} million parameters and this machine has no GPU: "
            "expect days, not hours; tf_efficientnet_lite0 has 4 million"
        )


def facts_of(name: str, network: nn.Module, *, channels: int, size: int) -> BackboneFacts:
    """Return what is known of a network that `build` made. Counts the work of one image by running it once."""
    licence, weights, input_size = "", "none", 0
    if name not in SMALL_NETWORKS:
        import timm

        record = timm.get_pretrained_cfg(name)
        if record is not None:
            input_size = int(record.input_size[-1])
            licence = record.license or "not stated"
            places = [f"timm, {record.hf_hub_id}" if record.hf_hub_id else "", "package" if has_package(name) else ""]
            weights = "; ".join(place for place in places if place) or "none"
    return BackboneFacts(
        name=name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=macs_of(network, channels=channels, size=size),
        input_size=input_size,
        licence=licence,
        weights=weights,
    )


def macs_of(network: nn.Module, *, channels: int, size: int) -> int:
    """Return the multiply-adds of one image: those of convolutions, matrix products and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    network.eval()
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network(torch.zeros(1, channels, size, size, device=device))
    network.train(training)
    return int(counted.get_total_flops()) // 2


def describe(name: str, *, classes: int = 10, channels: int = 3, size: int | None = None) -> BackboneFacts:
    """Return what is known of a backbone by name, at its weights' own input size or `size`."""
    if size is None:
        size = 32
        if name not in SMALL_NETWORKS:
            import timm

            record = timm.get_pretrained_cfg(name)
            size = int(record.input_size[-1]) if record is not None else 224
    network = build(name, classes=classes, channels=channels, size=size, dropout=0.0, pretrained="none")
    return facts_of(name, network, channels=channels, size=size)
