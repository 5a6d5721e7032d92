"""The dataset versions of a repository, read from git alone, and what each one's manifest says of an image."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.history.objects import DataObjects
from components.data.manifest import find_rows
from components.data.versioning.git import git
from components.errors import DataError, ServiceError
from components.records import require_utc

TAGS = "refs/tags/data/"
TOLD = ("state", "reason", "label", "label_origin", "split", "shard")
"""What may differ from version to version. Names and groups stay, and are most of what a manifest weighs."""
_FIELDS = "%(refname:short)%09%(objectname)%09%(*objectname)%09%(creatordate:iso-strict)%09%(contents:subject)"
_NAME = re.compile(r"^(?:- |  )md5: ([0-9a-f]{32}(?:\.dir)?)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """One dataset version: its tag and commit, when it was made and why, and the objects of its two parts.

    manifest, images: MD5 names; images is None before the first image was stored.
    """

    tag: str
    commit: str
    made_at: datetime
    message: str
    manifest: str
    images: str | None


def kept_versions(repository: Path, *, images: str, manifest: str) -> list[KeptVersion]:
    """Return every dataset version of a repository (a bare one will do), oldest first.

    images, manifest: their versioned paths. A tag without a manifest is passed over.
    """
    listed = git("for-each-ref", f"--format={_FIELDS}", TAGS, cwd=repository)
    found = [line.split("\t") for line in listed.splitlines()]
    names = [fields[0] for fields in found]
    manifests, folders = (_recorded(repository, names, path) for path in (manifest, images))
    versions = [
        KeptVersion(
            tag, peeled or own, require_utc(datetime.fromisoformat(made)), message, manifests[tag], folders.get(tag)
        )
        for tag, own, peeled, made, message in found
        if tag in manifests
    ]
    return sorted(versions, key=lambda version: _order(version.tag))


def folders_ever(repository: Path, images: str) -> list[str]:
    """Return every listing of the images' folder that any commit of the repository ever named, tagged or not."""
    commits = git("log", "--all", "--format=%H", "--", f"{images}.dvc", cwd=repository).split()
    return sorted(set(_recorded(repository, commits, images).values()))


def recorded_at(repository: Path, revision: str, path: str) -> str | None:
    """Return the object that `path` was at a revision, or None where it was not versioned."""
    return _recorded(repository, [revision], path).get(revision)


def file_at(repository: Path, revision: str, path: str) -> str | None:
    """Return the text of a committed file at a revision, or None where there was none."""
    if not git("ls-tree", "--name-only", revision, "--", path, cwd=repository):
        return None
    return git("show", f"{revision}:{path}", cwd=repository)


def rows_through_time(
    objects: DataObjects, versions: Sequence[KeptVersion], image_ids: Collection[str]
) -> Iterator[tuple[KeptVersion, dict[str, dict[str, Any]]]]:
    """Yield each version with its manifest's rows about these images, by image id: of their cells those in TOLD.

    A manifest that several versions share is read once. Raises DataError where a manifest is nowhere to be had.
    """
    read: dict[str, dict[str, dict[str, Any]]] = {}
    for version in versions:
        if version.manifest not in read:
            read[version.manifest] = find_rows(objects.file(version.manifest), image_ids, TOLD)
        yield version, read[version.manifest]


def require_version(versions: Sequence[KeptVersion], tag: str) -> KeptVersion:
    """Return the version called `tag`. Raises DataError, naming some that are known, where there is none."""
    for version in versions:
        if version.tag == tag:
            return version
    known = ", ".join(version.tag for version in versions[-5:])
    raise DataError(f"dataset version {tag!r} is unknown; the newest are {known or 'none'}")


def _recorded(repository: Path, revisions: Sequence[str], path: str) -> dict[str, str]:
    """Return the object that the .dvc file of `path` names, by revision; those without the file are left out."""
    found: dict[str, str] = {}
    for start in range(0, len(revisions), 500):  # within what a command line may hold
        some = revisions[start : start + 500]
        said = _grep(repository, some, f"{path}.dvc")
        for line in said.splitlines():
            revision, _, rest = line.partition(":")
            name = _NAME.search(rest.removeprefix(f"{path}.dvc:"))
            if name is not None:
                found[revision] = name[1]
    return found


def _grep(repository: Path, revisions: Sequence[str], path: str) -> str:
    try:
        return git("grep", "-e", "md5: ", *revisions, "--", path, cwd=repository)
    except ServiceError as error:  # git grep fails alike where it finds nothing
        if "fatal" in str(error):
            raise
        return ""


def _order(tag: str) -> tuple[str, int]:
    day, _, number = tag.rpartition("-")
    return day, int(number) if number.isdigit() else 0
