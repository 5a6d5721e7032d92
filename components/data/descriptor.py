"""What an image looks like, in 177 bytes: near-duplicates have descriptors close to each other, others do not.

Luma is averaged to 12 × 12 cells, less its mean and divided by the image's contrast; colour to 4 × 4 cells of Cb and
of Cr, divided by the same; the mean luma comes last. So another size, another JPEG quality and a little more or less
light change few of the bytes by much, and a pale scan is told from another as a bright picture is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DESCRIPTOR_RULES = 1
"""Raised by one whenever a rule below changes what bytes an image gives; descriptors of two rules never compare."""

CELLS = 12
COLOUR_CELLS = 4
DESCRIPTOR_BYTES = CELLS**2 + 2 * COLOUR_CELLS**2 + 1

SQUARED_WEIGHTS: NDArray[np.int64] = np.repeat([1, 4, 2], [CELLS**2, 2 * COLOUR_CELLS**2, 1])
"""(DESCRIPTOR_BYTES,): what a squared difference of each byte counts. A cell of colour covers nine of luma but counts
four times as much: JPEG keeps colour worst."""

LEAST_CONTRAST = 8.0
"""Grey levels. Paler images are not stretched further: what is left in them is noise; all blank sheets are one."""

LEVELS_PER_CONTRAST = 32
"""Bytes' steps for a difference of one contrast, so four contrasts to either side of the mean are told apart."""

_WORKED_ON = 4 * CELLS  # pixels a side, at least, before cells are cut exactly: large images are averaged to it first
_SHARE = CELLS // COLOUR_CELLS

FloatArray = NDArray[np.float32]


def descriptor(image: Image.Image) -> NDArray[np.uint8]:
    """Return what a decoded image looks like, (DESCRIPTOR_BYTES,): luma cells row by row, Cb, Cr, mean luma.

    image: mode "L" or "RGB", of any size. A grey image gives the same in either mode. Luma and colour bytes are 128 +
    LEVELS_PER_CONTRAST × (cell's luma less the mean, or Cb, or Cr) / contrast, clipped; the contrast is the root of
    the cells' variances in luma, Cb and Cr together, at least LEAST_CONTRAST.
    """
    across, down = max(1, image.width // _WORKED_ON), max(1, image.height // _WORKED_ON)
    small = image.reduce((across, down)) if max(across, down) > 1 else image
    pixels: FloatArray = np.asarray(small).astype(np.float32)
    rows, columns = _cells(image.height, down), _cells(image.width, across)
    levels = np.zeros(DESCRIPTOR_BYTES, np.float32)
    colour: FloatArray | None = None
    if pixels.ndim == 2:
        luma = rows @ pixels @ columns.T
    else:
        red, green, blue = rows @ pixels.transpose(2, 0, 1) @ columns.T
        luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as in JPEG
        colour = np.stack([(blue - luma) * 0.564, (red - luma) * 0.713])
        levels[luma.size : -1] = colour.reshape(2, COLOUR_CELLS, _SHARE, COLOUR_CELLS, _SHARE).mean((2, 4)).ravel()
    mean = luma.sum() / luma.size
    around = levels[: luma.size]
    np.subtract(luma.ravel(), mean, out=around)
    variance = float(around @ around) / luma.size
    if colour is not None:
        variance += float(colour.var(axis=(1, 2)).sum())
    levels *= LEVELS_PER_CONTRAST / max(LEAST_CONTRAST, variance**0.5)
    levels += 128
    levels[-1] = mean
    return np.rint(levels).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=512)
def _cells(length: int, factor: int) -> FloatArray:
    """Return the weights, (CELLS, pixels), of pixels in cells; every `factor` of `length` pixels are one already.

    Each cell is a tent that reaches to the middles of its neighbours, integrated over each pixel: unlike a sampled
    filter, an image and its double, whatever the size, give the same.
    """
    pixels = -(-length // factor)
    edges = np.minimum(np.arange(pixels + 1) * (factor * CELLS / length), CELLS)
    middles = np.arange(CELLS)[:, None] + 0.5
    offsets = (edges - middles).clip(-1, 1)
    below = np.where(offsets < 0, (1 + offsets) ** 2 / 2, 1 - (1 - offsets) ** 2 / 2)
    weights = np.diff(below, axis=1)
    whole: FloatArray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return whole
