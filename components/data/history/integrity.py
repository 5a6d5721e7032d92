"""Whether stored bytes are still those that were versioned: what git recorded, by MD5, decides."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.data.files import publish, unpublished
from components.data.history.kept import KeptVersion, recorded_at
from components.data.history.objects import DIRECTORY, DataObjects
from components.data.shards import SHARD_SUFFIX, ShardReader
from components.data.versioning.dvc_remote import remote_folder
from components.errors import RESTORE, DataError, IntegrityError, PerennialError

_LISTING = re.compile(r"(?m)^(?:- |  )md5: ([0-9a-f]{32}\.dir)$")


@dataclass(frozen=True, slots=True)
class Damage:
    """One stored file that is not what was versioned.

    name: its path in the workspace. md5: what it should be. where: workspace | cache | remote; path: it, there. images:
    the ids of those in it whose bytes are not theirs, none where that cannot be told.
    """

    name: str
    md5: str
    where: str
    path: Path
    images: tuple[str, ...]

    def __str__(self) -> str:
        held = f", with {len(self.images)} images such as {self.images[0]}" if self.images else ""
        return f"{self.name} in the {self.where} ({self.path}{held})"


def require_recorded(root: Path, targets: Sequence[str]) -> None:
    """Raise IntegrityError where a file of a checkout, or a folder's listing, is not what its commit recorded.

    The images in shards are held against their ids by whoever reads them.
    """
    objects = DataObjects.of(root)
    for target in targets:
        recorded = recorded_at(root, "HEAD", target)
        if recorded is None:
            continue
        path = objects.cached(recorded) if recorded.endswith(DIRECTORY) else root / target
        found = md5_of(path)
        if found != recorded.removesuffix(DIRECTORY):
            raise IntegrityError(
                f"{target} is not what was versioned: {objects.cached(recorded)} has MD5 {found}; nothing was done. "
                f"{RESTORE}"
            )


def require_available(root: Path, targets: Sequence[str]) -> None:
    """Bring what this machine lacks of versioned files and folders, one by one, or raise what names the file.

    To be called where DVC failed to, which does not say at which file. Raises IntegrityError for one that the remote
    holds damaged, DataError for one that it does not hold, ServiceError where it cannot be asked.
    """
    objects = DataObjects.of(root)
    for target in targets:
        recorded = recorded_at(root, "HEAD", target)
        if recorded is None:
            continue
        with _naming(target):
            objects.file(recorded)
        for name, md5 in (objects.folder(recorded) if recorded.endswith(DIRECTORY) else {}).items():
            with _naming(f"{target}/{name}"):
                objects.file(md5)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise type(error)(f"{name} cannot be had: {error}; nothing was done") from error


def listing_of(root: Path, target: str) -> dict[str, str]:
    """Return the files of a versioned folder, as {path in it: MD5}, as its .dvc file names them; of a file, {}."""
    path = root / f"{target}.dvc"
    found = _LISTING.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    return {} if found is None else DataObjects.of(root).folder(found[1])


def require_kept(before: Mapping[str, str], after: Mapping[str, str], folder: str) -> None:
    """Raise IntegrityError where a file of a folder's listing changed: shards are written once."""
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            raise IntegrityError(
                f"{folder}/{name} changed while it was in use, from MD5 {before[name]} to {after[name]}; "
                f"nothing was committed. {RESTORE}"
            )


