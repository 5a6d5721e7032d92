"""Images recalled in a checkout: marked in the manifest, and, on request, taken out of their shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.data.annotations import read_annotations, without_images, write_with_annotations
from components.data.erasure.replaced import REPLACED_FILE, Replacements
from components.data.manifest import MANIFEST_SCHEMA, Manifest, Row, with_shards_changed, without
from components.data.shards import DESCRIBED_SCHEMA, SHARD_SCHEMA, ShardReader, ShardRow, write_shard
from components.params import Paths

_CONTENT = SHARD_SCHEMA.get_field_index("content")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a recall changed. marked: images newly marked. shards: each one written anew, and what stands for it."""

    marked: tuple[str, ...]
    shards: dict[str, str | None]

    @property
    def changed(self) -> bool:
        """Return whether there is anything to commit."""
        return bool(self.marked or self.shards)


def replaced_path(root: Path, paths: Paths) -> Path:
    """Return where a checkout keeps the record of replaced shards: beside the manifest."""
    return (root / paths.manifest).with_name(REPLACED_FILE)


def recall_images(root: Path, paths: Paths, image_ids: Collection[str], reason: str, *, purge: bool) -> Rewritten:
    """Mark images of the checkout at `root` as recalled; with `purge`, write the shards that hold them anew.

    An image that has no row (it was scored, never ingested) gets one, so that it does not come in later. A row that is
    marked already keeps its reason. What annotators said of these images goes. All other images keep their bytes; where
    these lie is all that changes of them.
    The manifest is written last; whatever was written before it is in nobody's way.
    """
    path = root / paths.manifest
    manifest = Manifest.read(path)
    table, marked = _marked(manifest.table, sorted(set(image_ids)), reason)
    shards: dict[str, str | None] = {}
    if purge:
        table, shards = _purged(table, root, paths, frozenset(image_ids))
    if marked or shards:
        opinions = without_images(read_annotations(manifest, path), image_ids)
        write_with_annotations(replace(manifest, table=table.sort_by("image_id")), opinions, path)
    for shard in shards:
        (root / paths.images / shard).unlink(missing_ok=True)
    return Rewritten(tuple(marked), shards)


def _marked(table: pa.Table, image_ids: list[str], reason: str) -> tuple[pa.Table, list[str]]:
    there = table.filter(pc.is_in(table["image_id"], pa.array(image_ids, pa.string()))).to_pylist()
    known = {row["image_id"]: row for row in there}
    changed = [
        {**known.get(image_id, {"image_id": image_id}), "state": "recalled", "reason": reason}
        for image_id in image_ids
        if known.get(image_id, {}).get("state") != "recalled"
    ]
    marked = [row["image_id"] for row in changed]
    if not changed:
        return table, marked
    return pa.concat_tables([without(table, marked), pa.Table.from_pylist(changed, MANIFEST_SCHEMA)]), marked


def _purged(
    table: pa.Table, root: Path, paths: Paths, image_ids: frozenset[str]
) -> tuple[pa.Table, dict[str, str | None]]:
    """Write the shards of these images anew; return the manifest's rows with every place as it is then."""
    wanted = pc.is_in(table["image_id"], pa.array(sorted(image_ids), pa.string()))
    holding = sorted({name for name in table.filter(wanted)["shard"].to_pylist() if name is not None})
    record = replaced_path(root, paths)
    replacements, folder = Replacements.read(record), root / paths.images
    reader = ShardReader(folder)
    new: dict[str, str | None] = {}
    rows: dict[tuple[str, str], int] = {}  # of an image in the shard that it lay in
    for shard in holding:
        ids = _ids(reader, shard)
        kept = [row for row, image_id in enumerate(ids) if image_id not in image_ids]
        schema = DESCRIBED_SCHEMA if reader.column(shard, "descriptor") is not None else SHARD_SCHEMA
        new[shard] = write_shard(folder, _rows(reader, shard, kept, schema), schema=schema) if kept else None
        rows.update({(shard, ids[row]): place for place, row in enumerate(kept)})
        replacements = replacements.with_one(shard, new[shard], image_ids.intersection(ids))
    if new:
        replacements.write(record)

    def moved(row: Row) -> Row:
        if row["image_id"] in image_ids:
            return {**row, "shard": None, "row": None}
        return {**row, "shard": new[row["shard"]], "row": rows[row["shard"], row["image_id"]]}

    return with_shards_changed(table, new, moved) if new else table, new


def _rows(reader: ShardReader, shard: str, kept: list[int], schema: pa.Schema) -> Iterator[ShardRow]:
    columns = [reader.column(shard, name) for name in schema.names]
    for row in kept:
        values: list[Any] = [column[row].as_py() for column in columns if column is not None]
        values[_CONTENT] = reader.read_verified(shard, row, values[0])  # damage must not be copied under a new name
        yield tuple(values)


def _ids(reader: ShardReader, shard: str) -> list[str]:
    column = reader.column(shard, "image_id")
    ids: list[str] = [] if column is None else column.to_pylist()
    return ids
