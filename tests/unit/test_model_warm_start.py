"""Training that starts from the champion's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from components.errors import ConfigurationError, IntegrityError
from components.model.artifact import WEIGHTS_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build, network_of
from components.model.training.transfer import choose_strategy
from components.model.training.warm_start import as_fed, champion_in, take_over
from components.params import CHAMPION, Head, Start, Train

FED = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.3,), (0.2,))
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def champion(folder: Path, classes: tuple[str, ...] = ("bag", "boot", "coat"), head: Head = "linear") -> ModelSpec:
    spec = ModelSpec(classes, FED, "small_cnn", head=head)
    network = build(
        "small_cnn", classes=len(classes), channels=1, size=8, dropout=0.0, pretrained="none", seed=1, head=head
    )
    torch.save(network.state_dict(), folder / WEIGHTS_FILE)
    write_spec(folder, spec)
    return spec


def fresh(classes: int, head: Head = "linear") -> torch.nn.Module:
    rules = Train(pretrained=CHAMPION, head=head)
    return network_of(rules, classes, FED, seed=9).eval()


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_known_classes_are_answered_as_the_champion_does_wherever_they_stand(tmp_path: Path, head: Head) -> None:
    champion(tmp_path, head=head)
    same, other = fresh(3, head), fresh(4, head)
    take_over(same, ("bag", "boot", "coat"), tmp_path)
    before = {name: value.clone() for name, value in other.get_classifier().state_dict().items()}
    take_over(other, ("coat", "hat", "bag", "shirt"), tmp_path)
    theirs, ours = same(IMAGES), other(IMAGES)
    assert torch.allclose(ours[:, [2, 0]], theirs[:, [0, 2]], atol=1e-6)
    last = "weight" if head == "linear" else "3.weight"
    assert torch.equal(other.get_classifier().state_dict()[last][[1, 3]], before[last][[1, 3]])


def test_the_champions_normalisation_is_kept_and_another_network_is_refused(tmp_path: Path) -> None:
    found = champion(tmp_path)
    wanted = replace(found, preprocess=replace(FED, mean=(0.5,), std=(0.5,)), classes=("a", "b"))
    fed = as_fed(wanted, found)
    assert (fed.preprocess.mean, fed.preprocess.std, fed.classes) == ((0.3,), (0.2,), ("a", "b"))
    for other in (
        replace(wanted, backbone="medium_cnn"),
        replace(wanted, head="mlp"),
        replace(wanted, preprocess=replace(FED, size=9)),
    ):
        with pytest.raises(ConfigurationError, match=r"the champion is small_cnn with a linear head at 8 px"):
            as_fed(other, found)


def test_weights_that_are_missing_or_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="version 3"):
        champion_in(tmp_path, Start(version=3, sha256="0" * 64))
    spec = champion(tmp_path)
    with pytest.raises(IntegrityError, match="version 3"):
        champion_in(tmp_path, Start(version=3, sha256="0" * 64))
    assert champion_in(tmp_path, Start(version=3, sha256=file_sha256(tmp_path / WEIGHTS_FILE))) == spec


def test_what_judges_labels_begins_from_nothing_and_training_with_the_head() -> None:
    plain = network_of(Train(), 3, FED, seed=9).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in fresh(3).state_dict().items())
    assert choose_strategy(Train(pretrained=CHAMPION), 100).strategy == "two_phase"
    with pytest.raises(ValidationError, match="name its backbone"):
        Train(pretrained=CHAMPION, backbone="auto")
