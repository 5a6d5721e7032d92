"""Bring images in: source → checks → split → shards and manifest → a tagged, pushed dataset version."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.annotations import annotations_path
from components.data.history.kept import kept_versions
from components.data.ingestion.class_changes import Add, name_in_use
from components.data.ingestion.class_history import SPLITS_FILE, ClassHistory
from components.data.ingestion.ingest import ingest
from components.data.manifest import Manifest
from components.data.quarantine.register import Register, register_path
from components.data.sources.columns import ColumnNames
from components.data.sources.item import Origin, printable
from components.data.sources.opening import SourceItem, open_source
from components.data.sources.remote import without_credentials
from components.data.sources.seen import SeenFiles, seen_path
from components.data.versioning.versions import WorkspaceClone, fast_forward, latest_dataset, working_clone
from components.dataset_card.advice import advice
from components.errors import ConfigurationError, NoSpaceError
from components.operations.services import Services
from components.operations.workspace import PACKAGE, template_folder
from components.params import Params, load_params
from components.store.ledger import record, recorded_versions

LOCK = "workspace"
LOCK_WAIT_SECONDS = 1800.0
_INGEST = "Ingest "

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_clone(services: Services, name: str) -> Iterator[WorkspaceClone]:
    """Yield a fresh clone of the workspace under its one lock; the visible folder follows when the block succeeds.

    Raises BusyError if another flow holds the lock for longer than half an hour.
    """
    workspace = services.workspace
    with services.database.advisory_lock(LOCK, LOCK_WAIT_SECONDS):
        with working_clone(origin=workspace.origin, state=workspace.state, name=name) as clone:
            yield clone
        fast_forward(workspace.root, workspace.origin)


def dataset_paths(params: Params) -> tuple[str, str, str]:
    """Return the versioned paths of a dataset: the shards' folder, the manifest, and annotations, if there are any."""
    return params.paths.images, params.paths.manifest, annotations_path(Path(params.paths.manifest)).as_posix()


def splits_path(params: Params) -> str:
    """Return the versioned path of the images that splits of classes list; there is none before the first split."""
    return Path(params.paths.manifest).with_name(SPLITS_FILE).as_posix()


def register_target(params: Params) -> str:
    """Return the versioned path of the register of files that were set aside; there is none before the first."""
    return register_path(Path(params.paths.manifest)).as_posix()


def commit_data(
    clone: WorkspaceClone, params: Params, message: str, *, changed: bool, noted: bool, now: datetime
) -> str | None:
    """Commit and publish what an ingest did to the clone; return the new dataset version, None where there is none.

    changed: whether the manifest differs; noted: whether the register of files that were set aside does. That alone is
    a commit and no dataset version, which would ask for a retraining.
    """
    targets = [*dataset_paths(params), register_target(params)]
    there = [target for target in targets if (clone.root / target).exists()]
    version = None
    if changed:
        version = clone.commit_dataset(there, message, now)
    elif noted:
        clone.commit_files([register_target(params)], "Note which files were set aside")
    if changed or noted:
        clone.publish()
    return version


def forget_bytes(services: Services, before: Register, after: Register) -> None:
    """Remove the kept bytes of files that the register told of before, and tells of no more. Only once it is pushed."""
    services.quarantine.remove(before.kept().keys() - after.kept().keys())


def ingest_source(
    services: Services, spec: str, *, add_classes: Sequence[str], columns: Sequence[str] = (), now: datetime
) -> dict[str, Any]:
    """Ingest the source `spec` and return the report with its new dataset version (None where nothing changed).

    columns: what a list calls its columns, as in "label=species". Raises ConfigurationError for an unknown source,
    column or class; then nothing was changed.
    """
    cache = services.workspace.state / "cache"
    seen = SeenFiles(seen_path(cache, spec))
    names = ColumnNames.parse(columns, several=services.workspace.params.data.several)
    items = open_source(spec, limits=services.limits, cache=cache, columns=names, seen=seen)
    source = _origin(spec, columns)
    result = ingest_items(services, items, source=source, add_classes=add_classes, seen=seen, now=now)
    try:
        seen.save()
    except NoSpaceError as error:  # it only saves time, and the images are in
        logger.warning("the next ingest of %s reads every file again: %s", source, error)
    return result


