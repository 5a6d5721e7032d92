"""People's answers: draw a closed window's sample, hand tasks out as files, take answers in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.data.decoding.decode import file_suffix
from components.errors import ConfigurationError, RefusedError
from components.labels.consensus import settle
from components.labels.exchange import export_csv, export_label_studio, read_answers
from components.operations.carrying import display_names
from components.operations.doubted_labels import stored_images
from components.operations.label_draws import draw_labels
from components.operations.monitoring import asking
from components.operations.services import Services
from components.operations.windows import closing_obstacle, first_reference, latest_closed, require_closed
from components.records import LabelAnswer, LabelTask, StratumCounts, Window
from components.store import labelling, monitoring, predictions
from components.store.ledger import history, record
from components.store.queues import checks


def draw_window(services: Services, window_name: str | None, *, now: datetime) -> dict[str, Any]:
    """Close a window and draw each segment's accuracy sample; a drawn one stays as it is.

    The first complete window of the service is drawn at `reference_factor` times the budget, another one with more
    labels than its budget where a question stayed open or something newly drifted (`raised`). A share of the tasks is
    asked again in the check queue, of other people: from that it is known how often answers are wrong. No prediction is
    drawn in two windows: where another one has drawn some of them, this one draws the rest. Images that carry several
    labels are drawn for all of them together, never raised and never asked again.
    Raises RefusedError, with the reason, for a window that cannot be closed yet, or of which nothing is left.
    """
    window = Window.parse(window_name) if window_name else latest_closed(services, now)
    require_closed(services, window, now)
    monitoring.rollup(services.database, window)
    segments = predictions.segments(services.database, window)
    covered = {s.model_version: monitoring.coverage(services.database, window, s.model_version) for s in segments}
    segments = [segment for segment in segments if covered[segment.model_version].left]
    if covered and not segments:
        said = "; ".join(f"model {version}: {found.describe()}" for version, found in covered.items())
        raise RefusedError(f"window {window.name} has nothing left to draw: {said}")
    reference = bool(segments) and is_reference_window(services, window, now)
    draws = [
        (draw_labels if segment.several else _draw_classes)(
            services, window, segment, covered[segment.model_version], reference=reference, now=now
        )
        for segment in segments
    ]
    result = {"window": window.name, "draws": draws}
    _note_draw(services, window, result, [found.describe() for found in covered.values()], now)
    return result


def _draw_classes(
    services: Services,
    window: Window,
    segment: predictions.Segment,
    covered: monitoring.Coverage,
    *,
    reference: bool,
    now: datetime,
) -> dict[str, Any]:
    """Draw a segment of one class an image, and fill its check queue; return what was drawn."""
    database, version = services.database, segment.model_version
    asked = asking.decide(services, window, version, predictions=covered.left, reference=reference, now=now)
    kind: Literal["reference", "regular"] = "reference" if reference else "regular"

    def sizes(counts: StratumCounts) -> NDArray[np.int64]:
        return asked.draw(counts).sizes

    tasks = labelling.freeze_and_draw(
        database, window, version, allocate=sizes, kind=kind, budget=asked.budget, now=now
    )  # fmt: skip
    raised = asked.draw(labelling.counts(database, window, version))
    share = services.workspace.params.labelling.check_share
    return {
        "model_version": version,
        "kind": kind,
        "predictions": covered.left,
        "elsewhere": covered.elsewhere,
        "late": covered.late,
        "tasks": tasks,
        "checks": checks.fill_check_queue(database, window, version, share=share, now=now),
        "raised": raised.as_json() if raised.more else None,
    }


def _note_draw(
    services: Services, window: Window, result: dict[str, Any], coverage: Sequence[str], now: datetime
) -> None:
    """Write a draw into the ledger, once: until they are judged, windows are drawn again every day."""
    newest = history(services.database, 1, kind="draw", window=window.name)
    if newest and newest[0]["evidence"] == result:
        return
    draws = result["draws"]
    notes = [f"; {said}" for said in coverage if said]
    notes += [f"; {d['raised']['labels']} beyond the budget: {d['raised']['reason']}" for d in draws if d["raised"]]
    record(
        services.database, kind="draw", actor="label", action="drawn", now=now, window=window.name, evidence=result,
        reason=f"{sum(d['tasks'] for d in draws)} tasks from {sum(d['predictions'] for d in draws)} predictions"
        + "".join(notes),
    )  # fmt: skip


def is_reference_window(services: Services, window: Window, now: datetime) -> bool:
    """Return whether this window is, or is to become, the service's reference level.

    The first one drawn is to become it. Shorter windows than a month are drawn before that one is answered: they wait.
    """
    level = monitoring.reference_level(services.database)
    if level is not None:
        return level.window == window.name
    return first_reference(services, now) in (None, window.name)


def open_tasks(services: Services, queue: str, limit: int) -> dict[str, Any]:
    """Return open tasks of a queue, without the model's answer, and how many there are in all."""
    tasks = labelling.tasks(services.database, queue, limit=limit)
    return {
        "queue": queue,
        "open": labelling.open_count(services.database, queue),
        "tasks": [{"task_id": t.task_id, "window": t.window, "image_id": t.image_id} for t in tasks],
    }


