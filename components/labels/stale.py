"""Labels a dataset has outlived: found once a class has fallen, kept in a file, and left out wherever labels count."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.errors import DataError, IntegrityError
from components.labels.contradictions import (
    Change,
    Contradicted,
    Examined,
    find_changes,
    find_contradicted,
    pairs_of,
)
from components.model.images.preprocess import PreprocessSpec
from components.params import Params, SuspectedChange
from components.records import Window

if TYPE_CHECKING:  # flows read the files of this module, and must not load PyTorch for it
    from components.model.images.dataset import StoredImages
    from components.model.out_of_fold.past import Features

STALE_FILE = "stale.parquet"
SUCCESSORS_FILE = "successors.parquet"
MOST_TAKEN_OVER = 4.0
"""How many times a recent label may count that takes over the weight of old ones."""
SURE = 0.9
"""Probability of its new meaning from which an image is learnt under it."""
_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), False),
        pa.field("label", pa.string(), False),
        pa.field("means", pa.string(), False),  # the class that recent labels call such images
        pa.field("probability", pa.float64(), False),
        pa.field("since", pa.string(), False),
    ]
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class StaleLabels:
    """Old labels that newer ones contradict. table: image_id, label, means, probability, since. changes: for people.

    successors: how many times recent labels of such images count in training, by image id: together as much more as
    what is left out for them did, each at most MOST_TAKEN_OVER times.
    """

    table: pa.Table
    changes: tuple[dict[str, Any], ...]
    successors: Mapping[str, float]

    def report(self) -> dict[str, Any]:
        """Return what metrics.json says: how many labels, and each change with its evidence."""
        return {"labels": len(self.table), "changes": list(self.changes)}


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Every active image of a dataset version, N in all."""

    image_ids: list[str]
    labels: NDArray[np.int64]
    starts: list[Any]  # of the window whose prediction was labelled, None for what came with its label
    split: NDArray[np.str_]
    images: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is found so far: labels out of date and their successors' factors, by row, and each change with evidence."""

    labels: dict[int, dict[str, Any]]
    changes: list[dict[str, Any]]
    successors: dict[int, float]


def find_stale(stored: StoredImages, spec: PreprocessSpec, params: Params) -> StaleLabels:
    """Return the labels that are out of date since one of `params.changes`; none where there is none.

    Only labels of the training split are learnt from; labels of every split may be found out of date. Raises
    ConfigurationError for a change since what is no window.
    """
    if not params.changes or stored.manifest.several:  # what a set of labels came to mean is not asked yet
        return StaleLabels(_SCHEMA.empty_table(), (), {})
    table = stored.manifest.select()
    plain = PreprocessSpec.of(params.preprocess, (0.0,) * spec.channels, (1.0,) * spec.channels)
    windows = table["window"].to_pylist()
    rows = _Rows(
        image_ids=table["image_id"].to_pylist(),
        labels=stored.labels(table),
        starts=[None if name is None else Window.parse(name).start for name in windows],
        split=np.array(table["split"].to_pylist()),
        images=stored.pixels(table, plain),
    )
    found = _Found({}, [], {})
    for suspected in params.changes:
        _examine(rows, suspected, stored.manifest.classes, spec, params, found)
    table = pa.Table.from_pylist([found.labels[row] for row in sorted(found.labels)], _SCHEMA)
    successors = {rows.image_ids[row]: factor for row, factor in found.successors.items()}
    return StaleLabels(table, tuple(found.changes), successors)


def write_stale(folder: Path, stale: StaleLabels) -> None:
    """Write stale.parquet, the labels that no longer count, and successors.parquet, those that count more for them."""
    pq.write_table(stale.table, folder / STALE_FILE)
    ids, factors = sorted(stale.successors), [stale.successors[name] for name in sorted(stale.successors)]
    columns = {"image_id": pa.array(ids, pa.string()), "factor": pa.array(factors, pa.float64())}
    pq.write_table(pa.table(columns), folder / SUCCESSORS_FILE)


def read_stale(folder: Path) -> frozenset[str]:
    """Return the image ids whose labels no longer count.

    Raises DataError if there is no audit in `folder`, IntegrityError if its file is damaged.
    """
    return frozenset(_read(folder / STALE_FILE, "image_id")[0])


