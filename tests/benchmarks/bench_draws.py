"""Draws of a month in SQL: exact weights, the same draw again, nested top-ups; and memory that no table size changes.

Run: python tests/benchmarks/bench_draws.py [--rows 100000 10000000] [--classes 10]. For each number of predictions a
workspace with its own PostgreSQL is made in a temporary folder (about 3 GB for ten million). Drawing, monitoring and
topping up run in a process of their own, whose peak memory is compared. Exits 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from bench_monitor import BATCH_ROWS, BIG, add_batch, answer_all, peak_megabytes
from sqlalchemy import text

from components.operations.labelling import draw_window
from components.operations.monitoring.judging import monitor_window
from components.operations.services import Services, discard_services, open_services
from components.operations.workspace import init_workspace
from components.records import ModelVersion
from components.settings import Settings
from components.store import labelling
from components.store.champions import register_model

MOST_MEGABYTES_APART = 20.0
CLOSED = BIG.closes_at(48) + timedelta(days=1)
EXTRA = 3  # further tasks in every stratum of the top-up
Task = tuple[int, int, int, int, float]


def fill(services: Services, rows: int, classes: int) -> None:
    names = tuple(f"class {n}" for n in range(classes))
    register_model(
        services.database,
        ModelVersion(
            version=1, run_id="run", dataset_version="data/2026-08-01-1", git_commit="0" * 40, classes=names,
            artifact_sha256="a" * 64, preprocess_sha256="p" * 64, state="champion",
            created_at=datetime(2026, 8, 1, tzinfo=UTC), metrics={},
        ),
    )  # fmt: skip
    for n, start in enumerate(range(0, rows, BATCH_ROWS)):
        at = BIG.start + timedelta(days=n % 30, hours=12)
        add_batch(services, f"batch-{n}", at, min(BATCH_ROWS, rows - start), names)
    with services.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE prediction"))


def tasks(services: Services) -> list[Task]:
    """Return predicted class, bin, batch, item and inclusion probability of every accuracy task, in one order."""
    asked = text(
        "SELECT predicted, conf_bin, batch_number, item_no, inclusion_probability FROM label_task"
        " WHERE queue = 'accuracy' ORDER BY 1, 2, 3, 4"
    )
    with services.database.transaction() as connection:
        return [tuple(row) for row in connection.execute(asked)]


def strata_off(services: Services) -> int:
    """Return how many strata there are whose weights 1/π do not sum to their predictions exactly."""
    population = labelling.counts(services.database, BIG, 1).population
    weights = np.full(population.shape, Fraction(0), dtype=object)
    for predicted, conf_bin, _, _, probability in tasks(services):
        exact = Fraction(probability).limit_denominator(int(population[predicted, conf_bin]))  # n_h / N_h
        weights[predicted, conf_bin] += 1 / exact
    return int((weights != population).sum())


def work(root: Path) -> dict[str, Any]:
    """Draw, monitor and top up the month, as the commands do, and return what was found and this process's memory."""
    with open_services(root, Settings()) as services:
        draw_window(services, BIG.name, now=CLOSED)
        monitor_window(services, BIG.name, now=CLOSED)
        extra = np.minimum(EXTRA, labelling.counts(services.database, BIG, 1).population)
        labelling.top_up(services.database, BIG, 1, extra, CLOSED)
        monitor_window(services, BIG.name, now=CLOSED)
    return {"megabytes": peak_megabytes()}


def in_a_process_of_its_own(root: Path) -> float:
    command = [sys.executable, __file__, "--work", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["megabytes"])


def measure(rows: int, classes: int) -> tuple[float, list[tuple[str, int, bool]]]:
    """Return peak megabytes of a month of `rows` predictions, and the facts of its draw: name, number, as demanded."""
    root = Path(tempfile.mkdtemp(prefix="perennial-bench-")) / "workspace"
    init_workspace(root, Settings())
    try:
        with open_services(root, Settings()) as services:
            fill(services, rows, classes)
            drawn = draw_window(services, BIG.name, now=CLOSED)["draws"][0]["tasks"]
            first = tasks(services)
            facts = [("strata whose weights miss N_h, first draw", off := strata_off(services), off == 0)]
            again = draw_window(services, BIG.name, now=CLOSED)["draws"][0]["tasks"]
            differing = len(set(first) ^ set(tasks(services))) + abs(again - drawn)
            facts.append(("tasks that differ when drawn again", differing, differing == 0))
            with services.database.transaction() as connection:  # and from the start, as another database would
                for table in ("label_task", "draw_stratum", "draw_batch", "draw"):
                    connection.execute(text(f"DELETE FROM {table}"))
            draw_window(services, BIG.name, now=CLOSED)
            differing = len(set(first) ^ set(tasks(services)))
            facts.append(("tasks that differ when drawn from the start", differing, differing == 0))
            used = in_a_process_of_its_own(root)
            lost = len({task[:4] for task in first} - {task[:4] for task in tasks(services)})
            facts.append(("tasks of the first draw that its top-up lacks", lost, lost == 0))
            facts.append(("strata whose weights miss N_h, topped up", off := strata_off(services), off == 0))
            answer_all(services, CLOSED)
        return used, facts
    finally:
        discard_services(root, Settings())
        shutil.rmtree(root.parent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=(100_000, 10_000_000))
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.work)))
        return 0
    good, used = True, []
    for rows in options.rows:
        megabytes, facts = measure(rows, options.classes)
        used.append(megabytes)
        for name, number, fine in facts:
            print(f"{rows:>12,} rows: {name:<52}{number:>8}  = 0  {'reached' if fine else 'MISSED'}", flush=True)
            good &= fine
        print(f"{rows:>12,} rows: {'peak memory of the process, MB':<52}{megabytes:>8.1f}", flush=True)
    apart = abs(used[1] - used[0])
    good &= apart <= MOST_MEGABYTES_APART
    verdict = "reached" if apart <= MOST_MEGABYTES_APART else "MISSED"
    print(f"{'peak memory apart, MB':<70}{apart:>8.1f}  <= {MOST_MEGABYTES_APART:g}  {verdict}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
