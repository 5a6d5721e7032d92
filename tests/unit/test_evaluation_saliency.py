import numpy as np
import pytest
import torch
from torch import nn

from components.evaluation.examination.saliency import glowing, saliency
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build


def spec(size: int, channels: int) -> PreprocessSpec:
    return PreprocessSpec(size, channels, "stretch", 1.0, "bilinear", (0.3,) * channels, (0.25,) * channels)


class Corner(nn.Module):
    """Answers class 1 by the brightness of the upper left corner alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        bright = self.scale * inputs[:, :, :8, :8].mean(dim=(1, 2, 3))
        return torch.stack([-bright, bright], dim=1)


def test_what_the_answer_depends_on_glows_and_nothing_else():
    images = np.full((2, 32, 32, 1), 250, np.uint8)
    heat = saliency(Corner(), spec(32, 1), images, np.array([1, 1]))
    assert heat.shape == (2, 32, 32)
    assert heat[:, 2:6, 2:6].min() > 0.9
    assert heat[:, 16:, 16:].max() < 0.01
    assert saliency(Corner(), spec(32, 1), images, np.array([0, 0])).max() < 0.01


@pytest.mark.parametrize(("backbone", "size", "channels"), [("small_cnn", 28, 1), ("resnet10t", 32, 3)])
def test_networks_of_either_kind_are_explained_and_left_as_they_were(backbone, size, channels):
    network = build(backbone, classes=3, channels=channels, size=size, dropout=0.1, pretrained="none").eval()
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, channels), dtype=np.uint8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    heat = saliency(network, spec(size, channels), images, np.array([0, 1, 2]))
    assert heat.shape == (3, size, size)
    assert 0 <= heat.min() < 0.2
    assert 0.9 < heat.max() <= 1
    assert all((before[name] == value).all() for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_picture_glows_where_the_heat_is():
    heat = np.zeros((28, 28), np.float32)
    heat[:14] = 1
    picture = np.asarray(glowing(np.full((28, 28, 3), 100, np.uint8), heat)).astype(int)
    assert picture.shape == (96, 96, 3)
    assert picture[10, 10, 0] > picture[10, 10, 2] + 100
    assert len(set(picture[90, 10])) == 1
