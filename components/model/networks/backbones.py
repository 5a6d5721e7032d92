"""Networks by name: two of our own for small images, and everything timm knows."""

from __future__ import annotations

import difflib
import pickle
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from components.errors import ConfigurationError, IntegrityError
from components.model.artifact import WEIGHTS_FILE, ModelSpec, read_spec
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.heads import with_hidden_layer
from components.model.networks.small import SMALL_NETWORKS
from components.model.networks.weights import packaged_weights
from components.params import CHAMPION, Head, Train


def build(
    backbone: str,
    *,
    classes: int,
    channels: int,
    size: int,
    dropout: float,
    pretrained: str,
    seed: int = 0,
    head: Head = "linear",
) -> nn.Module:
    """Return a network giving logits (N, classes) from normalised float images (N, channels, size, size).

    pretrained: "none", "timm" (downloads), "package" (of an installed package) or a file with a state dict, whose
    tensors are taken by name, or else by position where all shapes agree; the classifier starts fresh if its shape
    differs. seed: draws the first weights. head: "mlp" answers through a hidden layer. Raises ConfigurationError for a
    backbone or a file that is not known or does not fit, IntegrityError for a package's file that is not the published
    one.
    """
    if backbone in SMALL_NETWORKS and pretrained == "timm":
        raise ConfigurationError(f"train.pretrained 'timm' has no weights for {backbone}; use none or a file")
    weights = packaged_weights(backbone) if pretrained == "package" else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if backbone in SMALL_NETWORKS:
            network: nn.Module = SMALL_NETWORKS[backbone](classes, channels, size, dropout)
        else:
            network = _timm_network(backbone, classes, channels, size, dropout, online=pretrained == "timm")
    if pretrained not in ("none", "timm"):
        _load_weights(network, weights or Path(pretrained))
    if head == "mlp":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with_hidden_layer(network, dropout)
    return network


def network_of(train: Train, classes: int, spec: PreprocessSpec, seed: int) -> nn.Module:
    """Return the network that a training by these params begins with. Raises as `build`.

    With a champion's weights it begins only in the train stage: to whatever is judged by images that it learnt, a
    champion would tell their labels.
    """
    return build(
        train.named().backbone, classes=classes, channels=spec.channels, size=spec.size, dropout=train.dropout,
        pretrained="none" if train.pretrained == CHAMPION else train.pretrained, seed=seed, head=train.head,
    )  # fmt: skip


def embed_and_answer(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embedding (N, D), what the network's last layer is given, and its logits (N, classes).

    inputs: normalised images (N, channels, size, size). network: one that `build` made, in eval mode.
    """
    if not isinstance(network, Answering):
        raise TypeError(f"{type(network).__name__} is not a network that build() made")
    features = network.forward_features(inputs)
    # The head is asked twice: not every head is a plain layer on its own embedding. The exporter merges what is equal.
    return network.forward_head(features, pre_logits=True).flatten(1), network.forward_head(features)


@runtime_checkable
class Answering(Protocol):
    """What every network that `build` makes can do beside answering; timm's calls."""

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Return what the head is given."""

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (N, classes), or what the last layer is given."""

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""


def recorded_statistics(backbone: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation that the pre-trained weights were made with, or None if none are recorded."""
    if backbone in SMALL_NETWORKS:
        return None
    import timm

    record = timm.get_pretrained_cfg(backbone)
    if record is None:
        return None
    if channels == 1:
        return (sum(record.mean) / 3,), (sum(record.std) / 3,)
    return tuple(record.mean), tuple(record.std)


def _timm_network(backbone: str, classes: int, channels: int, size: int, dropout: float, *, online: bool) -> nn.Module:
    import timm

    if backbone not in timm.list_models() and backbone not in timm.list_pretrained():
        near = difflib.get_close_matches(backbone, [*SMALL_NETWORKS, *timm.list_models()], n=3)
        raise ConfigurationError(
            f"train.backbone {backbone!r} is neither of {', '.join(SMALL_NETWORKS)} nor a timm name; "
            f"near it: {', '.join(near) or '-'}"
        )
    record = timm.get_pretrained_cfg(backbone)
    sized = {"img_size": size} if record is not None and record.fixed_input_size else {}  # transformers know their size
    network: nn.Module = timm.create_model(
        backbone, pretrained=online, num_classes=classes, in_chans=channels, drop_rate=dropout, **sized
    )
    return network


def _load_weights(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ConfigurationError(f"train.pretrained {str(path)!r} is not none, timm, package or an existing file")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise ConfigurationError(f"train.pretrained {path} holds no state dict (a mapping of names to tensors)")
    if len(own.keys() & stored.keys()) < len(own) // 2 and len(own) == len(stored):
        # The same architecture under other names, such as the packaged EfficientNet-Lite0: position identifies.
        stored = dict(zip(own, stored.values(), strict=True))
    fitting = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < 0.9 * len(own):
        raise ConfigurationError(
            f"train.pretrained {path}: only {len(fitting)} of the network's {len(own)} tensors fit; "
            "it holds another architecture's weights"
        )
    network.load_state_dict(own | fitting)


def restore(folder: Path) -> tuple[nn.Module, ModelSpec]:
    """Return the trained network in `folder`, on the CPU in eval mode, and its specification.

    Raises IntegrityError if a file is missing or the weights are not this network's, RefusedError as `read_spec`.
    """
    spec = read_spec(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise IntegrityError(f"{path} does not exist; run the train stage again")
    side, channels = spec.preprocess.size, spec.preprocess.channels
    network = build(
        spec.backbone, classes=len(spec.classes), channels=channels, size=side, dropout=0.0, pretrained="none",
        head=spec.head,
    )  # fmt: skip
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise IntegrityError(f"{path} does not hold the weights of {spec.backbone}: {error}") from error
    return network.eval(), spec
