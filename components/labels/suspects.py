"""The audit's verdicts as files, and what training makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.errors import DataError, IntegrityError
from components.labels.issues import LabelIssues

SUSPECTS_FILE = "suspects.parquet"
OUT_OF_FOLD_FILE = "out_of_fold.parquet"


def write_suspects(
    folder: Path,
    image_ids: Sequence[str],
    given: NDArray[np.integer],
    issues: LabelIssues,
    classes: Sequence[str],
) -> None:
    """Write one row an image: image_id, given and likely class names, score (low is hard to believe), suspect."""
    names = np.array(classes, dtype=object)
    columns = {
        "image_id": pa.array(image_ids, pa.string()),
        "given": pa.array(names[given], pa.string()),
        "likely": pa.array(names[issues.likely], pa.string()),
        "score": pa.array(issues.score),
        "suspect": pa.array(issues.suspect),
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
    path = folder / SUSPECTS_FILE
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run the audit stage first") from error
    except pa.ArrowException as error:
        raise IntegrityError(f"{path} is damaged, run the audit stage again: {error}") from error
    if table["image_id"].to_pylist() != list(image_ids):
        raise DataError(f"{path} was made for another dataset version; run the audit stage again")
    return np.asarray(table["suspect"].to_numpy(), dtype=bool)


def training_weights(
    suspect: NDArray[np.bool_],
    given: NDArray[np.bool_],
    production: NDArray[np.bool_],
    *,
    policy: Literal["keep", "down-weight", "drop"],
    suspect_weight: float,
    production_weight: float,
) -> NDArray[np.float32]:
    """Return the weight (N,) of every row; 0 means: leave it out.

    suspect: (N,) what the audit doubts. given: (N,) labels nobody has confirmed; only these are ever weighted down,
    since a label that people settled outranks a model's doubt. production: (N,) rows labelled in production.
    """
    weights = np.where(production, production_weight, 1.0)
    doubted = suspect & given
    if policy == "drop":
        weights[doubted] = 0.0
    elif policy == "down-weight":
        weights[doubted] *= suspect_weight
    return weights.astype(np.float32)
