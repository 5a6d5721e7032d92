"""Labels that an audit doubts, on their way to people, and what people say of them on its way into the dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from components.data.manifest import Manifest, find_rows
from components.data.shards import ShardReader
from components.data.sources.item import Origin, SourceItem
from components.data.versioning.versions import WorkspaceClone, latest_dataset
from components.errors import DataError
from components.labels.suspects import unconfirmed_suspects
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import load_params
from components.records import Answer
from components.store import ledger
from components.store.queues.audit_queue import AuditQueue, DoubtedLabel, SettledDoubt, ask_about


def ask_people(services: Services, clone: WorkspaceClone, *, now: datetime) -> AuditQueue:
    """Make the audit queue the labels that the clone's audit doubts most, as many as `labelling.audit_queue` says.

    A label that people have confirmed or corrected is not asked about, nor are sets of labels yet. Noted in the ledger
    where anything changed.
    """
    params = load_params(clone.root / "params.yaml")
    path = clone.root / params.paths.manifest
    version = latest_dataset(clone.root)
    if version is None:
        raise DataError("there is no dataset version to ask about; bring images in with `perennial ingest SOURCE`")
    manifest = Manifest.read(path)
    if manifest.several:
        return AuditQueue(added=0, withdrawn=0, open=0)
    doubted = unconfirmed_suspects(clone.root / params.paths.audit, manifest.select())
    queue = ask_about(
        services.database, [DoubtedLabel(**row) for row in doubted], classes=manifest.classes, dataset_version=version,
        limit=params.labelling.audit_queue, now=now,
    )  # fmt: skip
    if queue.added or queue.withdrawn:
        ledger.record(
            services.database, kind="audit", actor="audit", action="asked", now=now,
            reason=f"people are asked about {queue.open} of {len(doubted)} doubted labels in {version}",
            evidence={**queue._asdict(), "doubted": len(doubted), "dataset_version": version},
        )  # fmt: skip
    return queue


def as_corrections(settled: Sequence[SettledDoubt]) -> Iterator[SourceItem]:
    """Yield verdicts on doubted labels as an ingest takes them: the images are stored and not read again."""
    for doubt in settled:
        none_of_them = doubt.answer == Answer.OTHER
        yield SourceItem(
            name=f"audit/{doubt.image_id}",
            content=b"",
            label=None if none_of_them else doubt.answer,
            label_origin="consensus",
            labelled_by=",".join(doubt.annotators),
            image_id=doubt.image_id,
            origin=Origin("audit"),
            no_class=none_of_them,
        )


def stored_images(workspace: Workspace, image_ids: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of images of the visible folder's dataset, each with its id; those it does not have are left out.

    Raises IntegrityError for a damaged manifest or shard.
    """
    path = workspace.root / workspace.params.paths.manifest
    rows = find_rows(path, image_ids) if image_ids and path.exists() else {}
    reader = ShardReader(workspace.root / workspace.params.paths.images)
    for image_id, row in rows.items():
        if row["shard"] is not None and row["state"] != "recalled":
            yield image_id, reader.read_verified(row["shard"], row["row"], image_id)
