"""One trained workspace for all product tests, made through the real command line, and the ways to use it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from components.data.sources.item import SourceItem
    from components.operations.services import Services

PERENNIAL = Path(sys.executable).parent / "perennial"
PATIENCE_SECONDS = 300.0
# Mechanics, not accuracy: a few epochs are enough for digits. Small chunks, so that a batch of 600 has ten of them.
SMALL = {
    "audit": {"folds": 2, "epochs": 2},
    "train": {"epochs": 3},
    "evaluate": {"bootstrap": 100},
    "score": {"batch_size": 32, "chunk_rows": 64},
    "labelling": {"share": 0.5},
    "preprocess": {"size": 28, "channels": 1},
}
OURS = (
    "DATABASE_URL",
    "MLFLOW_TRACKING_URI",
    "WORKSPACE_GIT_URL",
    "IMAGE_STORE_URL",
    "PERENNIAL_ALERT_URLS",
    "PERENNIAL_TENSORBOARD_FOLDER",
)


@dataclass(frozen=True)
class Finished:
    """One command that ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Product:
    """The trained workspace: scored once, with two dataset versions. `first` and `second` are their ingest reports."""

    root: Path
    first: dict[str, Any]
    second: dict[str, Any]
    renewal: dict[str, Any]
    scored: dict[str, Any]

    @property
    def state(self) -> Path:
        return self.root / ".perennial"


def plain_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without any setting of Perennial or Prefect, but with `more`."""
    kept = {k: v for k, v in os.environ.items() if k not in OURS and not k.startswith(("PREFECT_", "COV_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def start_command(
    *arguments: str, stderr: IO[str] | int = subprocess.PIPE, start_new_session: bool = False, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(PERENNIAL), *arguments],
        env=plain_environment(**environment), start_new_session=start_new_session,
        # A shell that runs the tests in the background has its children ignore Ctrl-C; these are to hear it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], started: float, patience: float = PATIENCE_SECONDS) -> Finished:
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{process.args} did not end within {patience:.0f} s; it said {out}\n{err}")
    return Finished(process.returncode, out, err, time.monotonic() - started)


def run_command(*arguments: str, patience: float = PATIENCE_SECONDS, **environment: str) -> Finished:
    started = time.monotonic()
    return wait_for(start_command(*arguments, **environment), started, patience)


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    """A function that gives the environment of a user's process, with what its keyword arguments add."""
    return plain_environment


@pytest.fixture(scope="session")
def perennial() -> Callable[..., Finished]:
    """A function that runs `perennial ARGUMENTS` in a process of its own; keyword arguments are environment."""
    return run_command


@pytest.fixture(scope="session")
def start_perennial() -> Callable[..., subprocess.Popen[str]]:
    """A function that starts `perennial ARGUMENTS` and does not wait for it."""
    return start_command


@pytest.fixture(scope="session")
def perennial_at_once() -> Callable[..., list[Finished]]:
    """A function that runs several commands at the same time and waits for all."""

    def run(*commands: Sequence[str], **environment: str) -> list[Finished]:
        started = time.monotonic()
        return [wait_for(p, started) for p in [start_command(*c, **environment) for c in commands]]

    return run


def succeeded(finished: Finished) -> Finished:
    assert finished.code == 0, f"exit {finished.code}: {finished.out}\n{finished.err}"
    return finished


@pytest.fixture(scope="session")
def git() -> Callable[..., str]:
    """A function of (folder, *arguments): what `git` printed there."""
    return run_git


def run_git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A Person", "-c", "user.email=person@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def digits() -> list[SourceItem]:
    """The 1,797 digits as PNG files, with their labels."""
    from components.data.decoding.decode import ImageLimits
    from components.data.sources.opening import open_source

    limits = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
    return list(open_source("digits", limits=limits, cache=Path("unused")))


