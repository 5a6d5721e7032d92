"""What is measured of every image beside its pixels, so that drift of the pictures themselves can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.records import IMAGE_STATISTICS

THUMBNAIL_SIDE = 64

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Glance:
    """What the statistics of one image need: a thumbnail (h, w) or (h, w, 3) uint8, and the file's measures."""

    thumbnail: NDArray[np.uint8]
    width: int
    height: int
    size_bytes: int

    @classmethod
    def at(cls, image: Image.Image, size_bytes: int) -> Glance:
        """Return the glance at a decoded image in mode L or RGB; its thumbnail has at most 64 pixels a side."""
        width, height = image.size
        factor = max(1, -(-max(width, height) // THUMBNAIL_SIDE))
        return cls(np.asarray(image.reduce(factor) if factor > 1 else image), width, height, size_bytes)


def image_statistics(glances: Sequence[Glance]) -> FloatArray:
    """Return the (N, 8) statistics of N images, in the order of IMAGE_STATISTICS.

    brightness, contrast (standard deviation), sharpness (standard deviation of the Laplacian) and saturation lie in
    0..1; width, height and bytes are what they say, aspect is width / height. An image's numbers do not depend on the
    images it comes with.
    """
    columns = {name: np.zeros(len(glances), np.float32) for name in IMAGE_STATISTICS}
    columns["width"][:] = [glance.width for glance in glances]
    columns["height"][:] = [glance.height for glance in glances]
    columns["aspect"][:] = [glance.width / glance.height for glance in glances]
    columns["bytes"][:] = [glance.size_bytes for glance in glances]
    # Thumbnails of one shape together: for small images a call of numpy costs more than its work.
    shapes: dict[tuple[int, ...], list[int]] = {}
    for place, glance in enumerate(glances):
        shapes.setdefault(glance.thumbnail.shape, []).append(place)
    for places in shapes.values():
        pixels = np.stack([glances[place].thumbnail for place in places]).astype(np.float32)
        grey = pixels if pixels.ndim == 3 else pixels @ np.array([0.299, 0.587, 0.114], np.float32)
        flat = grey.reshape(len(grey), -1)
        columns["brightness"][places] = flat.mean(axis=1) / 255
        columns["contrast"][places] = np.minimum(1, flat.std(axis=1) / 127.5)
        columns["sharpness"][places] = _sharpness(grey)
        columns["saturation"][places] = _saturation(pixels)
    return np.stack([columns[name] for name in IMAGE_STATISTICS], axis=1)


def _sharpness(grey: FloatArray) -> FloatArray:
    if min(grey.shape[1:]) < 3:
        return np.zeros(len(grey), np.float32)
    inner = grey[:, 1:-1, 1:-1]
    across, down = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:], grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    laplacian = (down + across - 4 * inner).reshape(len(grey), -1)
    return np.asarray(np.minimum(1, laplacian.std(axis=1) / 1020), np.float32)


def _saturation(pixels: FloatArray) -> FloatArray:
    if pixels.ndim == 3:
        return np.zeros(len(pixels), np.float32)
    high = pixels.max(axis=3)
    share = (high - pixels.min(axis=3)) / np.maximum(high, 1)
    return np.asarray(share.reshape(len(pixels), -1).mean(axis=1), np.float32)
