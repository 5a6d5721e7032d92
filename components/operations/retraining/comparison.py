"""Candidate and champion on the same images: what the gate decides on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data.decoding.decode import ImageLimits
from components.data.manifest import Manifest, without
from components.data.shards import ShardReader
from components.model.images.preprocess import decode_and_resize
from components.model.serving.predictor import Predictor
from components.params import Params
from components.records import Window

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Images no model of this loop trains on. labels: (N,) class names; golden: (N,) bool, from production."""

    rows: pa.Table
    labels: tuple[str, ...]
    golden: NDArray[np.bool_]


def held_out(manifest: Manifest, golden_windows: int, outdated: Collection[str] = ()) -> HeldOut:
    """Return the gate's images: validation, and the golden rows of the latest `golden_windows` windows.

    outdated: image ids whose labels no longer count; they would have the candidate answer as the champion did.
    """
    rows = without(manifest.select("validation", "golden"), outdated)
    windows = {w for w in manifest.select("golden")["window"].to_pylist() if w is not None}
    # By time, not by name: after a change of monitor.window there are months and weeks among them.
    latest = set(sorted(windows, key=Window.parse)[-golden_windows:])
    split, window = rows["split"].to_pylist(), rows["window"].to_pylist()
    kept = np.array([s != "golden" or w is None or w in latest for s, w in zip(split, window, strict=True)], bool)
    rows = rows.filter(pa.array(kept))
    golden = np.array([s == "golden" for s in rows["split"].to_pylist()], bool)
    return HeldOut(rows, tuple(rows["label"].to_pylist()), golden)


def probabilities(
    predictor: Predictor, rows: pa.Table, reader: ShardReader, limits: ImageLimits, batch: int
) -> FloatArray:
    """Return the predictor's calibrated probabilities (N, K) of the images in `rows`, through its own preprocessing."""
    places = list(zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True))
    found: list[FloatArray] = []
    for start in range(0, len(places), batch):
        images = [
            decode_and_resize(reader.read(shard, row), predictor.spec.preprocess, limits)
            for shard, row in places[start : start + batch]
        ]
        found.append(predictor.predict(np.stack(images))[1])
    return np.concatenate(found) if found else np.empty((0, len(predictor.spec.classes)), np.float32)


def clone_reader(root: Path, params: Params) -> ShardReader:
    """Return the reader of a dataset version's shards in a clone."""
    return ShardReader(root / params.paths.images)
