"""How fast predictions are written, beside a bare COPY of the same bytes. Run with `pytest -s`."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from sqlalchemy import text

from components.records import ModelVersion, ScoredChunk, Window
from components.store import labelling, monitoring, predictions
from components.store.champions import register_model
from components.store.database import Database, copy_in
from components.store.postgres.embedded import EmbeddedPostgres
from components.store.scored.chunks import COPIED_COLUMNS, encode

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
CHUNK_ROWS = 4096
CHUNKS = 100
ROUNDS = 5
LEAST_ROWS_A_SECOND = 100_000
BARE = "CREATE UNLOGGED TABLE bare (LIKE prediction)"


@pytest.fixture
def durable() -> Iterator[Database]:
    """A database with the settings of a workspace: what is closed is on disk."""
    folder = Path(tempfile.mkdtemp(prefix="perennial-bench-", dir="/tmp"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "state", system_folder=folder / "system")
    server.start()
    database = Database(server.ensure_database("bench"))
    database.migrate()
    yield database
    database.dispose()
    server.stop()
    shutil.rmtree(folder)


@pytest.mark.benchmark
def test_write_speed(
    durable: Database, make_model: Callable[..., ModelVersion], make_chunk: Callable[..., ScoredChunk]
) -> None:
    model = make_model(1, tuple(f"class {n}" for n in range(10)))
    register_model(durable, model)
    rows = CHUNKS * CHUNK_ROWS
    chunks = [make_chunk(n * CHUNK_ROWS, CHUNK_ROWS, classes=10) for n in range(CHUNKS)]

    def open_batch(number: int) -> predictions.Batch:
        return predictions.open_batch(
            durable, batch_id=f"{number:064x}", content_sha256="c", source="bench", model_version=1,
            class_list=model.classes, items=rows, scored_at=NOW, now=NOW,
        )  # fmt: skip

    def write(batch: predictions.Batch) -> None:
        for chunk in chunks:
            predictions.write_chunk(durable, batch, chunk)

    def write_whole(batch: predictions.Batch) -> None:
        write(batch)
        predictions.close_batch(durable, batch, NOW)

    batches = [open_batch(number) for number in range(ROUNDS)]
    took = [seconds(partial(write_whole, batch)) for batch in batches]
    written_in, batch = median(took), batches[0]
    again = seconds(lambda: write(batch))

    constants = {"month": batch.month, "batch_number": 1, "model_version": 1, "shadow": False, "shard_id": 1}
    everything = np.arange(CHUNK_ROWS)
    encoded = [encode(chunk, batch.id, constants, everything) for chunk in chunks]
    encoding = seconds(lambda: [encode(chunk, batch.id, constants, everything) for chunk in chunks])
    copy = "COPY bare (" + ", ".join(COPIED_COLUMNS) + ") FROM STDIN (FORMAT binary)"
    with durable.transaction() as connection:
        connection.execute(text(BARE))
        bare = seconds(lambda: [copy_in(connection, copy, io.BytesIO(one)) for one in encoded])

    print()
    print("each round:                        " + "".join(f"{rows / one:10,.0f}" for one in took) + " rows/s")
    print(f"write_chunk, indexed, kept, closed: {rows / written_in:10,.0f} rows/s")
    print(f"  of that, making the columns:     {rows / encoding:10,.0f} rows/s")
    print(f"redelivered, no new row:           {rows / again:10,.0f} rows/s")
    print(f"bare COPY, unlogged, no index:     {rows / bare:10,.0f} rows/s, {written_in / bare:.2f} times as fast")
    watch(durable, ROUNDS * rows)
    assert rows / written_in >= LEAST_ROWS_A_SECOND


def watch(database: Database, rows: int) -> None:
    window = Window.parse("2026-11")
    rolled = seconds(lambda: monitoring.rollup(database, window))
    print(f"rollup of {rows:,} rows:           {rolled:10.2f} s")
    edges = monitoring.quantile_edges(database, window, 1, ["brightness"], 20)["brightness"]
    counted = seconds(lambda: monitoring.histogram(database, window, 1, "brightness", edges))
    print(f"histogram of one column:           {counted:10.2f} s, again "
          f"{seconds(lambda: monitoring.histogram(database, window, 1, 'brightness', edges)):.3f} s")  # fmt: skip
    drawn = seconds(
        lambda: labelling.freeze_and_draw(
            database, window, 1, allocate=lambda c: c.population // 50, kind="regular", budget=8000, now=NOW
        )
    )
    print(f"freeze and draw 2 %:               {drawn:10.2f} s")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
