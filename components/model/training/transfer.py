"""Pre-trained weights put to use: a head on a frozen backbone, then the backbone too where there are images enough."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.errors import ConfigurationError
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import Answering, embed_and_answer
from components.model.networks.heads import first_and_last
from components.model.serving.frozen_features import FrozenNetwork
from components.model.training.fit import Fitted, Run, fit
from components.model.training.objectives.any_labels import objective_for
from components.model.training.objectives.distillation import Teaching
from components.model.training.objectives.imbalance import Remedy
from components.model.training.progress import MetricsLog
from components.model.training.rates import Rates, require_gentle
from components.model.training.state import RunState
from components.params import CHAMPION, Train

HEAD_BELOW = 5_000
TWO_PHASE_UP_TO = 100_000

ON_FEATURES = {"precision": "fp32", "processes": 1, "schedule": "cosine"}
"""How a head is trained whatever params.yaml says of networks: an epoch takes less than a second."""

LEAST_DEVIATION = 0.1  # of a feature, as a share of all features' mean one

Strategy = Literal["head", "two_phase", "full"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and why, in words."""

    strategy: Strategy
    reason: str


def choose_strategy(params: Train, images: int) -> Plan:
    """Return how to train on so many images.

    Raises ConfigurationError where a head is asked for on layers that know nothing, and for a learning rate that
    would destroy those that do.
    """
    wanted = params.transfer.strategy
    if params.pretrained == "none":
        if wanted in ("head", "two_phase"):
            raise ConfigurationError(
                f"train.transfer.strategy {wanted} freezes pre-trained layers, and train.pretrained is none; "
                "name weights, or set the strategy to full or auto"
            )
        return Plan("full", "all layers: there are no pre-trained weights")
    if wanted == "auto" and params.pretrained == CHAMPION:
        plan = Plan("two_phase", "the head, then every layer slowly: the champion's layers know such images")
    elif wanted != "auto":
        plan = Plan(wanted, f"{wanted}: params.yaml asks for it")
    elif images < HEAD_BELOW:
        plan = Plan("head", f"the head alone: {images} images are fewer than {HEAD_BELOW}")
    elif images <= TWO_PHASE_UP_TO:
        plan = Plan("two_phase", f"the head, then every layer slowly: {images} images are {HEAD_BELOW} or more")
    else:
        plan = Plan("full", f"all layers: {images} images are more than {TWO_PHASE_UP_TO}")
    require_gentle(rates_of(plan.strategy, params), pretrained=True)
    return plan


