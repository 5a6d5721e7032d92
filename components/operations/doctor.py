"""Check every part a workspace stands on, one line each, and say where everything is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.data.history.integrity import StoredData
from components.data.history.kept import kept_versions
from components.data.versioning.git import git, is_clean
from components.data.versioning.versions import latest_dataset
from components.errors import RESTORE, IntegrityError, PerennialError
from components.operations.ingestion import dataset_paths, register_target
from components.operations.promotion import repair_alias
from components.operations.services import Services, open_services, service_urls
from components.operations.workspace import Workspace, open_workspace
from components.settings import Settings
from components.store.champions import champion

LEAST_FREE_BYTES = 2_000_000_000
Check = Callable[[], str]


def examine(root: Path, settings: Settings, *, data: bool = False, restore: bool = False) -> dict[str, Any]:
    """Return every URL, every check with its detail, and whether all are well. Starts what is embedded.

    data: hold every stored byte of every dataset version on this machine against what was versioned. restore: and bring
    what is damaged from where it is sound.
    """
    workspace = open_workspace(root, settings)
    checks = [
        _check("python", _python),
        _check("git", lambda: _repository(workspace)),
        _check("disk", lambda: _disk(workspace)),
    ]
    if data or restore:
        checks.append(_check("data", lambda: examine_data(workspace, restore=restore)))
    try:
        with open_services(root, settings) as services:
            checks += [
                _check("postgresql", lambda: f"migrated to {services.database.revision()}"),
                _check("mlflow", lambda: _registry(services)),
                _check("image store", lambda: f"{len(services.images.months())} months in {services.images.url}"),
            ]
    except PerennialError as error:
        checks.append({"name": "postgresql", "ok": False, "detail": str(error)})
    urls = service_urls(workspace)
    return {**urls, "workspace": str(workspace.root), "checks": checks, "ok": all(c["ok"] for c in checks)}


def _check(name: str, look: Check) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "detail": look()}
    except PerennialError as error:
        return {"name": name, "ok": False, "detail": str(error)}


def _python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


def _repository(workspace: Workspace) -> str:
    git("ls-remote", "--heads", workspace.origin, cwd=workspace.root)
    state = "clean" if is_clean(workspace.root) else "local changes (flows use what is committed and pushed)"
    return f"dataset {latest_dataset(workspace.root) or 'none yet'}; {state}"


def _disk(workspace: Workspace) -> str:
    free = shutil.disk_usage(workspace.root).free
    if free < LEAST_FREE_BYTES:
        raise PerennialError(
            f"{free / 1e9:.1f} GB free at {workspace.root}, at least {LEAST_FREE_BYTES / 1e9:.0f} are needed"
        )
    return f"{free / 1e9:.0f} GB free"


def examine_data(workspace: Workspace, *, restore: bool) -> str:
    """Hold every stored file of every dataset version on this machine to its hash, and say what was found.

    restore: bring what is damaged from where it is sound. Raises IntegrityError, naming what is damaged still.
    """
    images, manifest, annotations = dataset_paths(workspace.params)
    versions = kept_versions(workspace.root, images=images, manifest=manifest)
    beside = (annotations, register_target(workspace.params))
    stored = StoredData(workspace.root, versions, images=images, manifest=manifest, beside=beside)
    restored, left = [], []
    for damage in stored.damaged():
        try:
            if not restore:
                raise IntegrityError(f"{damage} is damaged")
            stored.restore(damage)
            restored.append(str(damage))
        except PerennialError as error:
            left.append(str(error))
    if left:
        again = "" if restore else f"; {RESTORE}"
        raise IntegrityError("; ".join([*left, *(f"{one} is restored" for one in restored)]) + again)
    return f"restored: {'; '.join(restored)}" if restored else f"{len(versions)} dataset versions are sound"


def _registry(services: Services) -> str:
    current = champion(services.database)
    if current is None:
        return "reachable by its URI; no champion yet"
    repair_alias(services)  # the alias mirrors the pointer; looking is the moment to mend it
    return f"champion is version {current.version}, trained on {current.dataset_version}"
