"""Images that look the same and have different labels: one of the two is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.ingestion.near_duplicates import NEAR, near_pairs


@dataclass(frozen=True, slots=True, eq=False)
class Conflicts:
    """Near-duplicates in conflict. images: how many have a near-duplicate.

    first, second: (C,) rows of those pairs whose labels differ. likeness: (C,) 0..1, 1 for equal pixels.
    """

    images: int
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    likeness: NDArray[np.float64]

    def report(self) -> dict[str, Any]:
        """Return what metrics.json says."""
        return {"images": self.images, "conflicts": len(self.first)}


def find_conflicts(descriptors: NDArray[np.uint8], labels: NDArray[np.integer], within: float = NEAR) -> Conflicts:
    """Return which of the images contradict a near-duplicate.

    descriptors: (N, DESCRIPTOR_BYTES). labels: (N,) class indices. within: the largest distance of near-duplicates; 0:
    there are none. Of each group of near-duplicates, the pairs that
    join it are looked at, nearest first, not every pair.
    """
    pairs = near_pairs(descriptors if within else descriptors[:0], descriptors[:0], within=within)
    differ = labels[pairs.first] != labels[pairs.second]
    images = len(np.unique(np.concatenate([pairs.first, pairs.second])))
    likeness = 1 - pairs.distance[differ] / (within or 1)
    return Conflicts(images, pairs.first[differ], pairs.second[differ], likeness)