def write_archive(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def archive() -> Callable[[Path, Sequence[tuple[str, bytes]]], Path]:
    """A function of (path, (name, content) pairs) that writes a .tar and returns its path."""
    return write_archive


@pytest.fixture(scope="session")
def noisy_digits(digits: list[SourceItem]) -> Callable[[Path, int], Path]:
    """A function of (path, how many) that writes an archive of new images, digits with a dark row, in class folders."""
    from PIL import Image

    def write(path: Path, count: int) -> Path:
        files = []
        for item in digits[:count]:
            with Image.open(io.BytesIO(item.content)) as image:
                image.paste(0, (0, 0, image.width, 1))
                image.putpixel((0, 0), 7)
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
            files.append((f"{item.label}/{Path(item.name).name}", buffer.getvalue()))
        return write_archive(path, files)

    return write


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory, noisy_digits: Callable[[Path, int], Path]) -> Iterator[Product]:
    """A workspace brought through init, ingest (twice), retrain and score by the command line."""
    folder = tmp_path_factory.mktemp("product")
    root = folder / "workspace"
    succeeded(run_command("init", str(root)))
    try:
        yield build_product(root, noisy_digits(folder / "later.tar", 60))
    finally:
        shut_down(root)


@pytest.fixture
def own_product(product: Product, tmp_path: Path) -> Iterator[Product]:
    """A workspace like `product` with services up, of one test alone, which may change what all others read."""
    root = tmp_path / "workspace"
    try:
        copy_workspace(product.root, root)
        with services_up(root, tmp_path / "up"):
            yield replace(product, root=root)
    finally:
        shut_down(root)


@contextmanager
def services_up(root: Path, log: Path) -> Iterator[None]:
    """Run `perennial up` meanwhile: many commands then share one Prefect server, which starts in five seconds."""
    from components.operations.services import read_running_services

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with log.open("w", encoding="utf-8") as said:
        up = start_command("up", "--port", port, "--workspace", str(root), stderr=said)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while read_running_services(root / ".perennial") is None:
            assert up.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)
        yield
    finally:
        up.terminate()
        up.communicate(timeout=PATIENCE_SECONDS)
    assert up.returncode == 0, log.read_text(encoding="utf-8")


def copy_workspace(source: Path, root: Path) -> None:
    """Copy a workspace with its databases and its runs' files; the copy knows nothing of where it came from."""
    from components.store.postgres.embedded import EmbeddedPostgres

    shutil.copytree(source, root, symlinks=True, ignore=shutil.ignore_patterns("postgres.json", "postgres.lock", "tmp"))
    for file in (root / ".git" / "config", root / ".dvc" / "config.local"):
        file.write_text(file.read_text(encoding="utf-8").replace(str(source), str(root)), encoding="utf-8")
    old, new = EmbeddedPostgres(source / ".perennial"), EmbeddedPostgres(root / ".perennial")
    old.start()
    new.start()
    for name in ("perennial", "mlflow"):
        new.ensure_database(name)
        move_database(source / ".perennial", root / ".perennial", name, {str(source): str(root)})


@pytest.fixture(scope="session")
def copy_database() -> Callable[..., None]:
    """A function of (state of one server, state of another, database) that copies the database; see `move_database`."""
    return move_database


def move_database(source: Path, target: Path, name: str, changes: Mapping[str, str] | None = None) -> None:
    """Copy a database from one embedded server to another, where it is there and empty, with `changes` of its text."""
    from components.store.postgres.home import recorded_home

    old, new = recorded_home(source), recorded_home(target)
    assert old is not None and new is not None
    dump = [str(old.binaries / "pg_dump"), "-h", str(old.socket), "-U", "postgres", name]
    load = [str(old.binaries / "psql"), "-q", "-v", "ON_ERROR_STOP=1", "-h", str(new.socket), "-U", "postgres", name]
    content = subprocess.run(dump, capture_output=True, check=True, timeout=300).stdout
    for before, after in (changes or {}).items():
        content = content.replace(before.encode(), after.encode())
    subprocess.run(load, input=content, capture_output=True, check=True, timeout=300)


