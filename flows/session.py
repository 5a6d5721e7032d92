"""What a task opens: the services of the workspace whose path it was given, by its own process's environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from components.operations.services import Services, open_services
from components.settings import Settings


@contextmanager
def opened(workspace: str) -> Iterator[Services]:
    """Yield the services of `workspace`. Tasks hand paths on, not connections: they may run on another machine."""
    with open_services(Path(workspace), Settings.from_environment()) as services:
        yield services


def moment(at: datetime | None) -> datetime:
    """Return `at`, or the current time in UTC."""
    return at or datetime.now(UTC)
