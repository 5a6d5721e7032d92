"""From rows of the manifest to arrays in memory, through the one preprocessing function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data.decode import ImageLimits, ImageRejected
from components.data.shards import ShardReader
from components.errors import DataError
from components.model.preprocess import PreprocessSpec, decode_and_resize

ROWS_AT_ONCE = 256  # a thread's turn, long enough for its cost not to matter


def load_images(rows: pa.Table, reader: ShardReader, spec: PreprocessSpec, limits: ImageLimits) -> NDArray[np.uint8]:
    """Return the pixels (N, size, size, channels) uint8 of manifest rows, in their order.

    Raises IntegrityError if stored bytes differ from their image id, and DataError for one that does not decode.
    """
    places = list(zip(*(rows[name].to_pylist() for name in ("shard", "row", "image_id", "name")), strict=True))
    images = np.empty((len(places), spec.size, spec.size, spec.channels), dtype=np.uint8)

    def fill(start: int) -> None:
        for number, place in enumerate(places[start : start + ROWS_AT_ONCE], start):
            images[number] = _load_one(place, reader, spec, limits)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(0, len(places), ROWS_AT_ONCE)):
            pass
    return images


def label_indices(rows: pa.Table, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class indices (N,) of manifest rows. Raises DataError for a label outside `classes`."""
    index = {name: number for number, name in enumerate(classes)}
    labels = rows["label"].to_pylist()
    for image_id, label in zip(rows["image_id"].to_pylist(), labels, strict=True):
        if label not in index:
            raise DataError(f"image {image_id}: label {label!r} is not in the class list; correct the label, or add it")
    return np.array([index[label] for label in labels], dtype=np.int64)


def _load_one(place: tuple[Any, ...], reader: ShardReader, spec: PreprocessSpec, limits: ImageLimits) -> Any:
    shard, row, image_id, name = place
    if shard is None:
        raise DataError(f"image {image_id} ({name}) is active in the manifest but has no bytes stored; ingest it again")
    try:
        return decode_and_resize(reader.read_verified(shard, row, image_id), spec, limits)
    except ImageRejected as error:
        raise DataError(
            f"image {image_id} ({name}) was accepted once and is refused now, {error}; "
            "recall it, or undo the change of the limits in params.yaml"
        ) from error
