"""What a network, left as it is, sees in images: a number of features each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build, embed_and_answer
from components.model.serving.export import to_onnx
from components.model.serving.predictor import Predictor

IMAGES_AT_ONCE = 256


class FrozenNetwork:
    """A network in eval mode, asked for what its last layer is given.

    On a GPU it is asked as it is; on a CPU it is exported first: ONNX Runtime takes a fifth of eager torch's time.
    """

    def __init__(self, network: nn.Module, spec: PreprocessSpec) -> None:
        network.eval()
        self._network, self._spec, self._predictor = network, spec, None
        if torch.cuda.is_available():
            self._network = network.cuda()
            self._normalise = Normalise(spec).cuda()
            return
        with TemporaryDirectory(prefix="perennial-features-") as name:
            folder, model = Path(name), ModelSpec(("-", "+"), spec, "frozen")
            to_onnx(network, model, folder / ONNX_FILE)
            write_spec(folder, replace(model, onnx_sha256=file_sha256(folder / ONNX_FILE)))
            self._predictor = Predictor(folder)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (N, D) of images (N, size, size, channels)."""
        parts = [images[start : start + IMAGES_AT_ONCE] for start in range(0, len(images), IMAGES_AT_ONCE)]
        return np.concatenate([self._some(part) for part in parts])

    def _some(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._predictor is not None:
            return self._predictor.embed(images)
        with torch.inference_mode():
            pixels = self._normalise(torch.from_numpy(images).cuda())
            return np.asarray(embed_and_answer(self._network, pixels)[0].float().cpu().numpy())


def frozen_features(
    parts: Iterable[NDArray[np.uint8]], backbone: str, pretrained: str, spec: PreprocessSpec
) -> NDArray[np.float32]:
    """Return the features (N, D) of images: what the backbone's last layer is given.

    parts: the images in their order, (n, size, size, channels) uint8 each, N in all. pretrained: as of `build`. Raises
    as `build`.
    """
    network = build(backbone, classes=2, channels=spec.channels, size=spec.size, dropout=0.0, pretrained=pretrained)
    frozen = FrozenNetwork(network, spec)
    return np.concatenate([frozen.features(part) for part in parts if len(part)])
