"""What augmentation makes of some training images, on one picture: a person sees at once what goes too far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from components.model.training.augmentation import augment
from components.model.training.objectives.mixing import mix
from components.params import Augment

ROWS, VARIATIONS = 8, 8
GAP = 2  # pixels of white between pictures
SMALLEST, LARGEST = 48, 112  # pixels a side of a picture on the sheet


def write_contact_sheet(images: NDArray[np.uint8], rules: Augment, seed: int, path: Path) -> None:
    """Write a PNG: a row for each of the first 8 images, the image itself and 8 variations as training sees them.

    images: (N, size, size, channels) uint8. Mixing is shown too: among the 8, as within a batch.
    """
    shown = torch.from_numpy(images[:ROWS])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        columns = [shown.permute(0, 3, 1, 2).float() / 255]
        for _ in range(VARIATIONS):
            pixels = augment(shown, rules)
            mixed = mix(pixels, rules)
            columns.append(pixels if mixed is None else mixed.pixels)
    grid = torch.stack(columns, dim=1).permute(0, 1, 3, 4, 2)  # (rows, columns, size, size, channels)
    drawn = (grid * 255).round().clamp(0, 255).byte().numpy()
    side = min(LARGEST, max(SMALLEST, images.shape[1]))
    step = side + GAP
    sheet = Image.new("RGB", (step * (VARIATIONS + 1) + GAP, step * len(shown) + GAP), "white")
    for row, column in np.ndindex(drawn.shape[:2]):
        picture = drawn[row, column]
        small = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        sheet.paste(small.resize((side, side), Image.Resampling.NEAREST), (GAP + step * column, GAP + step * row))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
