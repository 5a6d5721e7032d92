"""Bring images in; audit what is there."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.operations.audit import audit_summary, commit_audit
from components.operations.ingestion import exclusive_clone, ingest_source
from flows.session import moment, opened
from flows.stage_tasks import run_stage


@task(name="ingest source", cache_policy=NO_CACHE)
def ingest_task(
    workspace: str, source: str, add_classes: list[str], columns: list[str], at: datetime
) -> dict[str, Any]:
    """Check, split, store and version what the source holds."""
    with opened(workspace) as services:
        return ingest_source(services, source, add_classes=add_classes, columns=columns, now=at)


@flow(name="ingest", log_prints=False)
def ingest(
    workspace: str,
    source: str,
    add_classes: list[str] | None = None,
    at: datetime | None = None,
    columns: list[str] | None = None,
) -> dict[str, Any]:
    """Return the report of one ingest, with its new dataset version."""
    return ingest_task(workspace, source, add_classes or [], columns or [], moment(at))


@flow(name="audit", log_prints=False)
def audit(workspace: str, limit: int = 20, at: datetime | None = None, page: str | None = None) -> dict[str, Any]:
    """Return what is most doubted in the current dataset version; `page`: where it is shown with pictures."""
    with opened(workspace) as services, exclusive_clone(services, "audit") as clone:
        commit_audit(clone, before=True)
        run_stage("audit", str(clone.root))
        commit_audit(clone, before=False)
        return audit_summary(services, clone, limit=limit, page=None if page is None else Path(page), now=moment(at))
