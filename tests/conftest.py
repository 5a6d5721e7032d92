"""What tests of several rooms share: a real PostgreSQL, started once a worker, and small pieces to fill it with."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from components.data.decoding.isolation import IsolatedDecoder
    from components.records import ModelVersion, ScoredChunk
    from components.store.database import Database
    from components.store.postgres.embedded import EmbeddedPostgres
    from components.store.scored.batches import Batch

if "PYTEST_XDIST_WORKER" in os.environ:
    # One worker a core: PyTorch's threads would wait for those of the other worker's PyTorch. Children inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
CLASSES = ("cat", "dog", "owl")
_numbers = count(1)


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    """One for all ingests of a module's tests, within the limits that `Data` has by default."""
    from components.data.decoding.isolation import IsolatedDecoder
    from components.params import Data

    with IsolatedDecoder.of(Data()) as shared:
        yield shared


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let decoding processes, and no other, do what marked files say when they open them."""
    folder = tmp_path / "misbehaving"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import os, signal, sys, time
        from components.data.decoding import decode as module
        plain = module.decode

        def decode(content, limits):
            if content == b"hang":
                while True:
                    pass
            if content == b"sleep":
                time.sleep(3600)
            if content == b"crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if content == b"swell":
                return bytearray(10 * 1024**3)
            if content.startswith(b"once ") and not os.path.exists(content[5:]):
                open(content[5:], "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(content, limits)

        module.decode = decode
        """)
    )
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[Path]:
    """A short folder that any account can reach; pytest's own are closed to the account that root's server runs as."""
    folder = Path(tempfile.mkdtemp(prefix="perennial-tests-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(postgres_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The worker's server; nothing in it outlives the test run, so it need not reach the disk."""
    from components.store.postgres.embedded import EmbeddedPostgres

    unsafe = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    server = EmbeddedPostgres(
        postgres_folder / "state", settings=unsafe, system_folder=postgres_folder / "system", wait_seconds=120
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated, empty database that others are copied from."""
    from components.store.database import Database

    database = Database(postgres.ensure_database("migrated"))
    database.migrate()
    database.dispose()
    return "migrated"


@pytest.fixture
def database(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Database]:
    """A fresh, migrated database of the test's own."""
    import psycopg2
    from psycopg2 import sql

    from components.store.database import Database

    name = f"test_{next(_numbers)}"
    admin = psycopg2.connect(postgres.url("postgres").replace("postgresql+psycopg2", "postgresql"))
    admin.autocommit = True
    identifier = sql.Identifier(name)
    with admin.cursor() as cursor:
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        cursor.execute(copy.format(identifier, sql.Identifier(migrated_template)))
    made = Database(postgres.url(name), connect_wait_seconds=10)
    yield made
    made.dispose()
    with admin.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
    admin.close()


@pytest.fixture
def model(database: Database) -> ModelVersion:
    """Model version 1 with the classes cat, dog, owl, registered."""
    from components.store.champions import register_model

    made = model_version(1)
    register_model(database, made)
    return made


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ModelVersion]:
    """A function of (version, classes) that makes a record of a model."""
    return model_version


def model_version(version: int, classes: tuple[str, ...] = CLASSES) -> ModelVersion:
    from components.records import ModelVersion

    return ModelVersion(
        version=version,
        run_id=f"run-{version}",
        dataset_version="data/2026-11-01-1",
        git_commit="0" * 40,
        classes=classes,
        artifact_sha256=f"{version:064x}",
        preprocess_sha256="p" * 64,
        state="candidate",
        created_at=NOW,
        metrics={"accuracy": 0.9},
    )


@pytest.fixture(scope="session")
def make_chunk() -> Callable[..., ScoredChunk]:
    """A function of (first item, rows, seed, classes) that makes a chunk as scoring would."""
    return scored_chunk


def scored_chunk(
    first: int = 0, rows: int = 100, *, seed: int = 0, classes: int = len(CLASSES), shard: str | None = None
) -> ScoredChunk:
    import numpy as np

    from components.records import IMAGE_STATISTICS, ScoredChunk

    rng = np.random.default_rng([seed, first])
    probabilities = rng.dirichlet(np.full(classes, 0.3), rows).astype(np.float16)
    items = np.arange(first, first + rows, dtype=np.int64)
    return ScoredChunk(
        item_no=items,
        image_id=tuple(f"{seed:04x}{item:060x}" for item in items),
        name=tuple(f"folder/{item}.png" for item in items),
        predicted=probabilities.argmax(axis=1).astype(np.int16),
        confidence=probabilities.max(axis=1).astype(np.float32),
        probabilities=probabilities,
        ood_score=rng.normal(size=rows).astype(np.float32),
        statistics={name: rng.random(rows).astype(np.float32) for name in IMAGE_STATISTICS},
        needs_review=probabilities.max(axis=1) < 0.7,
        latency_ms=1.5,
        shard=shard or f"2026-11/seed{seed}-{first:08d}.arrow",
    )


@pytest.fixture
def fill_batch(database: Database, model: ModelVersion) -> Callable[..., Batch]:
    """A function that scores and closes one batch of random predictions."""
    from components.store import predictions

    def fill(batch_id: str = "b1", rows: int = 300, *, scored_at: datetime = NOW, seed: int = 0, **more: Any) -> Batch:
        batch = predictions.open_batch(
            database,
            batch_id=batch_id,
            content_sha256=f"content of {batch_id}",
            source="test",
            model_version=more.get("model_version", model.version),
            class_list=model.classes,
            items=rows,
            scored_at=scored_at,
            now=scored_at,
        )
        predictions.write_chunk(database, batch, scored_chunk(0, rows, seed=seed))
        return predictions.close_batch(database, batch, scored_at)

    return fill
