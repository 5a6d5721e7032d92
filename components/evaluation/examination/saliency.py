"""Where a network looked: which pixels spoke for the answer it gave."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec

UInt8Array = NDArray[np.uint8]
FloatArray = NDArray[np.float32]

STEPS = 16
BRIGHT = 99.0  # percentile of an image's pixels, from which the heat is full
SIDE = 96  # pixels of a picture
GLOW = (255, 96, 0)


def saliency(network: nn.Module, spec: PreprocessSpec, images: UInt8Array, answers: NDArray[np.int64]) -> FloatArray:
    """Return how much every pixel (N, size, size) spoke for the class that was answered (N,), in 0..1.

    images: (N, size, size, channels) uint8. Integrated gradients from the training set's mean image (Sundararajan et
    al. 2017), their positive part summed over the channels, a little smoothed.
    """
    from captum.attr import IntegratedGradients
    from scipy.ndimage import gaussian_filter

    device = next(network.parameters()).device
    inputs = Normalise(spec).to(device)(torch.from_numpy(images).to(device))
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it asks for gradients of what had none
        of_pixels = IntegratedGradients(network).attribute(
            inputs, target=torch.from_numpy(answers).to(device), n_steps=STEPS, internal_batch_size=64
        )
    heat = of_pixels.detach().float().cpu().numpy().clip(min=0).sum(axis=1)  # (N, size, size)
    heat = gaussian_filter(heat, (0, spec.size / 40, spec.size / 40))
    full = np.percentile(heat, BRIGHT, axis=(1, 2), keepdims=True)
    return np.asarray(np.clip(heat / np.maximum(full, 1e-12), 0, 1), np.float32)


def glowing(image: UInt8Array, heat: FloatArray) -> Image.Image:
    """Return an image (size, size, channels) in grey, with its heat (size, size) in 0..1 glowing over it."""
    grey = image.astype(np.float32).mean(axis=2)[..., None]
    share = 0.75 * heat[..., None]
    mixed = (1 - share) * (40 + 0.6 * grey) + share * np.array(GLOW, np.float32)
    return Image.fromarray(np.asarray(np.rint(mixed), np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
