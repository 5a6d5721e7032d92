"""Which window is meant, and whether it may be closed."""

from __future__ import annotations

from datetime import datetime, timedelta

from components.errors import RefusedError
from components.operations.services import Services
from components.records import Window, require_utc
from components.store import monitoring, predictions


def latest_closed(services: Services, now: datetime) -> Window:
    """Return the newest window that may be closed at `now`, by the clock."""
    rules = services.workspace.params.monitor
    window = Window.containing(require_utc(now), rules.window).previous()
    while window.closes_at(rules.close_after_hours) > now:
        window = window.previous()
    return window


def closing_obstacle(services: Services, window: Window, now: datetime) -> str | None:
    """Return why the window cannot be closed at `now`, or None when it can."""
    closes = window.closes_at(services.workspace.params.monitor.close_after_hours)
    if now < closes:
        return f"window {window.name} closes at {closes:%Y-%m-%d %H:%M} UTC"
    waiting = predictions.open_batches(services.database, window)
    if waiting:
        return (
            f"window {window.name} has {waiting} unfinished batch(es); score them again, they go on where they stopped"
        )
    return None


def require_closed(services: Services, window: Window, now: datetime) -> None:
    """Raise RefusedError with the reason where the window cannot be closed at `now`."""
    obstacle = closing_obstacle(services, window, require_utc(now))
    if obstacle is not None:
        raise RefusedError(obstacle)


def first_reference(services: Services, now: datetime) -> str | None:
    """Return the window that was drawn to become the service's reference and is still to be judged, or None.

    One that nobody has answered for `judge_after_days` holds the others up no longer.
    """
    days = services.workspace.params.labelling.judge_after_days
    return monitoring.pending_reference(services.database, since=now - timedelta(days=days))


def waits_for_reference(services: Services, window: Window, now: datetime) -> str | None:
    """Return why the window must wait for the reference level that another one sets, or None where it need not."""
    if monitoring.reference_level(services.database) is not None:
        return None
    first = first_reference(services, now)
    if first in (None, window.name):
        return None
    return f"waiting for window {first}, which was drawn as the service's reference and is judged first"


def undrawn_reason(services: Services, window: Window, model_version: int) -> str:
    """Return in words why nothing of the segment is drawn, and what draws it."""
    found = monitoring.coverage(services.database, window, model_version)
    if found.elsewhere and not found.left:
        return f"nothing is judged in window {window.name}: {found.describe()}"
    return f"no sample drawn yet; `perennial label draw --window {window.name}` draws it"
