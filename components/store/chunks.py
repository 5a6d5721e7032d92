"""A chunk of predictions as the columns PostgreSQL copies in: checked, with `u`, bins and the top three added."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.records import CONFIDENCE_EDGES, IMAGE_STATISTICS, ScoredChunk
from components.store.values import clean_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The order of the columns in the binary stream; `name`, the one of varying length, comes last.
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
    "confidence",
    "ood_score",
    *IMAGE_STATISTICS,
    "needs_review",
    "image_id",
    "top3_class",
    "top3_confidence",
    "probabilities",
    "name",
)

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_EPOCH = date(2000, 1, 1)
_SMALLINT_OID, _REAL_OID = 21, 700
_ID_LENGTH = 64
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
    odd = next((image for image in chunk.image_id if len(image) != _ID_LENGTH or not image.isascii()), None)
    if odd is not None:
        raise DataError(f"chunk {chunk.shard}: image id {odd!r} is not a SHA-256 of {_ID_LENGTH} digits")
    _check_range("item_no", chunk.item_no, 0, items - 1, chunk.shard)
    _check_range("predicted", chunk.predicted, 0, classes - 1, chunk.shard)
    _check_range("confidence", chunk.confidence, 0.0, 1.0, chunk.shard)
    _check_range("probabilities", chunk.probabilities, 0.0, 1.0, chunk.shard)
    if len(np.unique(chunk.item_no)) != rows:
        raise DataError(f"chunk {chunk.shard}: an item number is there twice")


def encode(chunk: ScoredChunk, batch_id: str, constants: Mapping[str, Any], rows: NDArray[np.int64]) -> io.BytesIO:
    """Return some `rows` of the chunk as a binary COPY stream of COPIED_COLUMNS; absent statistics are NULL.

    constants: month, batch_number, model_version, shadow and shard_id, the same in every row.
    PostgreSQL's manual, COPY, "Binary Format": a row is a count of fields, then of each its length and its bytes.
    """
    import numpy as np

    bins = np.searchsorted(np.array(CONFIDENCE_EDGES, np.float32), chunk.confidence[rows], side="right")
    top, confidences = _top_three(chunk.probabilities[rows])
    names = _encoded_names([chunk.name[row] for row in rows.tolist()])
    fields: dict[str, tuple[Any, Any]] = {
        "month": (">i4", (constants["month"] - _EPOCH).days),
        "batch_number": (">i8", constants["batch_number"]),
        "model_version": (">i4", constants["model_version"]),
        "shadow": ("?", constants["shadow"]),
        "shard_id": (">i4", constants["shard_id"]),
        "latency_ms": (">f4", chunk.latency_ms),
        "item_no": (">i4", chunk.item_no[rows]),
        "u": (">f8", uniforms_of(batch_id, chunk.item_no[rows])),
        "shard_row": (">i4", rows),
        "predicted": (">i2", chunk.predicted[rows]),
        "conf_bin": (">i2", bins),
        "confidence": (">f4", chunk.confidence[rows]),
        "ood_score": (">f4", chunk.ood_score[rows]),
        **{name: (">f4", chunk.statistics[name][rows]) for name in IMAGE_STATISTICS if name in chunk.statistics},
        "needs_review": ("?", chunk.needs_review[rows]),
        "image_id": (f"S{_ID_LENGTH}", np.array(chunk.image_id, f"S{_ID_LENGTH}")[rows]),
        "top3_class": _array_field(top, ">i2", _SMALLINT_OID),
        "top3_confidence": _array_field(confidences, ">f4", _REAL_OID),
        "probabilities": _bytes_field(chunk.probabilities[rows]),
    }
    fixed = _fixed_part(fields, names)
    width = fixed.dtype.itemsize
    packed = fixed.tobytes()
    parts = [_HEADER]
    for start, name in zip(range(0, len(packed), width), names, strict=True):
        parts += (packed[start : start + width], name)
    return io.BytesIO(b"".join([*parts, _TRAILER]))


def _encoded_names(names: Sequence[str]) -> list[bytes]:
    try:
        encoded = [name.encode() for name in names]
    except UnicodeEncodeError:
        return [clean_text(name).encode() for name in names]
    if b"\0" in b"".join(encoded):
        return [clean_text(name).encode() for name in names]
    return encoded


def _fixed_part(fields: Mapping[str, tuple[Any, Any]], names: Sequence[bytes]) -> NDArray[np.void]:
    """Return (N,) records of everything before a row's name: field count, lengths and values, the name's length."""
    import numpy as np

    layout: list[tuple[str, Any]] = [("count", ">i2")]
    for column in COPIED_COLUMNS:
        layout.append((f"length of {column}", ">i4"))
        if column in fields:
            layout.append((column, fields[column][0]))
    table = np.zeros(len(names), np.dtype(layout))
    table["count"] = len(COPIED_COLUMNS)
    for column in COPIED_COLUMNS:
        table[f"length of {column}"] = table.dtype[column].itemsize if column in fields else -1
        if column in fields:
            table[column] = fields[column][1]
    table["length of name"] = [len(name) for name in names]
    return table


def _array_field(values: NDArray[Any], kind: str, oid: int) -> tuple[np.dtype[Any], NDArray[Any]]:
    """Return (N, M) numbers as the records PostgreSQL keeps one-dimensional arrays in."""
    import numpy as np

    rows, many = values.shape
    element = np.dtype([("length", ">i4"), ("value", kind)])
    whole = np.dtype([("head", ">i4", (5,)), ("elements", element, (many,))])
    records = np.zeros(rows, whole)
    records["head"] = (1, 0, oid, many, 1)  # dimensions, nulls, type, length, lower bound
    records["elements"]["length"] = element["value"].itemsize
    records["elements"]["value"] = values
    return whole, records


def _bytes_field(values: NDArray[np.float16]) -> tuple[str, NDArray[Any]]:
    import numpy as np

    kind = f"V{2 * values.shape[1]}"
    return kind, np.ascontiguousarray(values, dtype="<f2").view(kind).reshape(-1)


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