def _origin(spec: str, columns: Sequence[str]) -> Origin:
    """Return what opens the source again, from any folder, without credentials."""
    shown = without_credentials(spec)
    path = Path(shown).expanduser()
    return Origin(
        shown, printable(str(path.resolve()) if "://" not in shown and path.exists() else shown), tuple(columns)
    )


def ingest_items(
    services: Services,
    items: Iterable[SourceItem],
    *,
    source: str | Origin,
    add_classes: Sequence[str] = (),
    seen: SeenFiles | None = None,
    now: datetime,
) -> dict[str, Any]:
    """Ingest `items` as one dataset version; the report is as of `ingest_source`."""
    origin = source if isinstance(source, Origin) else Origin(source)
    with exclusive_clone(services, "ingest") as clone:
        params = load_params(clone.root / "params.yaml")
        clone.pull(*dataset_paths(params), register_target(params))
        _record_unrecorded(services, clone, params, now)
        manifest = clone.root / params.paths.manifest
        before = Register.read(manifest)
        _require_free(add_classes, manifest)
        report = ingest(
            items, root=clone.root, params=params, source=origin, add_classes=add_classes, seen=seen,
            kept=services.quarantine, at=now,
        )  # fmt: skip
        told = _advice(manifest, params)
        message = f"{_INGEST}{report.added} images from {Path(origin.source).name}"
        version = commit_data(clone, params, message, changed=report.changed, noted=report.noted, now=now)
        forget_bytes(services, before, Register.read(manifest))
    result = {**report.as_json(), "dataset_version": version, "advice": told}
    record(
        services.database, kind="ingest", actor="ingest", action="added" if version else "none", now=now,
        reason=f"{report.added} images from {origin.source}" if version else f"nothing new in {origin.source}",
        evidence={key: value for key, value in result.items() if key != "set_aside"},
    )  # fmt: skip
    return result


def _record_unrecorded(services: Services, clone: WorkspaceClone, params: Params, now: datetime) -> None:
    """Write into the ledger the versions of ingests that died, or lost the database, before they could do so."""
    versions = kept_versions(clone.root, images=params.paths.images, manifest=params.paths.manifest)
    known = recorded_versions(services.database, "ingest")
    for version in versions:
        if version.message.startswith(_INGEST) and version.tag not in known:
            record(
                services.database, kind="ingest", actor="ingest", action="added", now=now,
                reason=f"{version.message.removeprefix(_INGEST)}; recorded late, its process had ended before",
                evidence={"dataset_version": version.tag, "made_at": version.made_at.isoformat()},
            )  # fmt: skip


def _advice(manifest: Path, params: Params) -> list[str]:
    """Return what to think of the dataset's volume and balance."""
    if not manifest.exists():
        return []
    stored = Manifest.read(manifest)
    learnt = stored.counts().get("train", {})
    training = {name: learnt.get(name, 0) for name in stored.classes}
    return advice(training, pretrained=params.train.pretrained != "none")


def _require_free(names: Sequence[str], manifest: Path) -> None:
    changes = ClassHistory.read(manifest, images=False).changes
    for name in names:
        obstacle = name_in_use(name, Add(name), changes)
        if obstacle is not None and name not in Manifest.read(manifest).classes:
            raise ConfigurationError(f"--add-class: {obstacle}")


def current_dataset(services: Services) -> str | None:
    """Return the newest dataset version that the visible folder knows, or None before the first ingest."""
    return latest_dataset(services.workspace.root)


def code_lock_sources() -> tuple[Path, Path]:
    """Return the package and the constraints file that code.lock is a hash of."""
    return PACKAGE, template_folder() / "constraints.txt"
