"""A chunk of predictions as the columns PostgreSQL copies in: checked, with `u`, bins and the runners-up added."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.records import CONFIDENCE_EDGES, IMAGE_STATISTICS, ScoredChunk
from components.store.values import clean_text

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

COPIED_COLUMNS = (
    "month",
    "batch_number",
    "model_version",
    "shadow",
    "shard_id",
    "latency_ms",
    "item_no",
    "u",
    "shard_row",
    "predicted",
    "conf_bin",
    "u_octave",
    "second_class",
    "third_class",
    "confidence",
    "second_confidence",
    "third_confidence",
    "ood_score",
    *IMAGE_STATISTICS,
    "needs_review",
    "image_id",
    "name",
    "probabilities",
)

_ID_LENGTH = 64
_HASHES_A_BLOCK = 8
OCTAVES = 20


def uniform_of(batch_id: str, item_no: int) -> float:
    """Return `u` of one prediction: a keyed hash of (batch, item), uniform in [0, 1), the same on every machine."""
    import numpy as np

    return float(uniforms_of(batch_id, np.array([item_no]))[0])


def uniforms_of(batch_id: str, item_no: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return `u` for (N,) item numbers of one batch.

    One BLAKE2b hash of (batch id, item number // 8) gives the 53-bit fractions of eight neighbouring items.
    """
    import numpy as np

    blocks, place = np.unique(item_no // _HASHES_A_BLOCK, return_inverse=True)
    key = batch_id.encode("utf-8", "backslashreplace") + b"\0"
    digests = b"".join(
        hashlib.blake2b(key + int(block).to_bytes(8, "big"), person=b"perennial-draw").digest() for block in blocks
    )
    words = np.frombuffer(digests, dtype="<u8").reshape(-1, _HASHES_A_BLOCK)
    chosen = words[place, item_no % _HASHES_A_BLOCK]
    return np.asarray((chosen >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def octaves_of(uniforms: NDArray[np.float64]) -> NDArray[np.int16]:
    """Return the octave of every `u`: 20 for [1/2, 1), 19 for [1/4, 1/2), … 0 below 2^-20. It grows with u."""
    import numpy as np

    exponents = np.frexp(np.maximum(uniforms, 2.0 ** -(OCTAVES + 1)))[1]
    return np.asarray(OCTAVES + exponents, dtype=np.int16)


def check_chunk(chunk: ScoredChunk, *, items: int, classes: int) -> None:
    """Raise DataError, naming batch column and value, unless the chunk's arrays agree and lie in their domains."""
    import numpy as np

    rows = len(chunk.item_no)
    lengths = {
        "image_id": len(chunk.image_id),
        "name": len(chunk.name),
        "predicted": len(chunk.predicted),
        "confidence": len(chunk.confidence),
        "ood_score": len(chunk.ood_score),
        "needs_review": len(chunk.needs_review),
        **{name: len(chunk.statistics[name]) for name in IMAGE_STATISTICS if name in chunk.statistics},
    }
    for column, length in lengths.items():
        if length != rows:
            raise DataError(f"chunk {chunk.shard}: {column} has {length} rows, item_no has {rows}")
    if chunk.probabilities.shape != (rows, classes):
        raise DataError(f"chunk {chunk.shard}: probabilities are {chunk.probabilities.shape}, not {(rows, classes)}")
    if rows == 0:
        return
    if set(map(len, chunk.image_id)) != {_ID_LENGTH} or not all(map(str.isascii, chunk.image_id)):
        odd = next(image for image in chunk.image_id if len(image) != _ID_LENGTH or not image.isascii())
        raise DataError(f"chunk {chunk.shard}: image id {odd!r} is not a SHA-256 of {_ID_LENGTH} digits")
    _check_range("item_no", chunk.item_no, 0, items - 1, chunk.shard)
    _check_range("predicted", chunk.predicted, 0, classes - 1, chunk.shard)
    _check_range("confidence", chunk.confidence, 0.0, 1.0, chunk.shard)
    _check_range("probabilities", chunk.probabilities, 0.0, 1.0, chunk.shard)
    if (np.diff(np.sort(chunk.item_no)) == 0).any():
        raise DataError(f"chunk {chunk.shard}: an item number is there twice")


def encode(chunk: ScoredChunk, batch_id: str, constants: Mapping[str, Any], rows: NDArray[np.int64]) -> bytes:
    """Return some `rows` of the chunk as a binary COPY stream of COPIED_COLUMNS; absent statistics are NULL.

    constants: month, batch_number, model_version, shadow and shard_id, the same in every row.
    """
    from pgpq import ArrowToPostgresBinaryEncoder

    table = _table(chunk, constants, rows, uniforms_of(batch_id, chunk.item_no[rows]))
    encoder = ArrowToPostgresBinaryEncoder(table.schema)
    return b"".join((encoder.write_header(), encoder.write_batch(table), encoder.finish()))


def _table(
    chunk: ScoredChunk,
    constants: Mapping[str, Any],
    rows: NDArray[np.int64],
    uniforms: NDArray[np.float64],
) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    bins = np.searchsorted(np.array(CONFIDENCE_EDGES, np.float32), chunk.confidence[rows], side="right")
    top, probabilities = _top_three(chunk.probabilities[rows])
    statistics = {name: chunk.statistics.get(name) for name in IMAGE_STATISTICS}
    places = rows.tolist()
    columns = {
        "month": pa.repeat(pa.scalar(constants["month"], pa.date32()), len(rows)),
        "batch_number": _repeated(constants["batch_number"], np.int64, rows),
        "model_version": _repeated(constants["model_version"], np.int32, rows),
        "shadow": _repeated(constants["shadow"], np.bool_, rows),
        "shard_id": _repeated(constants["shard_id"], np.int32, rows),
        "latency_ms": _repeated(chunk.latency_ms, np.float32, rows),
        "item_no": chunk.item_no[rows].astype(np.int32),
        "u": uniforms,
        "shard_row": rows.astype(np.int32),
        "predicted": chunk.predicted[rows].astype(np.int16),
        "conf_bin": bins.astype(np.int16),
        "u_octave": octaves_of(uniforms),
        "second_class": _place(top, 1, np.int16),
        "third_class": _place(top, 2, np.int16),
        "confidence": chunk.confidence[rows].astype(np.float32),
        "second_confidence": _place(probabilities, 1, np.float32),
        "third_confidence": _place(probabilities, 2, np.float32),
        "ood_score": chunk.ood_score[rows].astype(np.float32),
        **{
            name: pa.nulls(len(rows), pa.float32()) if values is None else values[rows].astype(np.float32)
            for name, values in statistics.items()
        },
        "needs_review": chunk.needs_review[rows],
        "image_id": pa.array([chunk.image_id[row] for row in places], pa.string()),
        "name": _texts([chunk.name[row] for row in places]),
        "probabilities": _packed(chunk.probabilities[rows]),
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[name]) for name in COPIED_COLUMNS], COPIED_COLUMNS)


def _repeated(value: float, kind: type[np.generic], rows: NDArray[np.int64]) -> NDArray[Any]:
    import numpy as np

    return np.full(len(rows), value, kind)


def _texts(names: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    if "\0" in "".join(names):
        return pa.array([clean_text(name) for name in names], pa.string())
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError:
        return pa.array([clean_text(name) for name in names], pa.string())


def _packed(probabilities: NDArray[np.float16]) -> pa.Array:
    """Return (N, K) probabilities as N byte strings, little-endian."""
    import numpy as np
    import pyarrow as pa

    rows, classes = probabilities.shape
    content = pa.py_buffer(np.ascontiguousarray(probabilities, dtype="<f2"))
    places = pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * (2 * classes))
    return pa.Array.from_buffers(pa.binary(), rows, [None, places, content])


def _check_range(column: str, values: NDArray[Any], low: float, high: float, shard: str) -> None:
    import numpy as np

    outside = ~((values >= low) & (values <= high))  # written so that NaN is outside
    if outside.any():
        at = int(np.argmax(outside.reshape(len(values), -1).any(axis=1)))
        raise DataError(f"chunk {shard}, row {at}: {column} is {values[at]!r}, not within {low:g}..{high:g}")


def _top_three(probabilities: NDArray[np.float16]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the most likely classes of (N, K) probabilities, at most three, and theirs; equals by their numbers."""
    import numpy as np

    left = probabilities.astype(np.float32)
    rows, places = np.arange(len(left)), min(3, left.shape[1])
    classes = np.empty((len(left), places), np.int64)
    values = np.empty((len(left), places), np.float32)
    for place in range(places):  # three passes: sorting would cost more, the more so the more classes there are
        classes[:, place] = left.argmax(axis=1)
        values[:, place] = left[rows, classes[:, place]]
        left[rows, classes[:, place]] = -1.0
    return classes, values


def _place(ranked: NDArray[Any], place: int, kind: type[np.generic]) -> pa.Array:
    """Return one column of (N, M) ranked values, NULL where there are fewer classes than that."""
    import pyarrow as pa

    if place < ranked.shape[1]:
        return pa.array(ranked[:, place].astype(kind))
    return pa.nulls(len(ranked), pa.from_numpy_dtype(kind))
