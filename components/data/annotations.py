"""What every annotator said of an image: a table beside the manifest, which names it by its digest.

So whatever depends on the manifest is made anew where only an opinion changed, and the two are never mixed up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.files import publish, unpublished
from components.data.manifest import Manifest
from components.errors import IntegrityError

ANNOTATIONS_FILE = "annotations.parquet"
ANNOTATIONS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), False),
        pa.field("annotator", pa.string(), False),  # once an image
        pa.field("label", pa.string(), False),
    ]
)

_PENDING_FILE = ".annotations.parquet.partial"
_ORDER = [("image_id", "ascending"), ("annotator", "ascending")]


def annotations_path(manifest: Path) -> Path:
    """Return where the annotations beside the manifest at `manifest` are."""
    return manifest.with_name(ANNOTATIONS_FILE)


def read_annotations(manifest: Manifest, path: Path) -> pa.Table:
    """Return the annotations that belong to the manifest stored at `path`, an empty table where it names none.

    What a crash left between the manifest and them is put right first. Raises IntegrityError for others than it names.
    """
    if manifest.annotations is None:
        return ANNOTATIONS_SCHEMA.empty_table()
    found, pending = annotations_path(path), path.with_name(_PENDING_FILE)
    if _digest(found) != manifest.annotations and _digest(pending) == manifest.annotations:
        pending.replace(found)
    if _digest(found) != manifest.annotations:
        raise IntegrityError(f"{found} is not the one that {path.name} was written with; `dvc checkout` restores both")
    return pq.read_table(found, schema=ANNOTATIONS_SCHEMA)


def write_with_annotations(manifest: Manifest, annotations: pa.Table, path: Path) -> Manifest:
    """Store a manifest at `path` with its annotations beside it, both or none, and return it as it names them.

    The same content gives the same bytes. Where there never were any, no file is written.
    """
    if manifest.annotations is None and not annotations.num_rows:
        manifest.write(path)
        return manifest
    pending = path.with_name(_PENDING_FILE)
    with unpublished(path.parent) as (file, temporary):
        table = annotations.cast(ANNOTATIONS_SCHEMA).sort_by(_ORDER).combine_chunks()
        pq.write_table(table.replace_schema_metadata(None), file, compression="zstd", version="2.6")
        publish(file, temporary, pending)
    written = replace(manifest, annotations=_digest(pending))
    written.write(path)  # from here on the new ones are in force
    pending.replace(annotations_path(path))
    return written


def without_images(annotations: pa.Table, image_ids: Collection[str]) -> pa.Table:
    """Return the annotations that are about other images than these."""
    return annotations.filter(pc.invert(pc.is_in(annotations["image_id"], pa.array(sorted(image_ids), pa.string()))))


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
