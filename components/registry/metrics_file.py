"""Following metrics.jsonl while training writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from components.errors import ConfigurationError, DataError
from components.records import parse_time

_NOT_METRICS = frozenset({"step", "epoch", "time"})


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One number of a training run. timestamp_ms: milliseconds since 1970, UTC."""

    key: str
    value: float
    timestamp_ms: int
    step: int


class MetricsFile:
    """The unread lines of a metrics.jsonl that grows, or is replaced, under its reader's eyes."""

    def __init__(self, path: Path) -> None:
        """Follow `path`. What lies there now is of an earlier run until somebody changes the file: it is held back."""
        self._path = path
        self._stale = _state(path)
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._line = 0

    def unread(self, *, last: bool = False) -> list[MetricPoint]:
        """Return the points of the whole lines written since the last call, oldest first.

        `last`: training is over. A file nobody changed is then this run's after all (its result was in the cache).
        Raises DataError, naming the line, for one that is not a metric.
        """
        state = _state(self._path)
        if state is None or (state == self._stale and not last):
            return []
        self._stale = None
        # A new file may get the old one's inode number; then it is its length that tells.
        if self._file != state[:2] or state[2] < self._offset:
            self._file, self._offset, self._line = state[:2], 0, 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        points: list[MetricPoint] = []
        for line in whole.splitlines():
            self._line += 1
            points.extend(_parse(line, f"{self._path}:{self._line}"))
        return points


def follow_metrics(
    path: Path, stop: Event, write: Callable[[list[MetricPoint]], None], *, poll_seconds: float = 1.0
) -> int:
    """Hand the points of a metrics.jsonl on as training writes them, until `stop` is set; return how many there were.

    The lines written before `stop` was set are all handed on. A file that lies there already and is never changed is
    handed on at the end. Raises DataError for a line that is not a metric.
    """
    source, many = MetricsFile(path), 0
    while True:
        over = stop.wait(poll_seconds)
        points = source.unread(last=over)
        write(points)
        many += len(points)
        if over:
            return many


def _state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _parse(line: bytes, where: str) -> list[MetricPoint]:
    try:
        row = json.loads(line)
        step, timestamp_ms = int(row["step"]), int(1000 * parse_time(row["time"]).timestamp())
        numbers = {key: float(value) for key, value in row.items() if key not in _NOT_METRICS and value is not None}
    except (ValueError, TypeError, KeyError, AttributeError, ConfigurationError) as error:
        raise DataError(f'{where}: {line[:200]!r} is not {{"step", "time", name: number}}: {error}') from error
    return [MetricPoint(key, value, timestamp_ms, step) for key, value in numbers.items() if math.isfinite(value)]
