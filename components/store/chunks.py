"""A chunk of predictions as the columns PostgreSQL copies in: checked, with `u`, bins and the top three added."""

from __future__ import annotations

import binascii
import hashlib
import io
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.records import CONFIDENCE_EDGES, IMAGE_STATISTICS, ScoredChunk
from components.store.values import clean_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGED_COLUMNS = (
    "item_no",
    "u",
    "shard_row",
    "predicted",
    "conf_bin",
    "confidence",
    "ood_score",
    *IMAGE_STATISTICS,
    "needs_review",
    "image_id",
    "name",
    "top3_class",
    "top3_confidence",
    "probabilities",
)

_HASHES_A_BLOCK = 8


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
    _check_range("item_no", chunk.item_no, 0, items - 1, chunk.shard)
    _check_range("predicted", chunk.predicted, 0, classes - 1, chunk.shard)
    _check_range("confidence", chunk.confidence, 0.0, 1.0, chunk.shard)
    _check_range("probabilities", chunk.probabilities, 0.0, 1.0, chunk.shard)
    if len(np.unique(chunk.item_no)) != rows:
        raise DataError(f"chunk {chunk.shard}: an item number is there twice")


def encode(chunk: ScoredChunk, batch_id: str) -> io.BytesIO:
    """Return the chunk as CSV in the order of STAGED_COLUMNS; an absent statistic is NULL, NaN stays NaN."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    rows = len(chunk.item_no)
    classes, confidences = _top_three(chunk.probabilities)
    columns: dict[str, Any] = {
        "item_no": chunk.item_no,
        "u": uniforms_of(batch_id, chunk.item_no),
        "shard_row": np.arange(rows, dtype=np.int32),
        "predicted": chunk.predicted,
        "conf_bin": np.searchsorted(np.array(CONFIDENCE_EDGES, np.float32), chunk.confidence, side="right"),
        "confidence": chunk.confidence,
        "ood_score": chunk.ood_score,
        **{name: chunk.statistics.get(name, pa.nulls(rows, pa.float32())) for name in IMAGE_STATISTICS},
        "needs_review": np.asarray(chunk.needs_review, dtype=np.bool_),
        "image_id": chunk.image_id,
        "name": [clean_text(name) for name in chunk.name],
        "top3_class": _array_literals(classes),
        "top3_confidence": _array_literals(confidences),
        "probabilities": _bytea_literals(chunk.probabilities),
    }
    table = pa.table({name: pa.array(columns[name]) for name in STAGED_COLUMNS})
    buffer = io.BytesIO()
    csv.write_csv(table, buffer, csv.WriteOptions(include_header=False))
    buffer.seek(0)
    return buffer


def _check_range(column: str, values: NDArray[Any], low: float, high: float, shard: str) -> None:
    import numpy as np

    outside = ~((values >= low) & (values <= high))  # written so that NaN is outside
    if outside.any():
        at = int(np.argmax(outside.reshape(len(values), -1).any(axis=1)))
        raise DataError(f"chunk {shard}, row {at}: {column} is {values[at]!r}, not within {low:g}..{high:g}")


def _top_three(probabilities: NDArray[np.float16]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    import numpy as np

    values = probabilities.astype(np.float32)
    many = values.shape[1] > 64
    if many:  # sorting ten thousand classes to keep three would cost more than writing the row
        some = np.argpartition(-values, 3, axis=1)[:, :3]
        order = np.take_along_axis(some, np.argsort(-np.take_along_axis(values, some, 1), axis=1, kind="stable"), 1)
    else:
        order = np.argsort(-values, axis=1, kind="stable")[:, :3]
    return order, np.take_along_axis(values, order, axis=1)


def _array_literals(values: NDArray[Any]) -> Any:
    """Return (N, 1..3) numbers as PostgreSQL array literals, `{1,2,3}`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [pc.cast(pa.array(values[:, n]), pa.string()) for n in range(values.shape[1])]
    joined = pc.binary_join_element_wise(*parts, ",")
    return pc.binary_join_element_wise("{", joined, "}", "")


def _bytea_literals(values: NDArray[np.float16]) -> Any:
    r"""Return (N, K) numbers as little-endian float16 bytea literals, `\x…`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, classes = values.shape
    digits = binascii.hexlify(np.ascontiguousarray(values, dtype="<f2").tobytes())
    hexes = np.frombuffer(digits, dtype=f"S{4 * classes}") if rows else np.empty(0, dtype="S1")
    return pc.binary_join_element_wise("\\x", pc.cast(pa.array(hexes, pa.binary()), pa.string()), "")
