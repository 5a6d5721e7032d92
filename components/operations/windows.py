"""Which window is meant, and whether it may be closed."""

from __future__ import annotations

from datetime import datetime

from components.errors import RefusedError
from components.operations.services import Services
from components.records import Window, require_utc
from components.store import predictions


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
