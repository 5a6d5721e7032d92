"""Training that starts from what the champion has learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from components.errors import IntegrityError
from components.model.artifact import WEIGHTS_FILE, ModelSpec, file_sha256, read_spec
from components.model.networks.backbones import Answering, restore
from components.model.networks.heads import first_and_last
from components.params import Start


def as_fed(spec: ModelSpec, champion: ModelSpec) -> ModelSpec:
    """Return `spec` with the normalisation that the champion's weights were trained with.

    Raises ConfigurationError where the champion is another network, or sees images of another size.
    """
    spec.kind.require_start_from(champion.kind)
    preprocess = replace(spec.preprocess, mean=champion.preprocess.mean, std=champion.preprocess.std)
    return replace(spec, preprocess=preprocess)


def champion_in(folder: Path, start: Start) -> ModelSpec:
    """Return the specification of the champion in `folder`.

    Raises IntegrityError where its weights are not there, or not those that `start` names.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file() or file_sha256(path) != start.sha256:
        raise IntegrityError(
            f"{path} does not hold the weights of version {start.version}; `perennial retrain` and `perennial "
            "reproduce` bring them"
        )
    return read_spec(folder)


def take_over(network: nn.Module, classes: tuple[str, ...], folder: Path) -> None:
    """Give `network` the weights of the champion in `folder`, a network of the same kind.

    classes: its own. A class that the champion knows, wherever it stands, is answered as the champion does; another one
    keeps its first weights. Raises ConfigurationError where the last layer is no linear one, and as `restore`.
    """
    champion, spec = restore(folder)
    taken, own = champion.state_dict(), network.state_dict()
    if spec.classes != classes:
        known = [place for place, name in enumerate(classes) if name in spec.classes]
        theirs = [spec.classes.index(classes[place]) for place in known]
        for name in _answering(network):
            mixed = own[name].clone()
            mixed[known] = taken[name][theirs]
            taken[name] = mixed
    network.load_state_dict(taken)


def _answering(network: nn.Module) -> list[str]:
    """Return the names of the tensors that have a row for each class."""
    last = first_and_last(network.get_classifier() if isinstance(network, Answering) else None)[1]
    tensors = {id(last.weight), id(last.bias)}
    return [name for name, value in network.named_parameters() if id(value) in tensors]
