"""A new model's drift reference, frozen at its promotion: its outputs on the latest closed window's images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import IntegrityError
from components.model.images.preprocess import prepare
from components.monitoring.drift.binning import bin_counts, quantile_edges
from components.monitoring.drift.findings import FEWEST_ROWS
from components.operations.models import load_predictor
from components.operations.monitoring.drift_watch import COLUMNS
from components.operations.services import Services
from components.operations.windows import latest_closed
from components.records import IMAGE_STATISTICS, ModelVersion
from components.scoring.images import ImageStore
from components.store import monitoring, reading
from components.store.predictions import ImagePlace

MOST_IMAGES = 5_000


def freeze_drift_reference(services: Services, model: ModelVersion, *, now: datetime) -> None:
    """Store what `model` says of up to 5,000 stored images of the latest closed window, unless it has a reference.

    Nothing is stored before the first closed window, where that one has too few rows for a test, and for a model of
    several labels: then the model's own first window becomes its reference.
    """
    if model.several or monitoring.drift_reference(services.database, model.version) is not None:
        return
    window = latest_closed(services, now)
    places = reading.sample_places(services.database, window, MOST_IMAGES)
    if len(places) < FEWEST_ROWS:
        return
    predictor = load_predictor(services, model)
    store, limits = services.images, services.limits
    batch_size = services.workspace.params.score.batch_size
    answers, statistics = [], []
    for start in range(0, len(places), batch_size):
        contents = list(_stored(store, places[start : start + batch_size]))
        prepared = prepare(contents, predictor.spec.preprocess, limits)
        answers.append(predictor.predict(prepared.pixels)[1])
        statistics.append(prepared.statistics)
    probabilities = np.concatenate(answers)
    if len(probabilities) < FEWEST_ROWS:
        return
    columns = {"confidence": probabilities.max(axis=1)}
    columns |= dict(zip(IMAGE_STATISTICS, np.concatenate(statistics).T.astype(np.float64), strict=True))
    bins = services.workspace.params.monitor.drift_bins
    payload: dict[str, Any] = {
        "predicted": np.bincount(probabilities.argmax(axis=1), minlength=len(model.classes)).tolist(),
        "columns": {name: _histogram(columns[name], bins) for name in COLUMNS},
    }
    monitoring.set_drift_reference(services.database, model.version, window.name, payload, now=now)


def _stored(store: ImageStore, places: Iterable[ImagePlace]) -> Iterator[bytes]:
    for place in places:
        # One past its retention is missing; the others stand for it.
        with suppress(IntegrityError):
            yield store.get(place.shard, place.row, place.image_id)


def _histogram(values: NDArray[np.floating[Any]], bins: int) -> dict[str, list[float]]:
    edges = quantile_edges(values, bins)
    return {"edges": edges.tolist(), "counts": bin_counts(values, edges).tolist()}
