"""What an image looks like in a few bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DESCRIPTOR_BYTES = 176


def descriptor(image: Image.Image) -> NDArray[np.uint8]:
    """Return (176,)."""
    luma, blue, red = image.convert("YCbCr").resize((12, 12), Image.Resampling.BOX).split()
    small = [np.asarray(part.resize((4, 4), Image.Resampling.BOX)).ravel() for part in (blue, red)]
    return np.concatenate([np.asarray(luma).ravel(), *small])
