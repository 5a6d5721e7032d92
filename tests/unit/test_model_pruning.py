import numpy as np
import pytest
import torch

from components.errors import ConfigurationError, RefusedError
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.networks.pruning import parameters, prune
from components.model.serving.export import embedding_parity, parity, to_onnx
from components.model.serving.predictor import Predictor


def made(backbone, side=32):
    preprocess = PreprocessSpec(side, 3, "stretch", 1.0, "box", (0.5,) * 3, (0.3,) * 3)
    network = build(backbone, classes=5, channels=3, size=side, dropout=0.2, pretrained="none", seed=1).eval()
    return network, ModelSpec(tuple("abcde"), preprocess, backbone)


@pytest.mark.parametrize("backbone", ["small_cnn", "medium_cnn", "resnet10t"])
def test_channels_are_gone_and_the_rest_is_exported_as_any_network(backbone, tmp_path):
    pytest.importorskip("torch_pruning")
    network, spec = made(backbone)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    smaller = prune(network, spec, 0.5)
    assert parameters(smaller) < 0.6 * parameters(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    sizes = []
    for name, one in (("whole", network), ("smaller", smaller)):
        (tmp_path / name).mkdir()
        to_onnx(one, spec, tmp_path / name / ONNX_FILE)
        sizes.append((tmp_path / name / ONNX_FILE).stat().st_size)
    assert sizes[1] < 0.65 * sizes[0]
    write_spec(tmp_path / "smaller", spec.exported(1.0, 0.7, file_sha256(tmp_path / "smaller" / ONNX_FILE)))
    predictor = Predictor(tmp_path / "smaller", threads=1)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    assert max(parity(smaller, predictor, images, images), embedding_parity(smaller, predictor, images, images)) < 1e-4


def test_the_weakest_channels_go():
    pytest.importorskip("torch_pruning")
    network, spec = made("small_cnn", side=16)
    weak = [1, 4, 5, 9, 12, 20, 25, 30]  # of the first layer's 32, a quarter
    with torch.no_grad():
        for layer in (network.body.conv0.weight, network.body.norm0.weight, network.body.norm0.bias):
            layer[weak] *= 1e-3
        network.body.conv1.weight[:, weak] *= 1e-3
    kept = [channel for channel in range(32) if channel not in weak]
    assert torch.equal(prune(network, spec, 0.25).body.conv0.weight, network.body.conv0.weight[kept])


def test_what_cannot_be_taken_apart_is_refused():
    pytest.importorskip("torch_pruning")
    network, spec = made("vit_tiny_patch16_224", side=224)
    with pytest.raises(RefusedError, match=r"vit_tiny_patch16_224 cannot be pruned .*; set export.prune to 0"):
        prune(network, spec, 0.3)


@pytest.mark.parametrize("share", [0.0, -0.1, 0.95])
def test_share_has_a_range(share):
    network, spec = made("small_cnn")
    with pytest.raises(ConfigurationError, match=r"above 0 and at most 0\.9"):
        prune(network, spec, share)
