"""Erase recalled images for good: from older versions' shards in DVC's cache and remote, the image store, the pages.

New before old: the newest version holds every other image of those shards already, is pushed, and is checked byte by
byte before anything goes. What goes can go again, so a run that was cut off is simply repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.history.kept import KeptVersion, folders_ever
from components.data.history.objects import DataObjects
from components.data.manifest import find_rows
from components.data.shards import ShardReader
from components.data.versioning.versions import PAST_PREFIX, fast_forward
from components.errors import ConfigurationError, DataError, IntegrityError, RefusedError, ServiceError
from components.operations.erasure.audit_pages import pages_showing, remove_from_runs, remove_visible
from components.operations.erasure.recall import KIND
from components.operations.ingestion import exclusive_clone
from components.operations.lineage.past import Past, open_past
from components.operations.services import Services
from components.records import Window
from components.store import ledger, monitoring, recalls

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doomed:
    """What is to be removed. objects: names of DVC's files that hold an image. shards: what versions call them."""

    objects: tuple[str, ...]
    shards: tuple[str, ...]
    versions: tuple[str, ...]


def doomed(past: Past, image_ids: Collection[str]) -> Doomed:
    """Return the objects, of all versions but the newest, whose files hold one of these images.

    Found in the manifests of all versions, in the listings of every commit, and, for what a killed command left behind,
    on this machine's disk. Raises RefusedError where the newest version's shards still hold one.
    """
    names: set[str] = set()
    versions: list[str] = []
    for version, rows in past.rows(image_ids):
        here = {row["shard"] for row in rows.values()} - {None}
        names |= here
        versions += [version.tag] if here else []
    newest = past.objects.folder(past.newest.images) if past.newest.images else {}
    if names & set(newest):
        raise RefusedError(f"{past.newest.tag} still holds an image that is to be erased; purge it first")
    listed = {md5 for files in _listings(past) for name, md5 in files.items() if name in names}
    objects = listed | set(_shards_with(past.objects, image_ids))
    if objects & set(newest.values()):
        raise RefusedError(f"a shard of {past.newest.tag} holds an image that is to be erased; purge it first")
    return Doomed(tuple(sorted(objects)), tuple(sorted(names)), tuple(versions))


def erase(services: Services, image_ids: Sequence[str], *, actor: str, reason: str, now: datetime) -> dict[str, Any]:
    """Remove the bytes of purged images wherever this workspace keeps them, and return what went.

    Raises RefusedError, with nothing removed, where an image is not purged yet, or the visible folder cannot follow to
    the newest version because of local changes; IntegrityError where the rest of a shard is not safe elsewhere.
    """
    known = recalls.recalled(services.database, image_ids)
    missing = [image_id for image_id in image_ids if image_id not in known or known[image_id].purged_in is None]
    if missing:
        raise RefusedError(f"{missing[0]} is not out of the newest version's shards yet; recall it with --purge first")
    with exclusive_clone(services, "erase") as clone:
        fast_forward(services.workspace.root, services.workspace.origin)
        past = open_past(services)
        found, shown = doomed(past, image_ids), pages_showing(past, image_ids)
        _require_followed(services.workspace.root / past.paths.images, found.shards)
        objects = DataObjects(clone.root, past.objects.cache)
        there = {**objects.in_remote(found.objects), **objects.in_cache(found.objects)}
        _require_rest_is_safe(objects, past.newest, there, image_ids)
        there |= {**objects.in_remote(shown.pages), **objects.in_cache(shown.pages)}
        pictures = _erase_pixels(services, image_ids)
        kept = services.quarantine.remove(image_ids)
        pages = _remove_pages(services, image_ids)
        runs = remove_from_runs(services, past, shown)
        remove_visible(services.workspace.root, past.paths, shown)
        _remove_left_overs(services.workspace.state, past.paths.images, found.shards)
        objects.remove_from_remote(list(there))
        objects.remove_from_cache(list(there))
        _require_gone(objects, [*found.objects, *shown.pages], image_ids)
    result: dict[str, Any] = {
        "objects": sorted(there),
        "object_bytes": sum(there.values()),
        "pictures": pictures,
        "kept": kept,
        "pages": pages,
        "audit_pages": sum(name in there for name in shown.pages),
        "models_with_audit_pages": runs,
        "versions": list(found.versions),
        "being_scored": [batch.batch_id for batch in recalls.unfinished_batches(services.database)],
    }
    with services.database.transaction() as connection:
        # While a batch is being scored its next shard may hold an image that was read before the recall.
        erased = [] if result["being_scored"] else recalls.set_erased(connection, image_ids, now)
        if erased or there or pictures or kept or pages:
            ledger.record(
                connection, kind=KIND, actor=actor, action="erased", reason=reason, now=now,
                evidence={**result, "images": list(image_ids)},
            )  # fmt: skip
    return result


