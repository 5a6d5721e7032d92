"""An old dataset version, restored without the images that were erased since: its places follow the new shards."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import yaml

from components.data.annotations import annotations_path, read_annotations, without_images, write_with_annotations
from components.data.erasure.replaced import REPLACED_FILE, Replacements
from components.data.history.kept import file_at, recorded_at
from components.data.history.objects import DataObjects
from components.data.manifest import Manifest, Row, with_shards_changed
from components.data.shards import ShardReader
from components.errors import IntegrityError
from components.params import Paths

logger = logging.getLogger(__name__)

NEWEST = "origin/main"
GONE = "recalled since; its bytes were erased"
_MD5 = re.compile(r"(?m)^(- |  )md5: [0-9a-f]{32}\.dir$")


@dataclass(frozen=True, slots=True)
class OldVersion:
    """An old version in a checkout. replaced: its shards that others stand for now, by name; these with their MD5."""

    root: Path
    paths: Paths
    replaced: dict[str, tuple[str, str] | None]

    @classmethod
    def prepare(cls, root: Path) -> OldVersion:
        """Point the checkout's images.dvc at what stands for its shards now; to be called before they are pulled.

        root: a clone of the workspace, at any commit. Raises DataError where a listing is nowhere to be had.
        """
        paths = paths_of(root)
        record = record_of(paths)
        replacements = Replacements.parse(file_at(root, NEWEST, record), record)
        then = recorded_at(root, "HEAD", paths.images)
        if then is None or not replacements.shards:
            return cls(root, paths, {})
        objects = DataObjects.of(root)
        files = objects.folder(then)
        final = {name: replacements.final(name)[0] for name in files if name in replacements.shards}
        if not final:
            return cls(root, paths, {})
        now = objects.folder(recorded_at(root, NEWEST, paths.images) or then)
        replaced = {name: None if by is None else (by, _known(now, by, record)) for name, by in final.items()}
        files = {name: md5 for name, md5 in files.items() if name not in replaced}
        files.update(new for new in replaced.values() if new is not None)
        _point_at(root / f"{paths.images}.dvc", objects.add_folder(files))
        return cls(root, paths, replaced)

    def finish(self) -> tuple[str, ...]:
        """Let the pulled manifest say where its images lie now; return the ids of those that are gone.

        They are recalled in this manifest, so whatever reads it goes on without them.
        """
        path = self.root / self.paths.manifest
        if not self.replaced or not path.is_file():
            return ()
        manifest = Manifest.read(path)
        table, gone = followed(manifest.table, self.replaced, self._places())
        now = replace(manifest, table=table)
        if gone and annotations_path(path).is_file():
            write_with_annotations(now, without_images(read_annotations(manifest, path), gone), path)
        else:
            now.write(path)
        if gone:
            logger.warning("%d images of this version were erased since; it is restored without them", len(gone))
        return gone

    def _places(self) -> dict[str, tuple[str, int]]:
        objects = DataObjects.of(self.root)
        found: dict[str, tuple[str, int]] = {}
        for name, md5 in {new for new in self.replaced.values() if new is not None}:
            file = objects.file(md5)
            ids = ShardReader(file.parent).column(file.name, "image_id")
            found.update({image_id: (name, row) for row, image_id in enumerate([] if ids is None else ids.to_pylist())})
        return found


def followed(
    table: pa.Table, replaced: Collection[str], places: Mapping[str, tuple[str, int]]
) -> tuple[pa.Table, tuple[str, ...]]:
    """Return manifest rows with those in `replaced` shards moved to their `places`, and the ids that have none."""
    gone: list[str] = []

    def now(row: Row) -> Row:
        if row["image_id"] not in places:
            gone.append(row["image_id"])
            return {**row, "shard": None, "row": None, "state": "recalled", "reason": GONE}
        shard, number = places[row["image_id"]]
        return {**row, "shard": shard, "row": number}

    return with_shards_changed(table, replaced, now), tuple(sorted(gone))


def paths_of(root: Path) -> Paths:
    """Return where a checkout of any age keeps its parts; other settings of its params.yaml may be long out of use."""
    content = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")) or {}
    return Paths(**content.get("paths", {}))


def record_of(paths: Paths) -> str:
    """Return the path, within a repository, of the record of replaced shards."""
    return Path(paths.manifest).with_name(REPLACED_FILE).as_posix()


def wants(targets: Sequence[str], paths: Paths) -> bool:
    """Return whether `targets` name a dataset's parts, so that a version may have to be followed."""
    ours = {paths.images, paths.manifest}
    return any(target.removesuffix(".dvc") in ours for target in targets)


def _known(files: dict[str, str], name: str, record: str) -> str:
    if name not in files:
        raise IntegrityError(
            f"{record} names shard {name}, which the newest version does not hold; restore it with git"
        )
    return files[name]


def _point_at(file: Path, md5: str) -> None:
    text, many = _MD5.subn(lambda found: f"{found[1]}md5: {md5}", file.read_text(encoding="utf-8"))
    if many != 1:
        raise IntegrityError(f"{file} does not name one folder; restore it with git")
    # The sizes that it also tells are those of before; DVC takes them for a hint.
    file.write_text(re.sub(r"(?m)^  (size|nfiles): \d+\n", "", text), encoding="utf-8")