def rates_of(strategy: Strategy, params: Train) -> Rates:
    """Return the layers' learning rates when the backbone learns."""
    transfer = params.transfer
    if strategy == "full":
        return Rates.same(params.learning_rate)
    return Rates(transfer.head_rate / 10, transfer.body_rate, transfer.layer_decay, transfer.unfreeze_every)


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """What a frozen backbone sees in N images, with what they teach. inputs: (N, D) float32. The rest as `ImageSet`."""

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    targets: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class FeatureInputs(nn.Module):
    """Features (n, D) scaled to mean 0 and deviation 1 or less, so that one learning rate suits every backbone."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: NDArray[np.float32]) -> None:
        super().__init__()
        deviation = features.std(axis=0)
        # A feature that is nearly never there would count thousands of times as much on the first image that has it.
        deviation = np.maximum(deviation, LEAST_DEVIATION * float(deviation.mean()) + 1e-6)
        self.register_buffer("mean", torch.from_numpy(features.mean(axis=0)), persistent=False)
        self.register_buffer("deviation", torch.from_numpy(deviation), persistent=False)

    def for_training(self, batch: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Return the head's input; nothing is varied or mixed."""
        return self.for_judging(batch), None, 1.0

    def for_judging(self, batch: Tensor) -> Tensor:
        """Return the head's input."""
        return (batch - self.mean) / self.deviation


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network and how it came about. phases: the watched validation metric of each, and which one is kept."""

    fitted: Fitted
    plan: Plan
    phases: dict[str, Any] = field(default_factory=dict)


def train(
    network: nn.Module,
    training: ImageSet,
    validation: ImageSet,
    *,
    spec: PreprocessSpec,
    params: Train,
    log: MetricsLog,
    checkpoints: Path,
    remedy: Remedy | None = None,
    teaching: Teaching | None = None,
    state: RunState | None = None,
) -> Trained:
    """Return the network trained as `choose_strategy` says; fine-tuning is kept only where it beats its own head.

    network: as `build` makes it. Arguments and errors else as `fit`'s, and `choose_strategy`'s.
    """
    plan = choose_strategy(params, len(training))
    shared: dict[str, Any] = {"spec": spec, "params": params, "log": log, "remedy": remedy}
    if teaching is not None and (plan.strategy == "head" or training.several):
        raise ConfigurationError(
            "train.distil.teacher teaches networks that learn whole and say one class an image; "
            "set train.transfer.strategy to full or two_phase, or leave the teacher out"
        )
    shared_when_whole = shared | {"checkpoints": checkpoints, "state": state, "teaching": teaching}
    if plan.strategy == "full":
        fitted = fit(network, training, validation, rates=rates_of("full", params), **shared_when_whole)
        return Trained(fitted, plan)
    head = fit_head(network, training, validation, checkpoints=checkpoints / "head", **shared)
    watched = objective_for(training, params.label_smoothing).watched
    phases: dict[str, Any] = {"head": head.validation[watched], "kept": "head"}
    if plan.strategy == "head":
        return Trained(head, plan, phases)
    before = copy.deepcopy(network.state_dict())
    tuned = fit(network, training, validation, rates=rates_of("two_phase", params), **shared_when_whole)
    phases["fine_tuned"] = tuned.validation[watched]
    if phases["fine_tuned"] > phases["head"]:
        return Trained(tuned, plan, phases | {"kept": "fine_tuned"})
    tuned.network.load_state_dict(before)
    return Trained(replace(head, network=tuned.network), plan, phases)


def fit_head(
    network: nn.Module,
    training: ImageSet,
    validation: ImageSet,
    *,
    spec: PreprocessSpec,
    params: Train,
    log: MetricsLog | None = None,
    checkpoints: Path,
    remedy: Remedy | None = None,
) -> Fitted:
    """Return `network` with its last layer trained on what the rest of it, left as it is, sees in the images.

    That is computed once, so that images are not varied. Raises ConfigurationError for a network whose last layer is no
    linear one, and otherwise as `fit`.
    """
    whole = _own_head(network, spec)
    frozen = FrozenNetwork(network, spec)
    seen, held_back = (_features(frozen, data) for data in (training, validation))
    weights, chances = remedy.counted(training.labels, training.weights) if remedy else (training.weights, None)
    inputs, epochs = FeatureInputs(seen.inputs), params.transfer.head_epochs
    head = nn.Sequential(nn.Dropout(params.dropout), _unbiased(whole))
    run = Run(
        inputs,
        objective_for(training, params.label_smoothing, remedy),
        Rates.same(params.transfer.head_rate),
        params.model_copy(update=ON_FEATURES | {"epochs": epochs, "patience": epochs}),
        log=log,
        checkpoints=checkpoints,
    )
    fitted = run.fit(head, replace(seen, weights=weights), held_back, chances)
    whole.load_state_dict(head[1].state_dict())
    layer = first_and_last(whole)[0]
    with torch.no_grad():  # the scaling becomes part of the layer
        layer.weight.div_(inputs.deviation)
        layer.bias.sub_(layer.weight @ inputs.mean)
    return replace(fitted, network=network.cpu().eval())


def _unbiased(head: nn.Module) -> nn.Module:
    """Return a head of the same shape that prefers nothing yet.

    Some authors draw the last layer's first weights so wide that a thousand scaled features give answers of 100 %,
    which a short training does not forget: 45 % of CIFAR-10 right, and 67 % from zero.
    """
    fresh = copy.deepcopy(head)
    for layer in fresh.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    last = first_and_last(fresh)[1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return fresh


def _features(frozen: FrozenNetwork, data: ImageSet) -> FeatureSet:
    return FeatureSet(frozen.features(data.images), data.labels, data.weights, data.targets)


def _own_head(network: nn.Module, spec: PreprocessSpec) -> nn.Module:
    """Return the layers of `network` that answer from its embedding."""
    if isinstance(network, Answering):
        head = network.get_classifier()
        features = first_and_last(head)[0].in_features
        shape = (2, spec.channels, spec.size, spec.size)
        with torch.inference_mode():
            embedding, logits = embed_and_answer(network.eval(), torch.rand(shape))
            if embedding.shape[1] == features and torch.allclose(head(embedding), logits, atol=1e-4):
                return head
    raise ConfigurationError(
        f"{type(network).__name__} has no last layer of its own to train; set train.transfer.strategy to full"
    )
