"""Watch a window, and renew the model where a class has really got worse."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.errors import RefusedError
from components.operations.labelling import draw_closed_windows
from components.operations.monitoring.judging import monitor_window
from components.operations.retention import expire
from components.operations.retraining.causes import ask
from components.operations.retraining.readiness import due_request
from flows.retrain import retrain
from flows.session import moment, opened


@task(name="monitor window", cache_policy=NO_CACHE)
def monitor_task(workspace: str, window: str | None, at: datetime) -> list[dict[str, Any]]:
    """Estimate, test, judge if due, and act on the judgement."""
    with opened(workspace) as services:
        return monitor_window(services, window, now=at)


@task(name="draw closed windows", cache_policy=NO_CACHE)
def draw_closed_task(workspace: str, at: datetime) -> list[str]:
    """Draw the sample of every window that has closed since the last look."""
    with opened(workspace) as services:
        return draw_closed_windows(services, now=at)


@task(name="ask for causes", cache_policy=NO_CACHE)
def ask_task(workspace: str, at: datetime) -> dict[str, Any]:
    """Ask whether anything but measured accuracy is a reason to retrain."""
    with opened(workspace) as services:
        return ask(services, actor="daily", now=at).as_json()


@task(name="due request", cache_policy=NO_CACHE)
def due_task(workspace: str, at: datetime) -> str | None:
    """Ask whether a retrain request waits whose labels are in."""
    with opened(workspace) as services:
        return due_request(services, now=at)


@task(name="expire", cache_policy=NO_CACHE)
def expire_task(workspace: str, at: datetime) -> dict[str, Any]:
    """Delete pixels and pages past their time."""
    with opened(workspace) as services:
        return expire(services, now=at)


@flow(name="monitor", log_prints=False)
def monitor(workspace: str, window: str | None = None, at: datetime | None = None) -> list[dict[str, Any]]:
    """Return what was found in each segment of one window."""
    return monitor_task(workspace, window, moment(at))


@flow(name="daily", log_prints=False)
def daily(workspace: str) -> dict[str, Any]:
    """Draw what has closed, judge what can be judged, start the retraining that is due, delete what is too old.

    Accuracy is judged first: where it asks for a retraining, no other cause is asked.
    """
    now = moment(None)
    windows = draw_closed_task(workspace, now)
    segments = [segment for window in windows for segment in monitor_task(workspace, window, now)]
    asked = ask_task(workspace, now)
    reason = due_task(workspace, now)
    renewal = None
    if reason is not None:
        try:
            renewal = retrain(workspace, reason, "daily", False, now, cause="accuracy")
        except RefusedError as error:  # recorded with its reason; the day's monitoring is done all the same
            renewal = {"refused": str(error)}
    return {
        "windows": windows,
        "segments": segments,
        "asked": asked,
        "renewal": renewal,
        "expired": expire_task(workspace, now),
    }
