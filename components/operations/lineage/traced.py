"""From an image, a prediction, a model or a dataset version to everything that hangs on it, both ways."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.history.kept import file_at, require_version
from components.data.manifest import Manifest, find_rows
from components.errors import DataError, ServiceError
from components.operations.lineage.names import Named, find
from components.operations.lineage.past import Past, Rows, open_past
from components.operations.services import Services
from components.records import ModelVersion
from components.store import champions, lineage, recalls

MOST_DECISIONS = 50
TRAINED = "trained on it"
UNUSED = "did not use it"
_USES = {
    "train": TRAINED,
    "validation": "validated on it",
    "golden": "was judged on it",
    "test": "was tested on it",
    "frozen_test": "was tested on it",
}
_SAID = ("state", "reason", "label", "split", "shard")
_OfImage = TypeVar("_OfImage", lineage.LoggedPrediction, lineage.AskedTask)


def lineage_of(services: Services, text: str) -> dict[str, Any]:
    """Return what hangs on the thing that `text` names (see `names.find`), as an object for people and machines.

    It reads, and waits for nobody. Raises ConfigurationError or DataError where there is no such thing.
    """
    past = open_past(services)
    named = find(services, past, text)
    if named.kind == "dataset":
        return _dataset(services, past, named.id)
    if named.kind == "model":
        return _model(services, past, int(named.id))
    if named.kind == "prediction":
        return _prediction(services, past, named)
    traced = image_lineage(services, past, named.id)
    if traced["data"] is not None and traced["data"]["group_id"] is not None:
        traced["data"]["group_images"] = _group_size(past, traced["data"]["group_id"])
    return traced


def image_lineage(services: Services, past: Past, image_id: str) -> dict[str, Any]:
    """Return where an image came from, which versions hold it, which models met it and what was predicted of it."""
    return image_lineages(services, past, [image_id])[0]


def image_lineages(services: Services, past: Past, image_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the same of several images, in their order; manifests and predictions are read once for all.

    Raises DataError for one that no version and no prediction has.
    """
    database = services.database
    through_time, models = past.rows(image_ids), champions.models(database)[::-1]
    now = find_rows(past.objects.file(past.newest.manifest), image_ids) if past.versions else {}
    noted = recalls.recalled(database, image_ids)
    predictions, tasks = (
        _by_image(lineage.predictions_of(database, image_ids)),
        _by_image(lineage.tasks_of(database, image_ids)),
    )
    found = []
    for image_id in image_ids:
        rows = {version.tag: said[image_id] for version, said in through_time if image_id in said}
        if not rows and image_id not in predictions:
            raise DataError(f"image {image_id} is unknown: it was neither ingested nor scored here")
        found.append({
            "kind": "image",
            "image_id": image_id,
            "recalled": asdict(noted[image_id]) if image_id in noted else None,
            "data": now.get(image_id),  # no manifest ever loses a row
            "dataset_versions": _held(rows),
            "models": _models_that_met(models, rows),
            "predictions": [asdict(one) for one in predictions[image_id]],
            "tasks": [asdict(one) for one in tasks[image_id]],
        })  # fmt: skip
    return found


def _by_image(entries: Iterable[_OfImage]) -> dict[str, list[_OfImage]]:
    found: dict[str, list[_OfImage]] = defaultdict(list)
    for entry in entries:
        found[entry.image_id].append(entry)
    return found


def _group_size(past: Past, group_id: str) -> int:
    """Return how many images of the newest version are in one group."""
    groups = pq.read_table(past.objects.file(past.newest.manifest), columns=["group_id"])["group_id"]
    return int(pc.sum(pc.equal(groups, group_id)).as_py())