def md5_of(path: Path) -> str | None:
    """Return the MD5 of a file in hexadecimal, None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return None


class StoredData:
    """Every dataset version's files on this machine: in a checkout, DVC's cache, and the remote if it is a folder.

    beside: the paths of further versioned files, of which the newest version's are looked at.
    """

    def __init__(
        self, checkout: Path, versions: Sequence[KeptVersion], *, images: str, manifest: str, beside: Sequence[str] = ()
    ) -> None:
        self._checkout, self._versions = checkout, versions
        self._images, self._manifest = images, manifest
        recorded = ((path, recorded_at(checkout, "HEAD", path)) for path in (manifest, *beside))
        self._here = {path: md5 for path, md5 in recorded if md5 is not None}  # files of the version checked out
        self._beside = [(path, self._here[path]) for path in beside if path in self._here]
        self._objects = DataObjects.of(checkout)
        folder = remote_folder(checkout)
        self._remote = None if folder is None else DataObjects(checkout, folder)

    def damaged(self) -> Iterator[Damage]:
        """Yield what is there and differs, listings first. What is in only one of the places is no damage."""
        for name, md5 in self._names(listings=True):
            yield from self._damaged(name, md5)
        listing = recorded_at(self._checkout, "HEAD", self._images)
        self._here |= dict([] if listing is None else self._listed(listing))
        for name, md5 in self._names(listings=False):
            yield from self._damaged(name, md5)
        for name, md5 in self._beside:
            yield from self._damaged(name, md5)

    def restore(self, damage: Damage) -> None:
        """Put the right bytes in the place of damaged ones, whole. Raises PerennialError where there are none."""
        if damage.where == "remote":
            self._replace(damage.path, self._sound(self._objects, damage))
            return
        good = self._objects.cached(damage.md5)
        if md5_of(good) != damage.md5.removesuffix(DIRECTORY):
            self._objects.restore(damage.md5)
        if damage.where == "workspace":
            self._replace(damage.path, good)

    def _names(self, *, listings: bool) -> Iterator[tuple[str, str]]:
        """Yield every file ever versioned with its object: the listings of the images' folder, or all others."""
        met: set[str] = set()
        for version in reversed(self._versions):
            files = [] if listings else [(self._manifest, version.manifest)]
            if version.images is not None and version.images not in met:
                met.add(version.images)
                files += [(self._images, version.images)] if listings else self._listed(version.images)
            for name, md5 in files:
                if listings or md5 not in met:
                    met.add(md5)
                    yield name, md5

    def _listed(self, listing: str) -> list[tuple[str, str]]:
        """Return the files that a sound copy of a listing names; none where there is no such copy on this machine."""
        for objects in (self._objects, self._remote):
            if objects is not None and md5_of(objects.cached(listing)) == listing.removesuffix(DIRECTORY):
                return [(f"{self._images}/{name}", md5) for name, md5 in objects.folder(listing).items()]
        return []

    def _damaged(self, name: str, md5: str) -> Iterator[Damage]:
        places = {"cache": self._objects.cached(md5)}
        if self._remote is not None:
            places["remote"] = self._remote.cached(md5)
        if self._here.get(name) == md5:
            places["workspace"] = self._checkout / name
        for where, path in places.items():
            found = md5_of(path)
            if found is not None and found != md5.removesuffix(DIRECTORY):
                yield Damage(name, md5, where, path, _damaged_images(path) if name.endswith(SHARD_SUFFIX) else ())

    def _sound(self, objects: DataObjects, damage: Damage) -> Path:
        path = objects.cached(damage.md5)
        if md5_of(path) != damage.md5.removesuffix(DIRECTORY):
            raise IntegrityError(f"{damage}: this machine's cache has no sound copy of it either; look in a backup")
        return path

    def _replace(self, path: Path, by: Path) -> None:
        with unpublished(path.parent) as (file, temporary), by.open("rb") as source:
            shutil.copyfileobj(source, file)
            os.fchmod(file.fileno(), 0o444)
            publish(file, temporary, path)


def _damaged_images(path: Path) -> tuple[str, ...]:
    reader = ShardReader(path.parent)
    try:
        ids = reader.column(path.name, "image_id")
    except IntegrityError:
        ids = None
    listed = [] if ids is None else ids.to_pylist()
    return tuple(image_id for row, image_id in enumerate(listed) if not _sound(reader, path.name, row, image_id))


def _sound(reader: ShardReader, shard: str, row: int, image_id: str) -> bool:
    try:
        return bool(reader.read_verified(shard, row, image_id))
    except PerennialError:
        return False
