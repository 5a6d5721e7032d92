"""How fast which layers learn: optimizers, schedules, and rates that fall from the head to the first layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import ConfigurationError
from components.params import Train

FASTEST_PRETRAINED = 1e-2
"""A rate above it destroys pre-trained layers within a few steps."""

STEPS_AT = (0.5, 0.75)  # of a run, where the step schedule divides the rate
DIVISOR = 10.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of a network's layers.

    head: of the last layer. body: of the layers before it. decay: what the rate of each earlier group of layers is
    multiplied by. unfreeze_every: so many epochs after one another the groups begin to learn, the last first; 0: all
    learn at once.
    """

    head: float
    body: float
    decay: float = 1.0
    unfreeze_every: int = 0

    @classmethod
    def same(cls, rate: float) -> Rates:
        """Return one rate for every layer."""
        return cls(rate, rate)

    @property
    def differ(self) -> bool:
        """Return whether some layers learn faster, or earlier, than others."""
        return self.head != self.body or self.decay != 1 or self.unfreeze_every > 0


def require_gentle(rates: Rates, *, pretrained: bool) -> None:
    """Raise ConfigurationError where pre-trained layers would learn so fast that they forget what they know."""
    if pretrained and rates.body > FASTEST_PRETRAINED:
        raise ConfigurationError(
            f"a learning rate of {rates.body:g} on pre-trained layers destroys them; "
            f"lower train.learning_rate or train.transfer.body_rate to {FASTEST_PRETRAINED:g} or less, usually 1e-4"
        )


class LayerGroups:
    """A network's parameters from the first layers to the head, as its author groups them, or all in one group."""

    def __init__(self, network: nn.Module, *, apart: bool = True) -> None:
        self.network = network
        self.groups: list[list[nn.Parameter]] = list(_grouped(network)) if apart else [list(network.parameters())]

    def rate_of(self, group: int, rates: Rates) -> float:
        """Return the learning rate of a group by its number."""
        head = len(self.groups) - 1
        return rates.head if group == head else rates.body * rates.decay ** (head - 1 - group)

    def freeze(self, epoch: int, rates: Rates) -> None:
        """Let those groups learn that do so in `epoch`; modules whose parameters are all frozen go to eval mode."""
        last = len(self.groups) - 1
        for number, group in enumerate(self.groups):
            learns = not rates.unfreeze_every or (last - number) * rates.unfreeze_every <= epoch
            for parameter in group:
                parameter.requires_grad_(learns)
        still_if_frozen(self.network)


def still_if_frozen(network: nn.Module) -> None:
    """Put modules whose own parameters are all frozen into eval mode, so that their batch statistics stay."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def _grouped(network: Any) -> Iterator[list[nn.Parameter]]:
    if not hasattr(network, "group_matcher"):
        yield list(network.parameters())
        return
    from timm.models import group_parameters

    by_name = dict(network.named_parameters())
    head = {id(parameter) for parameter in network.get_classifier().parameters()}
    for names in group_parameters(network, network.group_matcher(coarse=True)).values():
        body = [by_name[name] for name in names if id(by_name[name]) not in head]
        if body:
            yield body
    if head:
        yield [parameter for parameter in network.parameters() if id(parameter) in head]


def optimizer_and_schedule(layers: LayerGroups, rates: Rates, params: Train, *, steps: int, watched: str) -> Any:
    """Return what Lightning's `configure_optimizers` returns. steps: of the whole run."""
    groups = [
        {"params": group, "lr": layers.rate_of(number, rates)} for number, group in enumerate(layers.groups) if group
    ]
    optimizer = _optimizer(groups, params)
    if params.schedule == "plateau":
        # Shorter than early stopping, which params.yaml is held to: else the rate would never fall.
        falling = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=1 / DIVISOR, patience=params.plateau_patience
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "epoch", "monitor": watched}}
    factor = factor_of_step(params, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def factor_of_step(params: Train, steps: int) -> Callable[[int], float]:
    """Return what the rate is multiplied by at each step: a linear warm-up, then a cosine to 0, or two falls by ten."""
    warmup = max(1, round(params.warmup_fraction * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if params.schedule == "step":
            return float(DIVISOR ** -sum(step >= share * steps for share in STEPS_AT))
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def _optimizer(groups: list[dict[str, Any]], params: Train) -> torch.optim.Optimizer:
    decay = params.weight_decay
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=decay, fused=True)
    if params.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=decay, fused=True)
    return torch.optim.AdamW(groups, weight_decay=decay, fused=True)


def clip(network: nn.Module, largest: float) -> Tensor:
    """Scale the gradients down to norm `largest`, and return the norm they had."""
    return nn.utils.clip_grad_norm_(network.parameters(), largest)
