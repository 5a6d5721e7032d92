"""Score batches with the champion."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.operations.batches import score_inbox, score_source
from flows.session import moment, opened


# A retry is safe: a batch that was interrupted goes on where it stopped, and a finished one adds no row.
@task(name="score batch", cache_policy=NO_CACHE)
def score_task(workspace: str, source: str, batch_id: str | None, columns: list[str], at: datetime) -> dict[str, Any]:
    """Log every image's prediction exactly once."""
    with opened(workspace) as services:
        return score_source(services, source, batch_id=batch_id, columns=columns, now=at)


@task(name="score inbox", retries=2, retry_delay_seconds=30, cache_policy=NO_CACHE)
def inbox_task(workspace: str, at: datetime) -> dict[str, Any] | None:
    """Score the watched folder's unseen files as one batch."""
    with opened(workspace) as services:
        return score_inbox(services, now=at)


@flow(name="score", log_prints=False)
def score(
    workspace: str,
    source: str,
    batch_id: str | None = None,
    at: datetime | None = None,
    columns: list[str] | None = None,
) -> dict[str, Any]:
    """Return the summary of one scored batch."""
    return score_task(workspace, source, batch_id, columns or [], moment(at))


@flow(name="score-inbox", log_prints=False)
def score_watched(workspace: str) -> dict[str, Any] | None:
    """Return the summary of the watched folder's new batch, None where nothing came."""
    return inbox_task(workspace, moment(None))
