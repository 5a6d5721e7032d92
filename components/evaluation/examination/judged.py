"""The set of images that a model is judged on, as the report's further questions need it: samples, never all pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from components.data.described import read_sizes
from components.evaluation.metrics.one_class import Answers
from components.evaluation.metrics.slices import UNKNOWN, terciles
from components.model.artifact import ModelSpec
from components.model.images.dataset import StoredImages

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedImages:
    """N images that a network answers. rows: the manifest's. brightness: (N,) mean of the pixels, in 0..1."""

    network: nn.Module
    spec: ModelSpec
    stored: StoredImages
    rows: pa.Table
    brightness: NDArray[np.float64]

    def drawn(self, most: int, seed: int = 0) -> IntArray:
        """Return the places of at most `most` images, drawn by `seed`, in their order."""
        return drawn(len(self.rows), most, seed)

    def pixels(self, places: IntArray) -> NDArray[np.uint8]:
        """Return the pixels (n, size, size, channels) uint8 of some of the images. Raises as `StoredImages.pixels`."""
        return self.stored.pixels(self.rows.take(pa.array(places)), self.spec.preprocess)

    def properties(self) -> dict[str, list[str]]:
        """Return what the images can be sliced by: for every property, its value (N,) of each image."""
        sizes = read_sizes(self.stored.reader, self.rows).astype(np.float64)
        side = np.sqrt(sizes[:, 0] * sizes[:, 1])
        captured = self.rows["captured_at"].to_pylist()
        return {
            "source": [name or UNKNOWN for name in self.rows["source"].to_pylist()],
            "size": terciles(np.where(side > 0, side, np.nan), ("small", "middling", "large"), " pixels a side"),
            "brightness": terciles(100 * self.brightness, ("dark", "middling", "bright"), " %"),
            "labelled in": [window or "before production" for window in self.rows["window"].to_pylist()],
            "captured in": [UNKNOWN if time is None else f"{time:%Y-%m}" for time in captured],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Judged(JudgedImages):
    """The same with the answers, one class each. energy: (N,), of the logits; higher is stranger."""

    answers: Answers
    energy: NDArray[np.float32]
    temperature: float

    @property
    def labels(self) -> IntArray:
        """Return the class indices (N,)."""
        return self.answers.labels


def drawn(images: int, most: int, seed: int = 0) -> IntArray:
    """Return at most `most` of the places 0..images-1, drawn by `seed`, in their order."""
    if images <= most:
        return np.arange(images)
    return np.sort(np.random.default_rng(seed).permutation(images)[:most])
