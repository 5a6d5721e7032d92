"""A smaller network of a trained one: whole channels are taken out, not set to zero."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import nn

from components.errors import ConfigurationError, RefusedError
from components.model.artifact import ModelSpec
from components.model.networks.backbones import embed_and_answer

ROUNDED_TO = 8  # channels, what vector instructions and the 8-bit kernels work in


def prune(network: nn.Module, spec: ModelSpec, share: float) -> nn.Module:
    """Return a copy of `network` without the weakest `share` (0..0.9) of every layer's channels; classes all stay.

    Weakest by the L2 norm of their weights, together in all layers that share them (Fang et al. 2023, DepGraph), down
    to a multiple of 8. Its answers are worse until it is trained a little more. Raises ConfigurationError if the
    library is not installed or the share out of range, RefusedError for a network it cannot take apart.
    """
    if not 0 < share <= 0.9:
        raise ConfigurationError(f"export.prune {share:g} must be above 0 and at most 0.9")
    if find_spec("torch_pruning") is None:
        raise ConfigurationError("export.prune needs a library that is not installed; pip install 'perennial[prune]'")
    import torch_pruning

    smaller = copy.deepcopy(network).cpu().eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, spec.preprocess.channels, spec.preprocess.size, spec.preprocess.size)
    try:
        with _strict():
            torch_pruning.pruner.BasePruner(
                smaller,
                example,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=share,
                ignored_layers=[_last_layer(smaller, len(spec.classes))],
                round_to=ROUNDED_TO,
            ).step()
            answers = embed_and_answer(smaller, example)[1]
    # The library knows many layers by name and fails in as many ways on one that it does not.
    except (UserWarning, RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise RefusedError(
            f"backbone {spec.backbone} cannot be pruned ({' '.join(str(error).split())[:200]}); set export.prune to 0"
        ) from error
    if answers.shape != (2, len(spec.classes)) or parameters(smaller) >= parameters(network):
        raise RefusedError(
            f"pruning {share:g} of backbone {spec.backbone} leaves {parameters(smaller):,} of {parameters(network):,} "
            f"parameters and answers of shape {tuple(answers.shape)}; set export.prune to 0, or lower it where its "
            f"layers would be left with fewer than {ROUNDED_TO} channels"
        )
    return smaller


def parameters(network: nn.Module) -> int:
    """Return how many numbers the network has learnt."""
    return sum(weights.numel() for weights in network.parameters())


def _last_layer(network: nn.Module, classes: int) -> nn.Module:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    last = layers[-1]
    width = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    if width != classes:
        raise ValueError(f"its last layer has {width} outputs, not {classes}")
    return last


@contextmanager
def _strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what it does not understand it prunes anyhow, with a warning
        yield
