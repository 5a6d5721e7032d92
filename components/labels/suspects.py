"""The audit's verdicts as files, and what training makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.data.ingestion.opinions import UNCONFIRMED
from components.data.label_sets import indicators
from components.errors import DataError, IntegrityError
from components.params import AuditPolicy

SUSPECTS_FILE = "suspects.parquet"
OUT_OF_FOLD_FILE = "out_of_fold.parquet"


def write_suspects(
    folder: Path,
    image_ids: Sequence[str],
    given: Sequence[str],
    likely: Sequence[str],
    score: NDArray[np.float64],
    suspect: NDArray[np.bool_],
) -> None:
    """Write one row an image: image_id, given and likely label, score (low is hard to believe), suspect.

    given, likely: (N,) as the manifest stores labels, a class's name or a set of them.
    """
    columns = {
        "image_id": pa.array(image_ids, pa.string()),
        "given": pa.array(given, pa.string()),
        "likely": pa.array(likely, pa.string()),
        "score": pa.array(score),
        "suspect": pa.array(suspect),
    }
    pq.write_table(pa.table(columns), folder / SUSPECTS_FILE)


def write_out_of_fold(
    folder: Path, image_ids: Sequence[str], probabilities: NDArray[np.float32], fold: NDArray[np.int64]
) -> None:
    """Write one row an image: image_id, fold, and probabilities (K) by the model that did not see it."""
    columns = {
        "image_id": pa.array(image_ids, pa.string()),
        "fold": pa.array(fold),
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), probabilities.shape[1]),
    }
    pq.write_table(pa.table(columns), folder / OUT_OF_FOLD_FILE)


def read_suspects(folder: Path, image_ids: Sequence[str]) -> NDArray[np.bool_]:
    """Return which of `image_ids` (N,) the audit in `folder` doubts.

    Raises DataError if there is no audit or it was made of other images, IntegrityError if its file is damaged.
    """
    return np.asarray(_read(folder / SUSPECTS_FILE, image_ids)["suspect"].to_numpy(), dtype=bool)


def read_doubted_labels(folder: Path, image_ids: Sequence[str], classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return which labels of `image_ids` (N, K), present or absent, the audit doubts, where images carry several.

    Raises as `read_suspects`, and DataError for a label that is no class.
    """
    table = _read(folder / SUSPECTS_FILE, image_ids)
    given, likely = (indicators(table[name].to_pylist(), classes) for name in ("given", "likely"))
    return np.asarray(given != likely)


def unconfirmed_suspects(folder: Path, rows: pa.Table) -> list[dict[str, Any]]:
    """Return what the audit in `folder` doubts of the manifest's `rows` that nobody has confirmed.

    Each with image_id, given and likely class, and belief in the given one. Images whose label is another one than was
    audited are left out. Raises DataError if there is no audit, IntegrityError if its file is damaged.
    """
    table = _stored(folder / SUSPECTS_FILE)
    table = table.filter(table["suspect"]).rename_columns({"score": "belief"}).drop_columns("suspect")
    unconfirmed = rows.filter(pc.is_in(rows["label_origin"], pa.array(sorted(UNCONFIRMED)))).select(
        ["image_id", "label"]
    )
    joined = table.join(unconfirmed, ["image_id", "given"], ["image_id", "label"], join_type="inner")
    found: list[dict[str, Any]] = joined.sort_by([("belief", "ascending"), ("image_id", "ascending")]).to_pylist()
    return found


def read_out_of_fold(folder: Path, image_ids: Sequence[str]) -> NDArray[np.float32]:
    """Return the probabilities (N, K) that the audit's models gave `image_ids` (N,). Raises as `read_suspects`."""
    table = _read(folder / OUT_OF_FOLD_FILE, image_ids)
    column = table["probabilities"].combine_chunks()
    return np.asarray(column.flatten().to_numpy().reshape(len(column), -1), dtype=np.float32)


def soft_targets(
    given: NDArray[np.integer], probabilities: NDArray[np.float32], doubted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return shares (N, K) of every class to learn: of a doubted row what models hold likely, else its label alone.

    given: (N,) class indices, or (N, K) of 0 and 1 where images carry several labels. probabilities: (N, K), out of
    fold. doubted: (N,), or, where images carry several labels, (N, K).
    """
    if given.ndim == 2:
        targets = given.astype(np.float32)
    else:
        targets = np.zeros_like(probabilities, dtype=np.float32)
        targets[np.arange(len(given)), given] = 1.0
    targets[doubted] = probabilities[doubted]
    return targets


def training_weights(
    suspect: NDArray[np.bool_],
    given: NDArray[np.bool_],
    production: NDArray[np.bool_],
    *,
    policy: AuditPolicy,
    suspect_weight: float,
    production_weight: float,
) -> NDArray[np.float32]:
    """Return the weight of every row (N,), or of every label of it (N, K); 0 means: leave it out.

    suspect: what the audit doubts, (N,) rows, or (N, K) labels where images carry several: the others of such an image
    are not doubted, and count. given: (N,) labels nobody has confirmed; only these are ever weighted down,
    since a label that people settled outranks a model's doubt. production: (N,) rows labelled in production.
    """
    doubted = suspect & per_row(given, suspect)
    weights = np.where(per_row(production, suspect), np.full(suspect.shape, production_weight), 1.0)
    if policy == "drop":
        weights[doubted] = 0.0
    elif policy == "down-weight":
        weights[doubted] *= suspect_weight
    return weights.astype(np.float32)


def per_row(values: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """Return values (N,) so that they stand beside every number of a row of `like` (N,) or (N, K)."""
    return values if like.ndim == 1 else values[:, None]


def _stored(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run the audit stage first") from error
    except pa.ArrowException as error:
        raise IntegrityError(f"{path} is damaged, run the audit stage again: {error}") from error


def _read(path: Path, image_ids: Sequence[str]) -> pa.Table:
    table = _stored(path)
    if table["image_id"].to_pylist() != list(image_ids):
        raise DataError(f"{path} was made for another dataset version; run the audit stage again")
    return table
