"""Close a window and draw what people are asked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.operations.labelling import draw_window
from flows.session import moment, opened


@task(name="draw sample", cache_policy=NO_CACHE)
def draw_task(workspace: str, window: str | None, at: datetime) -> dict[str, Any]:
    """Freeze the window's strata and draw its accuracy sample."""
    with opened(workspace) as services:
        return draw_window(services, window, now=at)


@flow(name="label", log_prints=False)
def label(workspace: str, window: str | None = None, at: datetime | None = None) -> dict[str, Any]:
    """Return what was drawn from each segment of the window."""
    return draw_task(workspace, window, moment(at))
