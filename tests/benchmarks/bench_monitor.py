"""Watching a month of ten million predictions: seconds and memory, beside Evidently on the same rows.

Run: python tests/benchmarks/bench_monitor.py [--rows 10000000] [--classes 10] [--keep DIR]. A workspace with its own
PostgreSQL is made in a temporary folder (about 3 GB; --keep DIR keeps it, and uses one kept before). Exits 1 if a
figure is missed. Times are for a quiet machine; what is compared is timed in the same run. With a thousand classes a
month may take four times as long and as much memory as with ten.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from components.monitoring.drift.findings import findings
from components.operations.labelling import draw_window, take_answers
from components.operations.monitoring.drift_watch import COLUMNS
from components.operations.monitoring.judging import monitor_window
from components.operations.services import Services, discard_services, open_services
from components.operations.workspace import init_workspace
from components.params import Monitor
from components.records import LabelAnswer, ModelVersion, Window
from components.settings import Settings
from components.store import labelling, monitoring, predictions
from components.store.champions import register_model

BEFORE, BIG = Window.parse("2026-09"), Window.parse("2026-10")
BATCH_ROWS = 500_000
NEW_ROWS = 1_000_000
EVIDENTLY_ROWS = 1_000_000
MOST_SECONDS, MOST_MEGABYTES, MOST_ROLLUP_SECONDS, LEAST_TIMES_FASTER = 10.0, 300.0, 3.0, 20.0
MANY_CLASSES, MANY_CLASSES_TIMES = 1_000, 4

EVIDENTLY_ALONE = (
    "import evidently, evidently.presets;"
    "print(next(int(line.split()[1]) // 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)
# One batch of predictions as a model would make them: confident and mostly right, statistics bell-shaped.
ROWS = text(
    """
INSERT INTO prediction (
    month, batch_number, item_no, model_version, predicted, conf_bin, u_octave, shadow, needs_review, u, shard_id,
    shard_row, second_class, third_class, confidence, second_confidence, third_confidence, ood_score, latency_ms,
    brightness, contrast, sharpness, saturation, width, height, aspect, bytes, image_id, name, probabilities
)
SELECT :month, :number, n, 1, k, CASE WHEN c < .6 THEN 0 WHEN c < .85 THEN 1 WHEN c < .97 THEN 2 ELSE 3 END,
    greatest(0, 21 + ceil(ln(r) / ln(2)) - 1), false, c < .7, r, :shard, n, (k + 1) % :classes, (k + 2) % :classes,
    c, (1 - c) / 2, (1 - c) / 4, random(), 1.0,
    .3 + .1 * (random() + random() + random() - 1.5), .2 + .1 * random(), random(), random(), 28, 28, 1,
    400 + 200 * random(), md5(:number || '-' || n), n || '.png', '\\x00'::bytea
