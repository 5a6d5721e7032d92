"""The services a workspace stands on: embedded by default, each replaceable by one environment variable."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.decoding.decode import ImageLimits
from components.data.quarantine.kept_bytes import KeptBytes
from components.data.versioning.git import first_commit
from components.operations.workspace import Workspace, open_workspace
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store.database import Database
from components.store.postgres.embedded import EmbeddedPostgres


@dataclass(frozen=True, slots=True)
class Services:
    """An opened workspace with its database migrated, its image store and the address of its registry."""

    workspace: Workspace
    database: Database
    images: ImageStore
    registry: Registry  # MLflow is imported when it is first used

    @property
    def limits(self) -> ImageLimits:
        """Return the limits that every image from outside must keep."""
        return ImageLimits.of(self.workspace.params.data)

    @property
    def quarantine(self) -> KeptBytes:
        """Return where bytes of files that could not be used are kept: beside the pixels of scored images.

        In a folder of this workspace and its clones: others may use the same store, and what no register names is
        removed.
        """
        ours = first_commit(self.workspace.root)[:16]
        return KeptBytes(f"{self.workspace.image_store_url.rstrip('/')}/quarantine/{ours}")


def service_urls(workspace: Workspace) -> dict[str, str]:
    """Return the URL of each service without starting anything; an embedded one says where it would be."""
    settings, embedded = workspace.settings, EmbeddedPostgres(workspace.state)
    return {
        "database_url": settings.database_url or embedded.url("perennial"),
        "mlflow_tracking_uri": settings.mlflow_tracking_uri or embedded.url("mlflow"),
        "prefect_api_url": prefect_api_url(workspace) or "",
        "workspace_git_url": workspace.origin,
        "image_store_url": workspace.image_store_url,
    }


def prefect_api_url(workspace: Workspace) -> str | None:
    """Return the Prefect API in use: the environment's, that of a running `perennial up`, or None (each its own)."""
    if workspace.settings.prefect_api_url:
        return workspace.settings.prefect_api_url
    running = read_running_services(workspace.state)
    return str(running["prefect_api_url"]) if running else None


def read_running_services(state: Path) -> dict[str, Any] | None:
    """Return what `perennial up` wrote while it runs, or None when it does not run (any more)."""
    try:
        content: dict[str, Any] = json.loads((state / "services.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if Path(f"/proc/{content.get('pid')}").exists() else None


@contextmanager
def open_services(root: Path, settings: Settings) -> Iterator[Services]:
    """Yield the services of the workspace at `root`, started where they are embedded; connections close afterwards."""
    workspace = open_workspace(root, settings)
    embedded = EmbeddedPostgres(workspace.state)
    if settings.database_url is None or settings.mlflow_tracking_uri is None:
        embedded.start()
    for name, url in (("perennial", settings.database_url), ("mlflow", settings.mlflow_tracking_uri)):
        if url is None:
            embedded.ensure_database(name)
    database = Database(settings.database_url or embedded.url("perennial"))
    try:
        database.migrate()
        tracking_uri = settings.mlflow_tracking_uri or embedded.url("mlflow")
        yield Services(
            workspace,
            database,
            ImageStore(workspace.image_store_url),
            Registry(tracking_uri, str(workspace.state / "mlflow")),
        )
    finally:
        database.dispose()


def discard_services(root: Path, settings: Settings) -> None:
    """Stop what is embedded and delete its data, which may lie outside the workspace: it is about to be deleted."""
    stop_services(root, settings)
    EmbeddedPostgres(open_workspace(root, settings).state).destroy()


def stop_services(root: Path, settings: Settings) -> list[str]:
    """Stop what is embedded and runs; return the names of what was stopped. Services moved out are not ours to stop."""
    workspace = open_workspace(root, settings)
    stopped = []
    running = read_running_services(workspace.state)
    if running is not None:
        os.kill(int(running["pid"]), signal.SIGTERM)
        stopped.append("prefect")
    embedded = EmbeddedPostgres(workspace.state)
    if embedded.running():
        embedded.stop()
        stopped.append("postgresql")
    return stopped
