"""A training's metrics as event files, for those who watch with TensorBoard. Needs `perennial[tensorboard]`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from components.registry.metrics_file import MetricPoint, follow_metrics

EVENT_FILES = "events.out.tfevents.*"
SECONDS_UNWRITTEN = 5

logger = logging.getLogger(__name__)


def tail_events(folder: Path, file: Path, stop: Event, *, poll_seconds: float = 1.0) -> None:
    """Write the lines of a metrics.jsonl as scalars into `folder`, as training writes them, until `stop` is set.

    folder: of one run; event files of an earlier attempt at it are removed. What goes wrong is logged, and ends the
    writing: no training waits for its viewer.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        logger.warning("%s stays empty: pip install 'perennial[tensorboard]'", folder)
        return
    try:
        for earlier in folder.glob(EVENT_FILES):
            earlier.unlink()
        with SummaryWriter(str(folder), flush_secs=SECONDS_UNWRITTEN) as writer:

            def write(points: Sequence[MetricPoint]) -> None:
                for point in points:
                    writer.add_scalar(point.key, point.value, point.step, point.timestamp_ms / 1000)

            follow_metrics(file, stop, write, poll_seconds=poll_seconds)
    except Exception as error:
        logger.warning("nothing more is written to %s: %s", folder, error)
