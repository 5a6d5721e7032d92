"""What shards say of their images beside the bytes: sizes and descriptors, without decoding anything again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data.decode import ImageLimits, decode
from components.data.descriptor import DESCRIPTOR_BYTES, descriptor
from components.data.shards import ShardReader


def read_descriptors(reader: ShardReader, rows: pa.Table, limits: ImageLimits) -> NDArray[np.uint8]:
    """Return the descriptors (N, DESCRIPTOR_BYTES) of manifest rows with stored bytes, in their order.

    limits: those of images in shards from before descriptors were kept; these are decoded. Raises IntegrityError for a
    shard that is missing, damaged or shorter.
    """
    shards, places = rows["shard"].to_pylist(), rows["row"].to_numpy()
    descriptors = np.empty((len(shards), DESCRIPTOR_BYTES), np.uint8)
    for shard, chosen in _by_shard(shards).items():
        column = reader.column(shard, "descriptor")
        if column is None:
            for number in chosen:
                image = decode(reader.read(shard, int(places[number])), limits)
                descriptors[number] = descriptor(image)
        else:
            reader.read(shard, int(places[chosen].max()))  # says so if the shard is shorter
            descriptors[chosen] = _matrix(column)[places[chosen]]
    return descriptors


def read_sizes(reader: ShardReader, rows: pa.Table) -> NDArray[np.int32]:
    """Return width and height (N, 2) of manifest rows with stored bytes; 0 where the shard is from before sizes."""
    shards, places = rows["shard"].to_pylist(), rows["row"].to_numpy()
    sizes = np.zeros((len(shards), 2), np.int32)
    for shard, chosen in _by_shard(shards).items():
        for axis, name in enumerate(("width", "height")):
            column = reader.column(shard, name)
            if column is not None:
                sizes[chosen, axis] = column.to_numpy()[places[chosen]]
    return sizes


def _by_shard(shards: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    names, inverse = np.unique(np.array(shards, dtype=object), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.searchsorted(inverse[order], np.arange(1, len(names))))
    return dict(zip(names.tolist(), parts, strict=True)) if len(names) else {}


def _matrix(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    parts = []
    for chunk in column.chunks:
        start = chunk.offset * DESCRIPTOR_BYTES
        flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * DESCRIPTOR_BYTES, start)
        parts.append(flat.reshape(-1, DESCRIPTOR_BYTES))
    return np.concatenate(parts)
