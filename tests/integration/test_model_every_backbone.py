"""Each backbone that the documentation names: built, trained for a step, exported with parity, and asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.networks.facts import TRIED, facts_of
from components.model.serving.export import embedding_parity, parity, to_onnx
from components.model.serving.predictor import Predictor
from components.model.training.fit import fit
from components.model.training.rates import LayerGroups
from components.params import Augment, Train

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

CLASSES = ("one", "two", "three")
PARAMETERS = {  # millions, with 1,000 classes, as their papers and timm state them
    "resnet18": 11.7, "resnet50": 25.6, "tf_efficientnet_lite0": 4.7, "efficientnet_b0": 5.3, "efficientnet_b4": 19.3,
    "tf_efficientnetv2_s": 21.5, "mobilenetv3_large_100": 5.5, "convnext_tiny": 28.6, "vgg16": 138.4,
    "vit_base_patch16_224": 86.6, "swin_tiny_patch4_window7_224": 28.3,
}  # fmt: skip


@pytest.mark.parametrize("backbone", TRIED)
def test_a_named_backbone_trains_exports_and_scores(backbone, tmp_path):
    size = 56 if "swin" in backbone else 32
    spec = PreprocessSpec(size, 3, "stretch", 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    data = ImageSet(images, np.array([0, 1, 2, 0]), np.ones(4, np.float32))
    network = build(backbone, classes=3, channels=3, size=size, dropout=0.1, pretrained="none", seed=1)
    assert len(LayerGroups(network).groups) >= 3
    params = Train(epochs=1, batch_size=4, learning_rate=1e-4, precision="fp32", augment=Augment(shift=0.0))
    fitted = fit(network, data, None, spec=spec, params=params)

    model = ModelSpec(CLASSES, spec, backbone)
    to_onnx(fitted.network, model, tmp_path / ONNX_FILE)
    write_spec(tmp_path, replace(model, onnx_sha256=file_sha256(tmp_path / ONNX_FILE)))
    predictor = Predictor(tmp_path)
    assert parity(fitted.network, predictor, images, images) < 1e-4
    assert embedding_parity(fitted.network, predictor, images, images) < 1e-4
    _, probabilities = predictor.predict(images)
    assert probabilities.shape == (4, 3)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("backbone", "millions"), PARAMETERS.items())
def test_its_size_is_the_published_one_and_its_weights_have_a_licence(backbone, millions):
    network = build(backbone, classes=1000, channels=3, size=224, dropout=0.0, pretrained="none")
    found = facts_of(backbone, network, channels=3, size=224)
    assert found.parameters / 1e6 == pytest.approx(millions, rel=0.02)
    assert found.licence in {"apache-2.0", "bsd-3-clause", "mit"}
    assert found.weights.startswith("timm, timm/")
    assert ("package" in found.weights) == (backbone == "tf_efficientnet_lite0")
    assert found.warning(gpu=True) == ""
    assert ("138 million" in found.warning(gpu=False)) == (backbone == "vgg16")
