"""What a recall of images touches: a list for people to read before they decide, and the evidence of the decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.shards import ShardReader
from components.errors import IntegrityError
from components.operations.lineage.names import image_id_of
from components.operations.lineage.past import Past, open_past
from components.operations.lineage.traced import TRAINED, UNUSED, image_lineages
from components.operations.services import Services
from components.store import recalls

_MEASURED = {
    "frozen_test": "in the frozen test set: its figures are of one image fewer from now on, those before are not "
    "quite comparable",
    "golden": "in the golden set, which candidates are judged on: the next comparison is of one image fewer",
    "validation": "in the validation set, which candidates are judged on: the next comparison is of one image fewer",
    "test": "in a test set: its figures are of one image fewer from now on",
}


@dataclass(frozen=True, slots=True)
class Touched:
    """What one image's recall touches, for the command line and the ledger."""

    image_id: str
    facts: dict[str, Any]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {"image_id": self.image_id, **self.facts, "notes": list(self.notes)}


def known_images(services: Services, past: Past, names: Sequence[str]) -> list[str]:
    """Return the ids of the named images, each once. Raises as `image_id_of` for the first one that is unknown."""
    return sorted({image_id_of(services, past, name) for name in names})


def read_list(path: Path) -> list[str]:
    """Return the names in a file, one a line; empty lines and those that begin with # are passed over."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def touched(services: Services, image_ids: Sequence[str], past: Past | None = None) -> list[Touched]:
    """Return what recalling each of these images touches. Nothing is changed, and nobody is waited for."""
    past = past or open_past(services)
    pixels = recalls.stored_pixels(services.database, image_ids)
    asked = recalls.count_open_tasks(services.database, image_ids)
    reader = ShardReader(services.workspace.root / past.paths.images)
    found = []
    for traced in image_lineages(services, past, image_ids):
        image_id, row = traced["image_id"], traced["data"]
        stored = sorted({place.shard for place in pixels if place.image_id == image_id})
        trained = [m["version"] for m in traced["models"] if m["use"] == TRAINED]
        facts = {
            "state": None if row is None else row["state"],
            "label": None if row is None else row["label"],
            "split": None if row is None else row["split"],
            "recalled": traced["recalled"],
            "dataset_versions": traced["dataset_versions"],
            "shard": None if row is None else row["shard"],
            "bytes": None if row is None else _size(reader, row),
            "models_trained": trained,
            "models_measured": [m["version"] for m in traced["models"] if m["use"] not in (TRAINED, UNUSED)],
            "predictions": len(traced["predictions"]),
            "open_tasks": asked.get(image_id, 0),
            "answered_tasks": sum(task["state"] == "settled" for task in traced["tasks"]),
            "image_store": [shard for shard in stored if services.images.holds(shard)],
        }  # fmt: skip
        found.append(Touched(image_id, facts, tuple(_notes(row, traced, trained))))
    return found


def _size(reader: ShardReader, row: dict[str, Any]) -> int | None:
    if row["shard"] is None:
        return 0
    try:
        return len(reader.read(row["shard"], row["row"]))
    except IntegrityError:  # the visible folder is not up to date; how large it is, is not worth a download
        return None


def _notes(row: dict[str, Any] | None, traced: dict[str, Any], trained: list[int]) -> list[str]:
    notes = []
    if traced["recalled"] is not None:
        noted = traced["recalled"]
        notes.append(f"recalled already, by {noted['actor']}: {noted['reason']}")
    if row is None:
        notes.append("never ingested: the dataset gets a row that keeps it out")
    elif row["state"] == "quarantined":
        notes.append(
            f"quarantined ({row['reason']}): no bytes of it are in the dataset; kept ones go with --purge-history"
        )
    elif row["state"] == "active" and row["split"] in _MEASURED:
        notes.append(_MEASURED[row["split"]])
    if trained:
        listed = ", ".join(map(str, trained))
        notes.append(f"models trained on it stay as they are: {listed}; `perennial retrain` makes one without it")
    return notes
