"""A new model's drift reference, frozen at its promotion: its outputs on the latest closed window's images."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import IntegrityError
from components.model.preprocess import prepare
from components.monitoring.binning import bin_counts, quantile_edges
from components.operations.drift_watch import COLUMNS
from components.operations.models import load_predictor
from components.operations.services import Services
from components.operations.windows import latest_closed
from components.records import IMAGE_STATISTICS, ModelVersion
from components.store import monitoring, reading

MOST_IMAGES = 5_000


def freeze_drift_reference(services: Services, model: ModelVersion, *, now: datetime) -> None:
    """Store what `model` says of up to 5,000 stored images of the latest closed window, unless it has a reference.

    Nothing is stored before the first closed window: it becomes the reference of the model that served it.
    """
    if monitoring.drift_reference(services.database, model.version) is not None:
        return
    window = latest_closed(services, now)
    places = reading.sample_places(services.database, window, MOST_IMAGES)
    if not places:
        return
    predictor = load_predictor(services, model)
    store, limits = services.images, services.limits
    images, statistics = [], []
    for place in places:
        try:
            image, numbers = prepare(
                store.get(place.shard, place.row, place.image_id), predictor.spec.preprocess, limits
            )
        except IntegrityError:  # past its retention; the others stand for it
            continue
        images.append(image)
        statistics.append([numbers[name] for name in IMAGE_STATISTICS])
    if not images:
        return
    batch = services.workspace.params.score.batch_size
    probabilities = np.concatenate(
        [predictor.predict(np.stack(images[i : i + batch]))[1] for i in range(0, len(images), batch)]
    )
    columns = {"confidence": probabilities.max(axis=1)}
    columns |= {name: np.asarray(statistics)[:, i] for i, name in enumerate(IMAGE_STATISTICS)}
    bins = services.workspace.params.monitor.drift_bins
    payload: dict[str, Any] = {
        "predicted": np.bincount(probabilities.argmax(axis=1), minlength=len(model.classes)).tolist(),
        "columns": {name: _histogram(columns[name], bins) for name in COLUMNS},
    }
    monitoring.set_drift_reference(services.database, model.version, window.name, payload, now=now)


def _histogram(values: NDArray[np.floating[Any]], bins: int) -> dict[str, list[float]]:
    edges = quantile_edges(values, bins)
    return {"edges": edges.tolist(), "counts": bin_counts(values, edges).tolist()}
