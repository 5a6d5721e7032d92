"""Score a batch with the champion and log every prediction exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from components.data.decoding.isolation import IsolationLimits
from components.data.sources.columns import ColumnNames
from components.data.sources.opening import SourceItem, open_source
from components.data.sources.remote import without_credentials
from components.model.images.preparing import IsolatedPreparer
from components.operations.models import load_predictor, require_champion
from components.operations.services import Services
from components.records import ScoredChunk, SetAside, require_utc
from components.scoring.batch import score
from components.scoring.pieces import survey
from components.store import champions, predictions, reading, recalls

logger = logging.getLogger(__name__)

Reopen = Callable[[], Iterable[SourceItem]]


def score_source(
    services: Services, spec: str, *, batch_id: str | None, columns: Sequence[str] = (), now: datetime
) -> dict[str, Any]:
    """Score everything in the source `spec`; see `score_items`. columns: what a list calls its columns."""
    names = ColumnNames.parse(columns, several=services.workspace.params.data.several)
    cache = services.workspace.state / "cache"
    return score_items(
        services, lambda: open_source(spec, limits=services.limits, cache=cache, columns=names),
        source=without_credentials(spec), batch_id=batch_id, now=now,
    )  # fmt: skip


def score_items(
    services: Services, reopen: Reopen, *, source: str, batch_id: str | None, now: datetime
) -> dict[str, Any]:
    """Score the batch that `reopen` hands over (it is read twice: once to know it, once to score it).

    A batch scored before adds no row, whoever scores it, and stays with the model that first scored it; one that was
    interrupted goes on where it stopped. Raises ConflictError where the key `batch_id` holds other content.
    """
    now = require_utc(now)
    content = survey(reopen())
    batch_id = batch_id or content.sha256
    batch = predictions.find_batch(services.database, batch_id)
    model = require_champion(services) if batch is None else champions.model(services.database, batch.model_version)
    batch = predictions.open_batch(
        services.database, batch_id=batch_id, content_sha256=content.sha256, source=source,
        model_version=model.version, class_list=model.classes, items=content.items, scored_at=now, now=now,
        several=model.several,
    )  # fmt: skip
    done = predictions.written(services.database, batch)
    new_rows = 0
    if len(done) < content.items:
        predictor = load_predictor(services, model, threads=1)  # one for each of the scorer's workers
        logger.info("scoring %d images with version %d on %s", content.items, model.version, predictor.device)
        data = services.workspace.params.data
        preparer = IsolatedPreparer(predictor.spec.preprocess, services.limits, IsolationLimits.of(data))
        results = score(
            reopen(), predictor, preparer.prepare, params=services.workspace.params.score, store=services.images,
            batch_id=batch.id, month=batch.month, done=done,
            recalled=partial(recalls.recalled_among, services.database),
        )  # fmt: skip
        with preparer, closing(results):
            new_rows = sum(_write(services, batch, result) for result in results)
    batch = predictions.close_batch(services.database, batch, now=now)
    aside = reading.items_set_aside(services.database, batch)
    return {
        "batch": batch.id,
        "model_version": batch.model_version,
        "scored_at": batch.scored_at,
        "images": batch.items,
        "predictions": batch.rows,
        "new_rows": new_rows,
        "needs_review": reading.needing_review(services.database, batch),
        "set_aside": len(aside),
        "set_aside_items": [{"name": a.name, "reason": a.reason, "detail": a.detail} for a in aside],
    }


def _write(services: Services, batch: predictions.Batch, result: ScoredChunk | list[SetAside]) -> int:
    if isinstance(result, ScoredChunk):
        return predictions.write_chunk(services.database, batch, result)
    predictions.write_set_aside(services.database, batch, result)
    return 0


def score_inbox(services: Services, *, now: datetime) -> dict[str, Any] | None:
    """Score the files of the watched folder that were not seen before, as one batch; None where there are none.

    A file still being written (changed within the last minute) waits for the next time.
    """
    inbox = services.workspace.inbox
    if not inbox.is_dir():
        return None
    fresh = predictions.unseen(services.database, _listing(inbox, now))
    if not fresh:
        return None
    wanted = {file.path for file in fresh}

    def reopen() -> Iterable[SourceItem]:
        cache = services.workspace.state / "cache"
        everything = open_source(str(inbox), limits=services.limits, cache=cache)
        return (item for item in everything if _wanted(item.name, wanted))

    result = score_items(services, reopen, source=str(inbox), batch_id=None, now=now)
    predictions.mark_seen(services.database, fresh, batch_id=result["batch"], now=now)
    return result


def _wanted(name: str, files: Collection[str]) -> bool:
    """Return whether the item called `name` is one of `files`, or lies in one: it is then called ARCHIVE/NAME."""
    return name in files or any(str(parent) in files for parent in PurePosixPath(name).parents)


def _listing(inbox: Path, now: datetime) -> list[predictions.SeenFile]:
    files = []
    for path in sorted(inbox.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        status = path.stat()
        # A file that claims to be from the future would never seem finished: there the file system's own time counts.
        changed = status.st_mtime if status.st_mtime <= now.timestamp() else status.st_ctime
        if now.timestamp() - changed >= 60:
            files.append(predictions.SeenFile(path.relative_to(inbox).as_posix(), status.st_size, status.st_mtime_ns))
    return files