def build_product(root: Path, later: Path) -> Product:
    write_small_params(root)
    here = ("--workspace", str(root), "--json")
    first = succeeded(run_command("ingest", "digits", *here)).json
    second = ingest_directly(root, later)
    renewal = succeeded(run_command("retrain", *here, patience=1200)).json
    scored = succeeded(run_command("score", "digits", *here)).json
    return Product(root, first, second, renewal, scored)


def write_small_params(root: Path) -> None:
    """Make the workspace's runs short; flows use what is committed and pushed, so that is done too."""
    import yaml

    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        params[section].update(values)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    run_git(root, "commit", "--quiet", "--all", "--message", "Make runs short")
    run_git(root, "push", "--quiet")


def ingest_directly(root: Path, source: Path) -> dict[str, Any]:
    """Ingest without Prefect, whose start would cost ten seconds more."""
    from components.operations.ingestion import ingest_source
    from components.operations.services import open_services
    from components.settings import Settings

    with open_services(root, Settings()) as opened:
        return ingest_source(opened, str(source), add_classes=(), now=datetime.now(UTC))


def shut_down(root: Path) -> None:
    """Stop a workspace's services and delete what they keep, some of it outside the workspace."""
    from components.operations.services import discard_services
    from components.settings import Settings

    discard_services(root, Settings())


@pytest.fixture
def services(product: Product) -> Iterator[Services]:
    """The product's services, opened in this process."""
    from components.operations.services import open_services
    from components.settings import Settings

    with open_services(product.root, Settings()) as opened:
        yield opened


@pytest.fixture
def apart(product: Product) -> Iterator[Services]:
    """The product's services on a copy of its database: what is done there does not reach the other tests.

    Give a command its address as DATABASE_URL: `apart.workspace.settings.database_url`.
    """
    import psycopg2

    from components.operations.services import open_services
    from components.settings import Settings
    from components.store.postgres.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(product.state)
    server.start()
    admin = psycopg2.connect(server.url("postgres").replace("+psycopg2", ""))
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("CREATE DATABASE apart TEMPLATE perennial")
        with open_services(product.root, Settings(database_url=server.url("apart"))) as opened:
            yield opened
        cursor.execute("DROP DATABASE apart WITH (FORCE)")
    admin.close()


@pytest.fixture(scope="session")
def score_month() -> Callable[[Services, str, datetime], None]:
    """A function of (services, batch, when) that scores all digits as one batch of that moment."""

    def score(services: Services, batch: str, at: datetime) -> None:
        from components.operations.batches import score_source

        score_source(services, "digits", batch_id=batch, now=at)

    return score


class ForkedOperations:
    """Operations in children of `forked_operations.py`; see there. Every child is waited for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked_operations.py"))],
            cwd=folder, env=plain_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._jobs = 0

    def start(self, *jobs: dict[str, Any]) -> list[int]:
        """Start the jobs at the same moment and return their process ids; call `finish` before the next."""
        self._results = [self._folder / f"result-{self._jobs + n}.json" for n in range(len(jobs))]
        self._jobs += len(jobs)
        return self._say([{**job, "result": str(path)} for job, path in zip(jobs, self._results, strict=True)])

    def finish(self) -> tuple[list[int], list[Any]]:
        """Wait for the jobs; return their exit codes, and their results (None of one that failed)."""
        codes = self._say("reap")
        return codes, [json.loads(p.read_text(encoding="utf-8")) if p.exists() else None for p in self._results]

    def stop(self) -> None:
        self._server.communicate(timeout=60)

    def _say(self, what: Any) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(what), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedOperations]:
    """A process that forks children for operations that are to be killed, or to meet one another."""
    made = ForkedOperations(tmp_path_factory.mktemp("forked"))
    yield made
    made.stop()


@pytest.fixture
def today() -> datetime:
    """Now, to the second, a moment ago: no clock reads this as the future."""
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
