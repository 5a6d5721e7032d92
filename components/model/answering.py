"""What a network answers, without what it takes to train one: Lightning costs three seconds before the first image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec


def predict_logits(
    network: nn.Module, images: NDArray[np.uint8], spec: PreprocessSpec, batch_size: int = 512
) -> NDArray[np.float32]:
    """Return logits (N, K) of images (N, size, size, channels) uint8, computed in fp32 on the network's device."""
    first = next(network.parameters())
    normalise = Normalise(spec).to(first.device)
    network.eval()
    with torch.inference_mode():
        parts = [
            network(normalise(torch.from_numpy(images[start : start + batch_size]).to(first.device)))
            .float()
            .cpu()
            .numpy()
            for start in range(0, max(1, len(images)), batch_size)
        ]
    return np.concatenate(parts)
