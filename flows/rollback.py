"""Make the previous champion the champion again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.operations.promotion import rollback as act
from flows.session import moment, opened


@task(name="roll back", cache_policy=NO_CACHE)
def rollback_task(workspace: str, actor: str, reason: str, at: datetime) -> dict[str, Any]:
    """Change the pointer, its ledger row and MLflow's alias."""
    with opened(workspace) as services:
        return act(services, actor=actor, reason=reason, now=at)


@flow(name="rollback", log_prints=False)
def rollback(workspace: str, actor: str, reason: str, at: datetime | None = None) -> dict[str, Any]:
    """Return the version that serves again and the one it replaced."""
    return rollback_task(workspace, actor, reason, moment(at))
