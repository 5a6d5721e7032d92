"""Changes of what images look like: simulated worlds make them, and drift is held against them to be named.

The label of an image stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from components.errors import ConfigurationError

UInt8Array = NDArray[np.uint8]
Change = Callable[[UInt8Array, float, np.random.Generator], UInt8Array]


def apply(kind: str, image: UInt8Array, severity: float, rng: np.random.Generator) -> UInt8Array:
    """Return `image`, (H, W) or (H, W, 3) uint8, changed by a kind of APPEARANCE.

    severity: 0 (unchanged) to 1. Raises ConfigurationError for another kind.
    """
    change = APPEARANCE.get(kind)
    if change is None:
        raise ConfigurationError(f"shift {kind!r} does not change pixels; those that do: {', '.join(APPEARANCE)}")
    return change(image, severity, rng)


def _brightness(image: UInt8Array, severity: float, _rng: np.random.Generator) -> UInt8Array:
    """Darken, at most to a fifth: poor light."""
    return _rounded(image * (1 - 0.8 * severity))


def _contrast(image: UInt8Array, severity: float, _rng: np.random.Generator) -> UInt8Array:
    """Pull every pixel toward the image's mean, at most nine tenths of the way: haze."""
    mean = image.mean()
    return _rounded(mean + (image - mean) * (1 - 0.9 * severity))


def _blur(image: UInt8Array, severity: float, _rng: np.random.Generator) -> UInt8Array:
    """Blur with a Gaussian whose radius is at most a tenth of the shorter side."""
    radius = 0.1 * min(image.shape[:2]) * severity
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _noise(image: UInt8Array, severity: float, rng: np.random.Generator) -> UInt8Array:
    """Add Gaussian noise of at most 80 grey levels standard deviation: a bad sensor."""
    return _rounded(image + rng.normal(0.0, 80 * severity, image.shape))


def _rotate(image: UInt8Array, severity: float, rng: np.random.Generator) -> UInt8Array:
    """Turn to either side by at most 90 degrees: a camera mounted askew."""
    degrees = 90 * severity * (1 if rng.random() < 0.5 else -1)
    return np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))


def _invert(image: UInt8Array, severity: float, rng: np.random.Generator) -> UInt8Array:
    """Swap dark and light in the `severity` share of the images."""
    inverted: UInt8Array = image ^ np.uint8(255)
    return inverted if rng.random() < severity else image


def _new_style(image: UInt8Array, severity: float, rng: np.random.Generator) -> UInt8Array:
    """Swap dark and light and mirror, in the `severity` share of the images: another photographer."""
    return _invert(image[:, ::-1], 1.0, rng) if rng.random() < severity else image


def _rounded(values: NDArray[np.floating[Any]]) -> UInt8Array:
    levels: UInt8Array = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


APPEARANCE: Mapping[str, Change] = MappingProxyType(
    {
        "brightness": _brightness,
        "contrast": _contrast,
        "blur": _blur,
        "noise": _noise,
        "rotate": _rotate,
        "invert": _invert,
        "new_style": _new_style,
    }
)
