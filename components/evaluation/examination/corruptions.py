"""Common corruptions of images, each at five severities, after those of Hendrycks and Dietterich 2019 in kind.

Strengths are in shares of the grey scale and of the image's side, so that they mean the same at 28 and at 224 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.errors import ConfigurationError

UInt8Array = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Generator = np.random.Generator
Corruption = Callable[[FloatArray, int, Generator], FloatArray]

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(kind: str, images: UInt8Array, severity: int, seed: int = 0) -> UInt8Array:
    """Return images (N, size, size, channels) uint8 with one of CORRUPTIONS, the same for the same seed.

    severity: 1 to 5. Raises ConfigurationError for another kind or severity.
    """
    if kind not in CORRUPTIONS or severity not in SEVERITIES:
        raise ConfigurationError(
            f"corruption {kind!r} at severity {severity!r}; there are {', '.join(CORRUPTIONS)}, at 1 to 5"
        )
    generator = np.random.default_rng([seed, list(CORRUPTIONS).index(kind)])  # the same draws at every severity
    changed = CORRUPTIONS[kind](np.asarray(images / 255, np.float32), severity - 1, generator)
    return np.asarray(np.rint(255 * np.clip(changed, 0, 1)), np.uint8)


def _gaussian_noise(x: FloatArray, level: int, generator: Generator) -> FloatArray:
    strength = np.float32((0.04, 0.08, 0.12, 0.18, 0.26)[level])
    return np.asarray(x + strength * generator.standard_normal(x.shape, np.float32), np.float32)


def _shot_noise(x: FloatArray, level: int, generator: Generator) -> FloatArray:
    """Count photons: the fewer, the noisier."""
    photons = (60, 25, 12, 6, 3)[level]
    return np.asarray(generator.poisson(x * photons) / photons, np.float32)


def _gaussian_blur(x: FloatArray, level: int, _generator: Generator) -> FloatArray:
    from scipy.ndimage import gaussian_filter

    sigma = x.shape[1] * (0.015, 0.025, 0.035, 0.05, 0.07)[level]
    return np.asarray(gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest"), np.float32)


def _motion_blur(x: FloatArray, level: int, generator: Generator) -> FloatArray:
    """Smear across or down."""
    from scipy.ndimage import uniform_filter1d

    length = max(2, round(x.shape[1] * (0.07, 0.12, 0.18, 0.25, 0.35)[level]))
    across = generator.random(len(x)) < 0.5
    smeared = [uniform_filter1d(x, length, axis=axis, mode="nearest") for axis in (2, 1)]
    return np.asarray(np.where(across[:, None, None, None], *smeared), np.float32)


def _brightness(x: FloatArray, level: int, _generator: Generator) -> FloatArray:
    return x + (0.1, 0.2, 0.3, 0.4, 0.5)[level]


def _contrast(x: FloatArray, level: int, _generator: Generator) -> FloatArray:
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(mean + (x - mean) * (0.75, 0.55, 0.4, 0.25, 0.12)[level], np.float32)


def _haze(x: FloatArray, level: int, generator: Generator) -> FloatArray:
    """Lay an uneven, bright veil over the image."""
    from scipy.ndimage import gaussian_filter

    side = x.shape[1]
    veil = gaussian_filter(generator.random((len(x), side, side), np.float32), (0, side / 8, side / 8), mode="wrap")
    low, high = veil.min(axis=(1, 2), keepdims=True), veil.max(axis=(1, 2), keepdims=True)
    veil = 0.6 + 0.4 * (veil - low) / np.maximum(high - low, 1e-6)
    share = (0.2, 0.35, 0.5, 0.62, 0.75)[level]
    return np.asarray((1 - share) * x + share * veil[..., None], np.float32)


def _jpeg(x: FloatArray, level: int, _generator: Generator) -> FloatArray:
    quality = (50, 30, 20, 12, 7)[level]

    def stored(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _one_by_one(x, stored)


def _pixelate(x: FloatArray, level: int, _generator: Generator) -> FloatArray:
    side = x.shape[1]
    small = max(2, round(side * (0.7, 0.55, 0.4, 0.3, 0.22)[level]))

    def coarse(image: Image.Image) -> Image.Image:
        return image.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.NEAREST)

    return _one_by_one(x, coarse)


def _rotation(x: FloatArray, level: int, generator: Generator) -> FloatArray:
    """Turn to either side; the edge is repeated."""
    from scipy.ndimage import rotate

    degrees = (6, 12, 20, 30, 45)[level]
    left = generator.random(len(x)) < 0.5
    turned = x.copy()
    for side, angle in ((left, degrees), (~left, -degrees)):
        if side.any():
            turned[side] = rotate(x[side], angle, axes=(1, 2), reshape=False, order=1, mode="nearest")
    return turned


def _occlusion(x: FloatArray, level: int, generator: Generator) -> FloatArray:
    """Hide a square somewhere behind grey."""
    size = x.shape[1]
    side = max(1, round(size * (0.15, 0.25, 0.35, 0.45, 0.55)[level]))
    places = (generator.random((len(x), 2)) * (size - side + 1)).astype(np.int64)
    steps = np.arange(size)
    inside = [(steps >= place[:, None]) & (steps < place[:, None] + side) for place in places.T]
    hidden = inside[0][:, :, None] & inside[1][:, None, :]
    return np.where(hidden[..., None], np.float32(0.5), x)


def _one_by_one(x: FloatArray, change: Callable[[Image.Image], Image.Image]) -> FloatArray:
    images = np.asarray(np.rint(255 * x), np.uint8)
    grey = x.shape[-1] == 1
    changed = [np.asarray(change(Image.fromarray(image[..., 0] if grey else image))) for image in images]
    return np.asarray(np.stack(changed).reshape(x.shape) / 255, np.float32)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "Gaussian noise": _gaussian_noise,
        "shot noise": _shot_noise,
        "Gaussian blur": _gaussian_blur,
        "motion blur": _motion_blur,
        "brightness": _brightness,
        "contrast": _contrast,
        "haze": _haze,
        "JPEG": _jpeg,
        "pixelate": _pixelate,
        "rotation": _rotation,
        "occlusion": _occlusion,
    }
)
"""In this order; a new one goes last, since each draws by its place."""