def _held(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the first and the last version that hold the image, how many do, and where what is said of it changed."""
    changes: list[dict[str, Any]] = []
    before: dict[str, Any] | None = None
    for tag, row in rows.items():
        said = {name: row[name] for name in _SAID}
        if said != before:
            changes.append({"version": tag, **said})
        before = said
    tags = list(rows)
    return {"count": len(tags), "first": tags[0] if tags else None, "last": tags[-1] if tags else None,
            "changes": changes}  # fmt: skip


def _models_that_met(models: Sequence[ModelVersion], rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each model whose dataset version has the image, oldest first, and what it was to that model."""
    met = []
    for model in models:
        row = rows.get(model.dataset_version)
        if row is not None:
            use = _USES.get(row["split"] or "", UNUSED) if row["state"] == "active" else UNUSED
            met.append({**_brief(model), "split": row["split"], "label": row["label"], "use": use,
                        "label_origin": row["label_origin"], "image_state": row["state"]})  # fmt: skip
    return met


def _brief(model: ModelVersion) -> dict[str, Any]:
    return {"version": model.version, "state": model.state, "dataset_version": model.dataset_version}


def _prediction(services: Services, past: Past, named: Named) -> dict[str, Any]:
    item_no = named.item_no or 0
    found = lineage.predictions_of_item(services.database, named.id, item_no)
    if not found:
        items = lineage.batch_count(services.database, named.id)
        raise DataError(
            f"batch {named.id} has no prediction of item {item_no}: it has {items} items, numbered from 0; "
            "an item that could not be scored is listed by `perennial score`"
        )
    served, *shadows = found
    model = champions.model(services.database, served.model_version)
    image = image_lineage(services, past, served.image_id)
    return {
        "kind": "prediction",
        **asdict(served),
        "pixels_stored": services.images.holds(served.shard),
        "shadows": [asdict(one) for one in shadows],
        "model": {**_made_from(past, model), **_brief(model)},
        "tasks": [asdict(one) for one in lineage.tasks_of_item(services.database, named.id, item_no)],
        "trained_since": [m for m in image["models"] if m["use"] == TRAINED and m["version"] > model.version],
        "image": {key: image[key] for key in ("image_id", "recalled", "data", "dataset_versions")},
    }


def _made_from(past: Past, model: ModelVersion) -> dict[str, Any]:
    lock = _code_lock(past, model.git_commit)
    return {"git_commit": model.git_commit, "code_lock": lock, "mlflow_run": model.run_id,
            "artifact_sha256": model.artifact_sha256}  # fmt: skip


def _code_lock(past: Past, commit: str) -> str | None:
    try:
        text = file_at(past.repository, commit, past.paths.code_lock)
    except ServiceError:  # the commit is not in this repository (any more)
        return None
    return None if text is None else text.strip()


def _model(services: Services, past: Past, version: int) -> dict[str, Any]:
    model = champions.model(services.database, version)
    verdict = model.metrics.get("verdict", {})
    trained = next((kept for kept in past.versions if kept.tag == model.dataset_version), None)
    gone = recalls.recalled_ids(services.database)
    rows: Rows = {} if trained is None else find_rows(past.objects.file(trained.manifest), gone)
    return {
        "kind": "model",
        **_brief(model),
        **_made_from(past, model),
        "created_at": model.created_at,
        "classes": list(model.classes),
        "cause": model.metrics.get("cause"),
        "reason": model.metrics.get("reason"),
        "parent": verdict.get("against"),
        "gate": {"passed": verdict.get("passed"), "reason": verdict.get("reason")} if verdict else None,
        "images": None if trained is None else _splits(past, trained.manifest),
        "recalled_since": sorted(
            image_id for image_id, row in rows.items() if row["state"] == "active" and row["split"] == "train"
        ),
        "served": asdict(lineage.served(services.database, version)),
        "decisions": lineage.decisions_about(services.database, version, MOST_DECISIONS),
    }


def _splits(past: Past, manifest: str) -> dict[str, int]:
    rows = Manifest.read(past.objects.file(manifest)).select()
    return dict(sorted(Counter(rows["split"].to_pylist()).items()))


def _dataset(services: Services, past: Past, tag: str) -> dict[str, Any]:
    version = require_version(past.versions, tag)
    manifest = Manifest.read(past.objects.file(version.manifest))
    place = past.versions.index(version)
    before = past.versions[place - 1] if place else None
    return {
        "kind": "dataset",
        "version": tag,
        "git_commit": version.commit,
        "made_at": version.made_at,
        "message": version.message,
        "manifest_md5": version.manifest,
        "images_md5": version.images,
        "classes": list(manifest.classes),
        "states": dict(sorted(Counter(manifest.table["state"].to_pylist()).items())),
        "splits": _splits(past, version.manifest),
        "before": None if before is None else before.tag,
        "images_before": None if before is None else Manifest.read(past.objects.file(before.manifest)).table.num_rows,
        "images": manifest.table.num_rows,
        "erased_since": erased_since(past, version.images, manifest),
        "models": [_brief(m) for m in reversed(champions.models(services.database)) if m.dataset_version == tag],
    }


def erased_since(past: Past, images: str | None, manifest: Manifest) -> list[str]:
    """Return the ids of the images that a version had and its restored form has not."""
    replacements = past.replacements()
    if images is None or not replacements.shards:
        return []
    files = past.objects.folder(images)
    lost = {image_id for name in files for image_id in replacements.final(name)[1]}
    held = manifest.table.filter(manifest.table["shard"].is_valid())["image_id"]
    return sorted(lost.intersection(held.to_pylist())) if lost else []
