"""The rows that queries about a segment look at: the months, batches and model of one window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection, select, text

from components.errors import ConfigurationError
from components.records import Window
from components.store.class_lists import classes_of, is_several
from components.store.tables import model_version as model_table

_BATCHES = text(
    """
SELECT number FROM batch
WHERE scored_at >= :start AND scored_at < :end AND (CAST(:version AS integer) IS NULL OR model_version = :version)
    AND state = ANY(CAST(:states AS text[]))
ORDER BY number
"""
)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a segment's predictions lie. `batches` are the numbers of its batches; several: of labels, not classes."""

    window: str
    model_version: int
    class_list: int
    classes: tuple[str, ...]
    first_month: date
    last_month: date
    batches: tuple[int, ...]
    several: bool = False

    def binds(self) -> dict[str, Any]:
        """Return the values that the queries of this package bind."""
        return {
            "window": self.window,
            "version": self.model_version,
            "class_list": self.class_list,
            "first_month": self.first_month,
            "last_month": self.last_month,
            "batches": list(self.batches),
        }

    def limited_to(self, batches: Sequence[int]) -> Span:
        """Return the span with these batches alone."""
        return replace(self, batches=tuple(batches))


def span_of(connection: Connection, window: Window, model_version: int, *, closed_only: bool = False) -> Span:
    """Return the span of a model's batches in a window. Raises ConfigurationError for an unknown model."""
    asked = select(model_table.c.class_list_id).where(model_table.c.version == model_version)
    class_list = connection.execute(asked).scalar_one_or_none()
    if class_list is None:
        raise ConfigurationError(f"model version {model_version} is not registered")
    first, last = months_of(window)
    batches = batches_of(connection, window, model_version, closed_only=closed_only)
    classes = classes_of(connection, class_list)
    several = is_several(connection, class_list)
    return Span(window.name, model_version, class_list, classes, first, last, tuple(batches), several)


def batches_of(
    connection: Connection, window: Window, model_version: int | None, *, closed_only: bool = False
) -> list[int]:
    """Return the numbers of the window's batches, of one model or (None) of all."""
    states = ["closed"] if closed_only else ["open", "closed"]
    values = {"start": window.start, "end": window.end, "version": model_version, "states": states}
    return list(connection.scalars(_BATCHES, values))


def months_of(window: Window) -> tuple[date, date]:
    """Return the first days of the first and the last month the window touches."""
    return window.start.date().replace(day=1), (window.end - timedelta(days=1)).date().replace(day=1)
