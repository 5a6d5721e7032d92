"""What questions about the past are answered from: git's tags, DVC's manifests, the table of models. Nothing locked."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.erasure.following import record_of
from components.data.erasure.replaced import Replacements
from components.data.history.kept import KeptVersion, file_at, kept_versions, rows_through_time
from components.data.history.objects import DataObjects
from components.data.versioning.git import git
from components.errors import DataError, ServiceError
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Paths

logger = logging.getLogger(__name__)

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Past:
    """The dataset versions of a workspace, oldest first, and where they can be read. main: the newest commit's name."""

    repository: Path
    main: str
    paths: Paths
    objects: DataObjects
    versions: tuple[KeptVersion, ...]

    @property
    def newest(self) -> KeptVersion:
        """Return the newest dataset version. Raises DataError before the first ingest."""
        if not self.versions:
            raise DataError("there is no dataset version yet; bring images in with `perennial ingest SOURCE`")
        return self.versions[-1]

    def rows(self, image_ids: Collection[str]) -> list[tuple[KeptVersion, Rows]]:
        """Return each version, oldest first, with its manifest's rows about these images."""
        return list(rows_through_time(self.objects, self.versions, image_ids))

    def replacements(self) -> Replacements:
        """Return which shards were written anew so far."""
        record = record_of(self.paths)
        return Replacements.parse(file_at(self.repository, self.main, record), record)


def open_past(services: Services) -> Past:
    """Return what is known of the workspace's past: the origin's word where it is on this machine or can be fetched."""
    workspace = services.workspace
    repository, main = _repository(workspace)
    paths = workspace.params.paths
    versions = kept_versions(repository, images=paths.images, manifest=paths.manifest)
    objects = DataObjects(workspace.root, workspace.state / "dvc-cache")
    return Past(repository, main, paths, objects, tuple(versions))


def _repository(workspace: Workspace) -> tuple[Path, str]:
    origin = Path(workspace.origin)
    if origin.is_dir():
        return origin, "main"
    try:
        git("fetch", "--quiet", "--tags", workspace.origin, "+refs/heads/main:refs/remotes/origin/main",
            cwd=workspace.root)  # fmt: skip
    except ServiceError as error:
        logger.warning("%s; what follows is what this machine knew before", error)
    return workspace.root, "origin/main"