def read_meanings(folder: Path) -> dict[str, tuple[str, float]]:
    """Return what images with labels out of date mean now, by image id: class and probability, where that is sure.

    Raises as `read_stale`.
    """
    found = zip(*_read(folder / STALE_FILE, "image_id", "means", "probability"), strict=True)
    return {image_id: (means, probability) for image_id, means, probability in found if probability >= SURE}


def read_successors(folder: Path) -> dict[str, float]:
    """Return how many times labels count in training that took over from older ones, by image id. Raises likewise."""
    return dict(zip(*_read(folder / SUCCESSORS_FILE, "image_id", "factor"), strict=True))


def _read(path: Path, *columns: str) -> list[list[Any]]:
    try:
        table = pq.read_table(path, columns=list(columns))
        return [table[name].to_pylist() for name in columns]
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run the audit stage first") from error
    except (pa.ArrowException, KeyError) as error:
        raise IntegrityError(f"{path} is damaged, run the audit stage again: {error}") from error


def _examine(
    rows: _Rows,
    suspected: SuspectedChange,
    classes: tuple[str, ...],
    spec: PreprocessSpec,
    params: Params,
    found: _Found,
) -> None:
    """Add to `found` what is out of date since `suspected`, with the evidence."""
    from components.model.images.inputs import ImageSet
    from components.model.out_of_fold.past import features_of, past_model

    since = Window.parse(suspected.since).start
    later = np.array([start is not None and start >= since for start in rows.starts], bool)
    fallen = [classes.index(name) for name in suspected.classes if name in classes]
    training = rows.split == "train"
    learnt, recent = training & ~later, training & later
    if not fallen or not recent.any() or len(np.unique(rows.labels[learnt])) < 2:
        return
    old = ImageSet(rows.images[learnt], rows.labels[learnt], np.ones(int(learnt.sum()), np.float32))
    past = past_model(old, rows.images, len(classes), spec=spec, train=params.train, audit=params.audit)
    # A recent label outside the training split measures; what is learnt from it would come back as a better measure.
    kept = np.flatnonzero(~later | recent)
    examined = Examined(
        labels=rows.labels[kept],
        called=past.called[kept],
        confidence=past.confidence[kept],
        recent=recent[kept],
        learnt=learnt[kept],
    )
    for change in find_changes(examined, pairs_of(fallen, len(classes))):
        called = kept[examined.called == change.before]
        of_rows = features_of(past, rows.images, spec, fit_on=called, seed=params.train.seed)
        contradicted = find_contradicted(examined, change, partial(_of_kept, of_rows, kept), seed=params.train.seed)
        found.changes.append(_told(suspected, change, contradicted, classes))
        logger.info("audit: %s", found.changes[-1]["words"])
        outdated, successors = kept[contradicted.rows], kept[contradicted.successors]
        for row, probability in zip(outdated, contradicted.probability, strict=True):
            found.labels.setdefault(int(row), {
                "image_id": rows.image_ids[row], "label": classes[change.before], "means": classes[change.now],
                "probability": float(probability), "since": suspected.since,
            })  # fmt: skip
        left_out = outdated[contradicted.probability < SURE]  # the others are learnt under their new meaning
        taken_over = int(learnt[left_out].sum()) / max(params.train.production_weight * len(successors), 1.0)
        factor = min(1 + taken_over, MOST_TAKEN_OVER)
        found.successors.update({int(row): max(factor, found.successors.get(int(row), 1.0)) for row in successors})


def _of_kept(features: Features, kept: NDArray[np.int64], wanted: NDArray[np.int64]) -> Mapping[str, Any]:
    return features(kept[wanted])


def _told(
    suspected: SuspectedChange, change: Change, contradicted: Contradicted, classes: tuple[str, ...]
) -> dict[str, Any]:
    before, now, labels = classes[change.before], classes[change.now], len(contradicted.rows)
    often = f"in {100 * change.recent_share:.0f} % since {suspected.since}, before in {100 * change.old_share:.0f} %"
    return {
        "since": suspected.since,
        "from": before,
        "to": now,
        "old_share": round(change.old_share, 4),
        "recent_share": round(change.recent_share, 4),
        "p_value": change.p_value,
        "recent_labels": change.recent_labels,
        "told_by": contradicted.features,
        "log_loss": None if contradicted.log_loss is None else round(contradicted.log_loss, 4),
        "labels": labels,
        "words": f"of what was called {before}, people say {now} {often}; {labels} older labels no longer count",
    }