def _listings(past: Past) -> Iterator[dict[str, str]]:
    for name in folders_ever(past.repository, past.paths.images):
        try:
            yield past.objects.folder(name)
        except DataError:  # of a commit that was never pushed, or whose listing was collected: it restores nothing
            logger.warning("the listing %s of an old commit is nowhere to be had; its objects are not looked at", name)


def _shards_with(objects: DataObjects, image_ids: Collection[str]) -> Iterator[str]:
    """Yield the objects among this machine's files that are shards with one of these images."""
    for file in sorted({file for folder in objects.folders() for file in folder.glob("??/*")}):
        with file.open("rb") as opened:
            if opened.read(6) != b"ARROW1":
                continue
        if not set(_ids(file)).isdisjoint(image_ids):
            yield file.parent.name + file.name


def _ids(file: Path) -> list[str]:
    try:
        column = ShardReader(file.parent).column(file.name, "image_id")
    except IntegrityError:  # damaged, or another kind of table
        return []
    return [] if column is None else list(column.to_pylist())


def _ids_of(objects: DataObjects, name: str) -> list[str]:
    try:
        return _ids(objects.file(name))
    except IntegrityError as error:  # nothing is restored from damage, or from half of an upload
        logger.warning("%s; it is removed unread", error)
        return []


def _require_followed(images: Path, shards: Sequence[str]) -> None:
    left = [name for name in shards if (images / name).exists()]
    if left:
        raise RefusedError(
            f"{images / left[0]} is still there: the folder has local changes and could not follow. Commit or discard "
            "them, `git pull && dvc checkout`, and run it again; nothing was removed"
        )


def _require_rest_is_safe(
    objects: DataObjects, newest: KeptVersion, there: Collection[str], image_ids: Collection[str]
) -> None:
    """Raise IntegrityError unless the newest version's pushed shards hold every other image of what is to go."""
    others = {image_id for name in there for image_id in _ids_of(objects, name)}.difference(image_ids)
    known = find_rows(objects.file(newest.manifest), others)  # what a killed command left may be in no version at all
    now = [row for row in known.values() if row["shard"] is not None]
    files = objects.folder(newest.images) if newest.images else {}
    wanted = {files[row["shard"]] for row in now}
    unpushed = wanted.difference(objects.in_remote(wanted))
    if unpushed:
        raise IntegrityError(
            f"object {min(unpushed)} of {newest.tag} is not in the DVC remote; `dvc push` first, nothing was removed"
        )
    for row in now:
        file = objects.file(files[row["shard"]])
        ShardReader(file.parent).read_verified(file.name, row["row"], row["image_id"])


def _erase_pixels(services: Services, image_ids: Sequence[str]) -> int:
    """Empty the images' places in the image store, also where a batch that was cut off left them without a row."""
    shards = {place.shard for place in recalls.stored_pixels(services.database, image_ids)}
    for batch in recalls.unfinished_batches(services.database):
        shards.update(services.images.shards_of(batch.month, batch.batch_id))
    return sum(services.images.erase(shard, frozenset(image_ids)) for shard in sorted(shards))


def _remove_pages(services: Services, image_ids: Sequence[str]) -> list[str]:
    """Remove the pages of what changed that may show one of the images: `explain-drift` makes them anew without it."""
    moments = recalls.scored_at(services.database, image_ids)
    removed = []
    for page in sorted(services.workspace.reports.glob("*-v*-drift.html")):
        name, _, version = page.name.removesuffix("-drift.html").rpartition("-v")
        try:
            windows = [Window.parse(name)]
            reference = monitoring.drift_reference(services.database, int(version))
        except (ConfigurationError, ValueError):  # not one of ours
            continue
        if reference is not None:
            windows.append(Window.parse(reference.window))
        if any(window.start <= moment < window.end for window in windows for moment in moments):
            page.unlink(missing_ok=True)
            removed.append(page.name)
    return removed


def _remove_left_overs(state: Path, images: str, shards: Sequence[str]) -> None:
    """Remove the shards from checkouts of old versions that killed commands left, or that are being read just now."""
    for folder in state.glob(f"{PAST_PREFIX}*"):
        for name in shards:
            (folder / "workspace" / images / name).unlink(missing_ok=True)


def _require_gone(objects: DataObjects, names: Sequence[str], image_ids: Collection[str]) -> None:
    left = {*objects.in_remote(names), *objects.in_cache(names), *_shards_with(objects, image_ids)}
    if left:
        raise ServiceError(f"object {min(left)} is still in DVC's cache or remote; run it again")
