"""What a pre-trained backbone, left as it is, sees in images: a number of features each, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.serving.export import to_onnx
from components.model.serving.predictor import Predictor

IMAGES_AT_ONCE = 256


def frozen_features(
    parts: Iterable[NDArray[np.uint8]], backbone: str, pretrained: str, spec: PreprocessSpec
) -> NDArray[np.float32]:
    """Return the features (N, D) of images: what the backbone's last layer is given.

    parts: the images in their order, (n, size, size, channels) uint8 each, N in all. pretrained: as of `build`. The
    network is exported first: ONNX Runtime takes a fifth of eager torch's time on a CPU. Raises as `build`.
    """
    network = build(backbone, classes=2, channels=spec.channels, size=spec.size, dropout=0.0, pretrained=pretrained)
    with TemporaryDirectory(prefix="perennial-features-") as name:
        folder, model = Path(name), ModelSpec(("-", "+"), spec, backbone)
        to_onnx(network.eval(), model, folder / ONNX_FILE)
        write_spec(folder, replace(model, onnx_sha256=file_sha256(folder / ONNX_FILE)))
        predictor = Predictor(folder)
    some = (part[start : start + IMAGES_AT_ONCE] for part in parts for start in range(0, len(part), IMAGES_AT_ONCE))
    return np.concatenate([predictor.embed(images) for images in some])