FROM (
    SELECT n, random() AS r, 1 - power(random(), 4) * .7 AS c, CAST(floor(random() * :classes) AS smallint) AS k
    FROM generate_series(0, :rows - 1) n
) drawn
"""
)
COUNTED = text(
    "UPDATE batch SET state = 'closed', closed_at = :now, rows = :rows, items = :rows WHERE number = :number"
)


def add_batch(services: Services, name: str, at: datetime, rows: int, classes: tuple[str, ...]) -> None:
    database = services.database
    batch = predictions.open_batch(
        database, batch_id=name, content_sha256=name, source="bench", model_version=1, class_list=classes, items=rows,
        scored_at=at, now=at,
    )  # fmt: skip
    with database.transaction() as connection:
        number = connection.scalar(text("SELECT number FROM batch WHERE id = :id"), {"id": name})
        shard = connection.scalar(text("INSERT INTO image_shard (name) VALUES (:name) RETURNING id"), {"name": name})
        connection.execute(
            ROWS,
            {"month": batch.month, "number": number, "shard": shard, "rows": rows, "classes": len(classes)},
        )
        connection.execute(COUNTED, {"now": at, "rows": rows, "number": number})


def fill(services: Services, rows: int, classes: int) -> tuple[str, ...]:
    names = tuple(f"class {n}" for n in range(classes))
    made = datetime(2026, 8, 1, tzinfo=UTC)
    register_model(
        services.database,
        ModelVersion(
            version=1, run_id="run", dataset_version="data/2026-08-01-1", git_commit="0" * 40, classes=names,
            artifact_sha256="a" * 64, preprocess_sha256="p" * 64, state="champion", created_at=made, metrics={},
        ),
    )  # fmt: skip
    add_batch(services, "before", datetime(2026, 9, 10, tzinfo=UTC), NEW_ROWS, names)
    start = datetime(2026, 10, 1, 12, tzinfo=UTC)
    for n in range((rows - NEW_ROWS) // BATCH_ROWS):
        add_batch(services, f"big-{n}", start + timedelta(days=n % 30), BATCH_ROWS, names)
    with services.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE prediction"))
    return names


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def answer_all(services: Services, at: datetime) -> None:
    """Answer every open accuracy task as the model did, but one in twelve."""
    asked = text("SELECT id, predicted FROM label_task WHERE queue = 'accuracy' AND state = 'open'")
    with services.database.transaction() as connection:
        open_tasks = connection.execute(asked).all()
    classes = labelling.tasks(services.database, "accuracy", 1)[0].classes
    rng = np.random.default_rng(0)
    wrong = rng.random(len(open_tasks)) < 1 / 12
    answers = [
        LabelAnswer(task, classes[(k + w) % len(classes)], "bench", at)
        for (task, k), w in zip(open_tasks, wrong, strict=True)
    ]
    take_answers(services, answers, now=at)


def watch(root: str) -> dict[str, float]:
    """Monitor the big month in this process, as `perennial monitor` does, and return seconds and peak megabytes."""
    with open_services(Path(root), Settings()) as services:
        now = BIG.closes_at(48) + timedelta(days=8)
        took = seconds(lambda: monitor_window(services, BIG.name, now=now))
    own = peak_megabytes()
    drawn = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": took, "megabytes": max(own, drawn), "own megabytes": own}


def peak_megabytes() -> float:
    """Return the most memory this process has held; ru_maxrss begins with that of the process which started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def watched(root: Path) -> dict[str, float]:
    """Run `watch` in a process of its own: its memory is that of monitoring alone."""
    command = [sys.executable, __file__, "--watch", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def beside_evidently(services: Services) -> tuple[float, float]:
    """Return the seconds our drift tests and Evidently's preset take for the same rows, both read beforehand or not.

    Ours are timed from the table: rollup of the rows and tests. Evidently's are timed from frames in memory.
    """
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    reference = monitoring.drift_reference(services.database, 1)
    assert reference is not None

    def ours() -> None:
        known = reference.payload["columns"]
        counted = monitoring.histograms(services.database, BEFORE, 1, {c: known[c]["edges"] for c in known})
        findings({c: (np.asarray(known[c]["counts"], np.int64), counted[c]) for c in known}, Monitor())

    with services.database.transaction() as connection:
        connection.execute(text("DELETE FROM histogram_daily WHERE day < '2026-10-01'"))
    our_seconds = seconds(ours)
    rows = {
        name: monitoring.sample_rows(services.database, window, 1, EVIDENTLY_ROWS)
        for name, window in (("before", BEFORE), ("now", BIG))
    }
    frames = {name: pd.DataFrame({c: side[c] for c in COLUMNS}) for name, side in rows.items()}
    definition = DataDefinition(numerical_columns=list(COLUMNS))

    def theirs() -> None:
        sides = [Dataset.from_pandas(frames[name], data_definition=definition) for name in ("now", "before")]
        Report([DataDriftPreset()], include_tests=False).run(*sides).dict()

    return our_seconds, seconds(theirs)


def show(name: str, reached: float, limit: float, *, least: bool = False) -> bool:
    ok = reached >= limit if least else reached <= limit
    print(
        f"{name:<64}{reached:>10.2f}  {'>=' if least else '<='} {limit:g}  {'reached' if ok else 'MISSED'}", flush=True
    )
    return ok


def measure(services: Services, root: Path, names: tuple[str, ...]) -> bool:
    closed = BEFORE.closes_at(48) + timedelta(days=1)
    if monitoring.reference_level(services.database) is None:
        draw_window(services, BEFORE.name, now=closed)
        answer_all(services, closed)
        monitor_window(services, BEFORE.name, now=closed)
        roll_up(services)
    new = f"new at {time.time():.0f}"  # on a day of its own: a day that received rows is counted anew
    add_batch(services, new, datetime(2026, 10, 31, 12, tzinfo=UTC), NEW_ROWS, names)
    good = show("rollup of 1,000,000 new rows, seconds", seconds(lambda: roll_up(services)), MOST_ROLLUP_SECONDS)
    now = BIG.closes_at(48) + timedelta(days=1)
    print(f"{'draw of the month, seconds':<64}{seconds(lambda: draw_window(services, BIG.name, now=now)):>10.2f}")
    if labelling.open_count(services.database, "accuracy"):
        answer_all(services, now)
    shutil.rmtree(services.workspace.reports, ignore_errors=True)
    first, again = watched(root), watched(root)
    times = MANY_CLASSES_TIMES if len(names) >= MANY_CLASSES else 1
    good &= show("monitor of the month, with its page, seconds", first["seconds"], MOST_SECONDS * times)
    print(f"{'the same again, seconds':<64}{again['seconds']:>10.2f}")
    good &= show("peak memory of the process that judges, MB", first["own megabytes"], MOST_MEGABYTES * times)
    bare = subprocess.run([sys.executable, "-c", EVIDENTLY_ALONE], capture_output=True, text=True, check=True).stdout
    page = f"of the one that draws the page, MB (Evidently imported: {bare.strip()})"
    print(f"{page:<64}{first['megabytes']:>10.0f}")
    ours, theirs = beside_evidently(services)
    print(f"{'drift tests of 1,000,000 rows from the table, seconds':<64}{ours:>10.2f}")
    print(f"{'Evidently on the same rows from memory, seconds':<64}{theirs:>10.2f}")
    return good & show("times as fast as Evidently", theirs / ours, LEAST_TIMES_FASTER, least=True)


def roll_up(services: Services) -> None:
    """Do what monitoring does first: bring counts and histograms up to date."""
    monitoring.rollup(services.database, BIG)
    reference = monitoring.drift_reference(services.database, 1)
    assert reference is not None
    known = reference.payload["columns"]
    monitoring.histograms(services.database, BIG, 1, {column: known[column]["edges"] for column in known})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        print(json.dumps(watch(options.watch)))
        return 0
    root = options.keep or Path(tempfile.mkdtemp(prefix="perennial-bench-")) / "workspace"
    there = root.exists()
    if not there:
        init_workspace(root, Settings())
    try:
        with open_services(root, Settings()) as services:
            took = 0.0 if there else seconds(lambda: fill(services, options.rows, options.classes))
            print(f"{options.rows:,} predictions of {options.classes} classes, made in {took:.0f} s")
            return 0 if measure(services, root, tuple(f"class {n}" for n in range(options.classes))) else 1
    finally:
        if not options.keep:
            discard_services(root, Settings())
            shutil.rmtree(root.parent)


if __name__ == "__main__":
    sys.exit(main())