def export_tasks(
    services: Services, file: Path, *, queue: str, form: str, images: Path | None, image_url: str | None = None
) -> dict[str, Any]:
    """Write every open task of `queue` to `file`; `images`: a folder that gets the pictures, named by their id.

    image_url: what an annotator's browser finds that folder under; without it tasks name the files on this machine.
    """
    if image_url is not None and images is None:
        raise ConfigurationError("an image URL is where a folder of images is served; name that folder with --images")
    tasks = labelling.tasks(services.database, queue, limit=None)
    if not tasks:
        raise RefusedError(f"the {queue} queue has no open task; draw with `perennial label draw`")
    written = {} if images is None else _write_images(services, tasks, images)

    def address(task: LabelTask) -> str:
        path = written.get(task.image_id)
        if path is None:
            return task.image_id
        return path.as_posix() if image_url is None else f"{image_url}{path.name}"

    if form == "csv":
        export_csv(tasks, file, address)
    elif form == "label-studio":
        export_label_studio(tasks, file, address, display_names(services))
    else:
        raise ConfigurationError(f"format {form!r} is unknown; use csv or label-studio")
    return {"file": str(file), "queue": queue, "tasks": len(tasks), "images": len(written)}


def _write_images(services: Services, tasks: list[LabelTask], folder: Path) -> dict[str, Path]:
    """Write each task's picture, named by its id and format, and return the paths by image id."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for image_id, content in _pictures(services, tasks):
        path = folder / f"{image_id}{file_suffix(content)}"
        path.write_bytes(content)
        written[image_id] = path
    return written


def _pictures(services: Services, tasks: list[LabelTask]) -> Iterator[tuple[str, bytes]]:
    """Yield the tasks' images: of predictions from the image store, of an audit from the dataset."""
    audited = {task.image_id for task in tasks if task.queue == "audit"}
    yield from stored_images(services.workspace, audited)
    store = services.images
    predicted = [task.task_id for task in tasks if task.queue != "audit"]
    for place in labelling.places(services.database, predicted) if predicted else ():
        yield place.image_id, store.get(place.shard, place.row, place.image_id)


def import_answers(services: Services, file: Path, *, now: datetime) -> dict[str, int]:
    """Take in the answers of a CSV or Label Studio file; nothing is stored if one row is malformed."""
    return take_answers(services, read_answers(file), now=now)


def take_answers(services: Services, answers: list[LabelAnswer], *, now: datetime) -> dict[str, int]:
    """Store answers (a repeated one has one effect) and settle the tasks they complete."""
    wanted = services.workspace.params.labelling.answers_per_task
    return labelling.record_answers(services.database, answers, now=now, settle=partial(settle, wanted=wanted))


def draw_closed_windows(services: Services, *, now: datetime) -> list[str]:
    """Draw every window that can be closed and has an undrawn or unjudged segment; return those still to be judged."""
    waiting = monitoring.windows_to_judge(services.database, services.workspace.params.monitor.window)
    closed = [name for name in waiting if closing_obstacle(services, Window.parse(name), now) is None]
    for name in closed:
        draw_window(services, name, now=now)
    return closed
