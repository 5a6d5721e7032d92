"""What shards say of their images beside the bytes: sizes and descriptors, without decoding anything again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.data.decoding.decode import ImageLimits, decode
from components.data.descriptor import DESCRIPTOR_BYTES, descriptor
from components.data.shards import ShardReader


def read_descriptors(reader: ShardReader, rows: pa.Table, limits: ImageLimits) -> NDArray[np.uint8]:
    """Return the descriptors (N, DESCRIPTOR_BYTES) of manifest rows with stored bytes, in their order.

    limits: those of images in shards from before descriptors were kept; these are decoded. Raises IntegrityError for a
    shard that is missing, damaged or shorter.
    """
    places = rows["row"].to_numpy()
    descriptors = np.empty((rows.num_rows, DESCRIPTOR_BYTES), np.uint8)
    for shard, chosen in _by_shard(rows["shard"]).items():
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
    places = rows["row"].to_numpy()
    sizes = np.zeros((rows.num_rows, 2), np.int32)
    for shard, chosen in _by_shard(rows["shard"]).items():
        for axis, name in enumerate(("width", "height")):
            column = reader.column(shard, name)
            if column is not None:
                sizes[chosen, axis] = column.to_numpy()[places[chosen]]
    return sizes


def _by_shard(shards: pa.ChunkedArray) -> dict[str, NDArray[np.int64]]:
    """Return the rows that lie in each shard; a name is never made a Python string for each of its rows."""
    encoded = pc.dictionary_encode(shards.combine_chunks())
    inverse = encoded.indices.to_numpy()
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.searchsorted(inverse[order], np.arange(1, len(encoded.dictionary))))
    return dict(zip(encoded.dictionary.to_pylist(), parts, strict=False))


def _matrix(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    parts = []
    for chunk in column.chunks:
        start = chunk.offset * DESCRIPTOR_BYTES
        flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * DESCRIPTOR_BYTES, start)
        parts.append(flat.reshape(-1, DESCRIPTOR_BYTES))
    return np.concatenate(parts)
