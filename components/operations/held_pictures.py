"""The page of held images, with pictures from the shards in the visible folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from components.data.decoding.decode import ImageLimits, decode
from components.data.manifest import Manifest, find_rows
from components.data.quarantine.choosing import filtered
from components.data.quarantine.register import Register
from components.data.shards import ShardReader
from components.data.versioning.versions import latest_dataset
from components.labels.held_page import MOST_SHOWN, write_held_page
from components.operations.workspace import Workspace
from components.pages.page import data_uri


def write_held(workspace: Workspace, page: Path, *, reason: str | None = None) -> None:
    """Write a page with pictures of the images that are held in the visible folder's dataset.

    reason: only those. Raises IntegrityError for a damaged manifest or shard.
    """
    path = workspace.root / workspace.params.paths.manifest
    manifest = Manifest.read(path) if path.exists() else Manifest.empty()
    table = filtered(Register.read(path).open(manifest), reason=reason, state="held")
    held = table.slice(0, MOST_SHOWN).to_pylist()
    rows = find_rows(path, {entry["image_id"] for entry in held}) if held else {}
    for entry in held:
        entry["beside"] = _beside(manifest, rows.get(entry["image_id"]))
    shown = {name for entry in held for name in (entry["image_id"], entry["beside"]) if name is not None}
    write_held_page(
        held, _pictures(workspace, path, shown), total=table.num_rows, version=latest_dataset(workspace.root), path=page
    )


def _beside(manifest: Manifest, row: dict[str, Any] | None) -> str | None:
    """Return an active image of the same group, for an image that is held for its group."""
    if row is None or row["state"] != "held":
        return None
    rows = manifest.select()
    others = rows.filter(pc.equal(rows["group_id"], row["group_id"]))["image_id"]
    return others[0].as_py() if len(others) else None


def _pictures(workspace: Workspace, manifest: Path, image_ids: Collection[str]) -> dict[str, str]:
    reader = ShardReader(workspace.root / workspace.params.paths.images)
    limits = ImageLimits.of(workspace.params.data)
    rows = find_rows(manifest, image_ids) if image_ids else {}
    return {
        name: data_uri(decode(reader.read_verified(row["shard"], row["row"], name), limits))
        for name, row in rows.items()
        if row["shard"] is not None
    }
