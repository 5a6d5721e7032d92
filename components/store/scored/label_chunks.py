"""The labels of a chunk whose images carry several: what is predicted or uncertain as rows, and counts of all.

A label that is surely absent, with a confidence in the last bin, has no row: storage stays near the number of labels
that are there. How many images lack it surely, and how surely, is counted per batch as the rows are written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, text

from components.errors import DataError, IntegrityError
from components.records import CONFIDENCE_BINS, CONFIDENCE_EDGES, ScoredChunk
from components.store.database import copy_in
from components.store.scored.chunks import octaves_of, uniforms_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MILLIONTHS = 1_000_000

_COLUMNS = (
    "month",
    "batch_number",
    "model_version",
    "shadow",
    "item_no",
    "u",
    "u_octave",
    "label",
    "positive",
    "conf_bin",
    "confidence",
)
_COPY = "COPY label_prediction (" + ", ".join(_COLUMNS) + ") FROM STDIN (FORMAT binary)"
_COUNT = text(
    """
INSERT INTO label_count (batch_number, model_version, label, positive, conf_bin, n, millionths)
SELECT :batch_number, :model_version, c.label, c.positive, c.conf_bin, c.n, c.millionths
FROM unnest(
    CAST(:labels AS smallint[]), CAST(:positives AS boolean[]), CAST(:bins AS smallint[]), CAST(:ns AS bigint[]),
    CAST(:sums AS bigint[])
) c (label, positive, conf_bin, n, millionths)
ORDER BY c.label, c.positive, c.conf_bin
ON CONFLICT (batch_number, model_version, label, positive, conf_bin)
DO UPDATE SET n = label_count.n + excluded.n, millionths = label_count.millionths + excluded.millionths
"""
)


class Labels(NamedTuple):
    """The labels of N rows of a chunk. positive: (N, K). confidence: (N, K) float32, in that. bins: (N, K)."""

    positive: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    bins: NDArray[np.int64]


def check_labels(chunk: ScoredChunk, *, several: bool) -> None:
    """Raise DataError unless the chunk says which labels are predicted just where images carry `several`."""
    if several != (chunk.positive is not None):
        told = "carry several labels, and it does not say" if several else "are of one class each, and it says"
        raise DataError(f"chunk {chunk.shard}: the batch's images {told} which labels are predicted (`positive`)")
    if chunk.positive is None:
        return
    if chunk.positive.shape != chunk.probabilities.shape or chunk.positive.dtype != bool:
        raise DataError(
            f"chunk {chunk.shard}: positive is {chunk.positive.dtype} {chunk.positive.shape}, not bool "
            f"{chunk.probabilities.shape}"
        )


def write_labels(
    connection: Connection, chunk: ScoredChunk, batch_id: str, constants: Mapping[str, Any], rows: NDArray[np.int64]
) -> None:
    """Store the labels of some `rows` of the chunk, in the transaction that stores the rows, and count them.

    constants: month, batch_number, model_version and shadow, the same in every row.
    """
    labels = labels_of(chunk, rows)
    content, many = _encoded(labels, chunk.item_no[rows], batch_id, constants)
    if many and copy_in(connection, _COPY, io.BytesIO(content)) != many:
        raise IntegrityError(f"batch {batch_id!r}: PostgreSQL did not take all {many} rows of labels; none was kept")
    key = {"batch_number": constants["batch_number"], "model_version": constants["model_version"]}
    connection.execute(_COUNT, {**_counted(labels), **key})


def labels_of(chunk: ScoredChunk, rows: NDArray[np.int64]) -> Labels:
    """Return the labels of some `rows` of a chunk of several labels, with the confidence in each decision."""
    import numpy as np

    assert chunk.positive is not None  # noqa: S101  (`check_labels` has seen to it)
    positive = chunk.positive[rows]
    probabilities = chunk.probabilities[rows].astype(np.float32)
    confidence = np.where(positive, probabilities, 1 - probabilities)
    return Labels(positive, confidence, np.searchsorted(np.array(CONFIDENCE_EDGES, np.float32), confidence, "right"))


def _encoded(
    labels: Labels, items: NDArray[np.int64], batch_id: str, constants: Mapping[str, Any]
) -> tuple[bytes, int]:
    """Return the labels that are predicted or uncertain as a binary COPY stream of _COLUMNS, and how many they are."""
    import numpy as np
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder

    at = np.nonzero(labels.positive | (labels.bins < CONFIDENCE_BINS - 1))
    many = len(at[0])
    uniforms = uniforms_of(batch_id, items)
    columns = {
        "month": pa.repeat(pa.scalar(constants["month"], pa.date32()), many),
        "batch_number": np.full(many, constants["batch_number"], np.int64),
        "model_version": np.full(many, constants["model_version"], np.int32),
        "shadow": np.full(many, constants["shadow"], np.bool_),
        "item_no": items[at[0]].astype(np.int32),
        "u": uniforms[at[0]],
        "u_octave": octaves_of(uniforms)[at[0]],
        "label": at[1].astype(np.int16),
        "positive": labels.positive[at],
        "conf_bin": labels.bins[at].astype(np.int16),
        "confidence": labels.confidence[at],
    }
    table = pa.RecordBatch.from_arrays([pa.array(columns[name]) for name in _COLUMNS], _COLUMNS)
    encoder = ArrowToPostgresBinaryEncoder(table.schema)
    return b"".join((encoder.write_header(), encoder.write_batch(table), encoder.finish())), many


def _counted(labels: Labels) -> dict[str, list[Any]]:
    """Return how many rows each label has per prediction and bin, and their confidences' sum in millionths."""
    import numpy as np

    count = labels.positive.shape[1]
    shape = (count, 2, CONFIDENCE_BINS)
    cell = (np.arange(count) * 2 + ~labels.positive) * CONFIDENCE_BINS + labels.bins
    size = count * 2 * CONFIDENCE_BINS
    number = np.bincount(cell.reshape(-1), minlength=size).reshape(shape)
    millionths = np.round(labels.confidence.astype(np.float64) * MILLIONTHS).reshape(-1)
    total = np.bincount(cell.reshape(-1), millionths, size).reshape(shape).astype(np.int64)
    label, absent, conf_bin = np.nonzero(number)
    return {
        "labels": label.tolist(),
        "positives": (absent == 0).tolist(),
        "bins": conf_bin.tolist(),
        "ns": number[label, absent, conf_bin].tolist(),
        "sums": total[label, absent, conf_bin].tolist(),
    }
