"""Synthetic images of several labels: two pictures of single things side by side, one, or none at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.data.png import encode_png


@dataclass(frozen=True)
class Collage:
    """pixels: (side, 2 * side) uint8. labels: what it shows, each once."""

    pixels: NDArray[np.uint8]
    labels: frozenset[str]


def collages(
    images: NDArray[np.uint8], labels: NDArray[np.integer], names: Sequence[str], number: int, seed: int
) -> list[Collage]:
    """Return `number` collages of images (N, side, side) with class indices (N,): 75 % of two, 15 % of one, 10 % empty.

    Every image is used once as long as there are enough. Sides are chosen by chance, and all lie on faint noise.
    """
    rng = np.random.default_rng(seed)
    side, order = images.shape[1], rng.permutation(len(images))
    found, taken = [], 0
    for _ in range(number):
        things = int(rng.choice(3, p=(0.1, 0.15, 0.75)))
        pixels = rng.integers(0, 24, (side, 2 * side)).astype(np.uint8)
        shown = set()
        for place in rng.permutation(2)[:things]:
            which = order[taken % len(order)]
            taken += 1
            part = pixels[:, place * side : (place + 1) * side]
            np.maximum(part, images[which], out=part)
            shown.add(names[int(labels[which])])
        found.append(Collage(pixels, frozenset(shown)))
    return found


def write_list(folder: Path, made: Sequence[Collage]) -> Path:
    """Write the collages as PNG files with a list of their labels beside them, and return the list."""
    folder.mkdir(parents=True)
    rows = []
    for number, one in enumerate(made):
        name = f"{number:06d}.png"
        (folder / name).write_bytes(encode_png(one.pixels))
        rows.append(json.dumps({"path": name, "label": sorted(one.labels)}))
    path = folder / "list.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
