"""The dataset card of what lies in the visible folder: facts, advice, and a page with pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from components.data.decoding.decode import ImageLimits, decode
from components.data.described import read_sizes
from components.data.ingestion.class_history import ClassHistory
from components.data.manifest import Manifest
from components.data.quarantine.register import Register
from components.data.shards import ShardReader
from components.data.versioning.versions import latest_dataset
from components.dataset_card.advice import advice
from components.dataset_card.facts import card_facts, training_images
from components.dataset_card.page import MOST_CLASSES, write_card_page
from components.operations.workspace import Workspace
from components.pages.page import data_uri

SAMPLES = 6  # pictures of a class


def dataset_card(workspace: Workspace, page: Path | None = None) -> dict[str, Any]:
    """Return the facts and advice of the dataset in the workspace's folder; `page`: where they are shown with pictures.

    Raises DataError before the first ingest, IntegrityError for a damaged manifest or shard.
    """
    params = workspace.params
    path = workspace.root / params.paths.manifest
    manifest = Manifest.read(path)
    reader = ShardReader(workspace.root / params.paths.images)
    facts = card_facts(
        manifest,
        read_sizes(reader, manifest.select()),
        Register.read(path).open(manifest),
        version=latest_dataset(workspace.root),
        licence=params.data.licence,
        audit=_audit(workspace, manifest),
    )
    told = advice(training_images(facts), pretrained=params.train.pretrained != "none")
    display = ClassHistory.read(path, images=False).display
    if page is not None:
        limits = ImageLimits.of(params.data)
        shown = sorted(facts["classes"], key=lambda row: -sum(row[split] for split in facts["splits"]))[:MOST_CLASSES]
        samples = {row["name"]: _pictures(manifest, reader, row["name"], limits) for row in shown}
        write_card_page(facts, told, display, samples, page)
    return {**facts, "advice": told, "display": dict(display)}


def _audit(workspace: Workspace, manifest: Manifest) -> dict[str, Any] | None:
    """Return the metrics of the latest audit, unless it was of another number of images."""
    try:
        metrics: dict[str, Any] = json.loads(
            (workspace.root / workspace.params.paths.audit / "metrics.json").read_text(encoding="utf-8")
        )
    except (FileNotFoundError, ValueError):
        return None
    learning = manifest.select("train", "validation").num_rows
    return metrics if metrics.get("images") == learning and "image_issues" in metrics else None


def _pictures(manifest: Manifest, reader: ShardReader, name: str, limits: ImageLimits) -> list[str]:
    """Return some images of a class, the same ones every time: spread over its ids, which are hashes."""
    rows = manifest.of_class(manifest.select(), name).select(["shard", "row", "image_id"])
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int))
    places = rows.take(chosen).to_pylist()
    return [data_uri(decode(reader.read_verified(p["shard"], p["row"], p["image_id"]), limits)) for p in places]
