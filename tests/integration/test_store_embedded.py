from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from components.errors import ConfigurationError, ServiceError
from components.records import ModelVersion, ScoredChunk
from components.store import predictions
from components.store.champions import register_model
from components.store.database import Database
from components.store.postgres import home as postgres_home
from components.store.postgres import programs as postgres_programs
from components.store.postgres.embedded import EmbeddedPostgres

FAST = {"fsync": "off", "shared_buffers": "16MB"}
ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be one user and then another")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="perennial-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    for pid_file in made.rglob("postmaster.pid"):
        pid = int(pid_file.read_text().split("\n", 1)[0])
        if psutil.pid_exists(pid) and psutil.Process(pid).name().startswith("postgres"):
            os.kill(pid, signal.SIGQUIT)
    shutil.rmtree(made, ignore_errors=True)


def server_in(folder: Path, **changes: object) -> EmbeddedPostgres:
    facts = {"settings": FAST, "system_folder": folder / "system", "wait_seconds": 90}
    return EmbeddedPostgres(folder / "workspace" / ".perennial", **{**facts, **changes})


def home_of(folder: Path) -> postgres_home.PostgresHome:
    home = postgres_home.recorded_home(folder / "workspace" / ".perennial")
    assert home is not None
    return home


def postmaster(folder: Path) -> int:
    return int((home_of(folder).data / "postmaster.pid").read_text().split("\n", 1)[0])


def remember(server: EmbeddedPostgres, value: int) -> None:
    database = Database(server.ensure_database("kept"))
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS fact (n integer)"))
        connection.execute(text("INSERT INTO fact VALUES (:n)"), {"n": value})
    database.dispose()


def remembered(server: EmbeddedPostgres) -> list[int]:
    database = Database(server.url("kept"))
    with database.transaction() as connection:
        found = list(connection.scalars(text("SELECT n FROM fact ORDER BY n")))
    database.dispose()
    return found


def kill_when(enough: threading.Event, folder: Path) -> threading.Thread:
    """Kill the server and all its children, as a power cut would, once the event is set."""
    parent = psutil.Process(postmaster(folder))

    def kill() -> None:
        enough.wait()
        for process in (parent, *parent.children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def start_in_child(folder: Path) -> subprocess.Popen[str]:
    program = (
        "import sys, pathlib\n"
        "from components.store.postgres.embedded import EmbeddedPostgres\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "server = EmbeddedPostgres(folder / 'workspace' / '.perennial', settings={'fsync': 'off'},"
        " system_folder=folder / 'system', wait_seconds=120)\n"
        "server.start()\n"
        "server.ensure_database('shared')\n"
        "print(server.running())\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_start_together_get_one_server_that_outlives_them(folder: Path) -> None:
    children = [start_in_child(folder) for _ in range(4)]
    said = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0] * 4, said
    assert [out for out, _ in said] == ["True\n"] * 4
    data = home_of(folder).data.resolve()
    servers = [
        p
        for p in psutil.process_iter(["name", "cmdline"])
        if p.info["name"].startswith("postgres") and str(data) in (p.info["cmdline"] or [])
    ]
    assert len(servers) == 1
    assert server_in(folder).running()
    server_in(folder).stop()
    assert not server_in(folder).running()


def test_committed_rows_survive_kills_of_the_server(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    for number in range(3):
        remember(server, number)
        os.kill(postmaster(folder), signal.SIGKILL)
        server.start()
        assert remembered(server) == list(range(number + 1))
    server.stop()
    server.stop()


def test_a_dying_server_keeps_the_first_chunks_of_an_open_batch_and_all_of_a_closed_one(
    folder: Path, make_model: Callable[..., ModelVersion], make_chunk: Callable[..., ScoredChunk]
) -> None:
    server = EmbeddedPostgres(folder / "workspace" / ".perennial", system_folder=folder / "system", wait_seconds=90)
    server.start()
    database = Database(server.ensure_database("kept"), connect_wait_seconds=0.2)
    database.migrate()
    model = make_model(1)
    register_model(database, model)
    now = datetime(2026, 11, 20, tzinfo=UTC)
    batch = predictions.open_batch(
        database, batch_id="b", content_sha256="c", source="s", model_version=1, class_list=model.classes,
        items=10_000, scored_at=now, now=now,
    )  # fmt: skip
    chunk_rows, following = 500, 0
    for after in (3, 1, 5):
        enough = threading.Event()
        killer = kill_when(enough, folder)
        with contextlib.suppress(ServiceError):
            for written, start in enumerate(range(following, 10_000, chunk_rows)):
                if written == after:
                    enough.set()
                predictions.write_chunk(database, batch, make_chunk(start, chunk_rows))
        killer.join()
        server.start()
        stored = predictions.written(database, batch)
        assert len(stored) % chunk_rows == 0
        assert set(stored) == set(range(len(stored)))
        assert predictions.find_batch(database, "b").rows == len(stored)
        following = len(stored)
    for start in range(following, 10_000, chunk_rows):
        predictions.write_chunk(database, batch, make_chunk(start, chunk_rows))
    predictions.close_batch(database, batch, now)
    os.kill(postmaster(folder), signal.SIGKILL)
    server.start()
    assert len(predictions.written(database, batch)) == 10_000
    assert predictions.find_batch(database, "b").state == "closed"
    database.dispose()


def test_a_stale_lock_with_a_strangers_process_number_does_not_stop_a_start(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    remember(server, 1)
    server.stop()
    home = home_of(folder)
    lines = [str(os.getpid()), str(home.data), "1", "5432", str(home.folder), "", "1 1", "ready"]
    (home.data / "postmaster.pid").write_text("\n".join(lines) + "\n")
    assert not server.running()
    server.start()
    assert remembered(server) == [1]


def test_a_server_that_does_not_answer_is_a_clear_error(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    pid = postmaster(folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServiceError, match="accepted no connection within 1 s"):
            server_in(folder, wait_seconds=1).start()
    finally:
        os.kill(pid, signal.SIGCONT)
    server.start()


def test_a_vanished_socket_is_made_anew(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    remember(server, 5)
    home_of(folder).socket_file.unlink()
    assert not server.running()
    server.start()
    assert remembered(server) == [5]


def test_a_moved_workspace_keeps_its_rows(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    remember(server, 7)
    server.stop()
    (folder / "elsewhere").mkdir()
    (folder / "workspace").rename(folder / "elsewhere" / "workspace")
    moved = EmbeddedPostgres(
        folder / "elsewhere" / "workspace" / ".perennial", settings=FAST, system_folder=folder / "system"
    )
    moved.start()
    assert remembered(moved) == [7]
    moved.stop()


def test_before_the_first_start_there_is_nothing_to_stop_or_to_name(folder: Path) -> None:
    server = server_in(folder)
    assert not server.running()
    server.stop()
    with pytest.raises(ServiceError, match="no database yet"):
        server.url("perennial")


def test_a_broken_setting_is_reported_with_the_servers_own_words(folder: Path) -> None:
    server = server_in(folder, settings={**FAST, "shared_buffers": "lots"})
    with pytest.raises(ServiceError, match=r"does not start.*shared_buffers"):
        server.start()


def test_a_long_path_gets_a_short_private_socket_folder(folder: Path) -> None:
    deep = folder / ("long" * 12) / ("path" * 10)
    server = EmbeddedPostgres(deep / ".perennial", settings=FAST, system_folder=deep / "system", wait_seconds=90)
    server.start()
    home = postgres_home.recorded_home(deep / ".perennial")
    assert home is not None
    assert home.socket != home.folder
    assert stat.S_IMODE(home.socket.stat().st_mode) == 0o700
    database = Database(server.ensure_database("x"))
    with database.transaction() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    database.dispose()
    server.stop()
    shutil.rmtree(home.socket)


def modes_of(*paths: Path) -> dict[Path, tuple[int, int]]:
    every = {parent for path in paths for parent in (path, *path.parents)}
    return {path: (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) for path in sorted(every)}


@as_root
def test_root_gets_a_server_without_any_folder_made_wider(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / ".perennial").mkdir(mode=0o700)
    watched = (closed / ".perennial", postgres_programs.installed_binaries(), folder)
    before = modes_of(*watched)
    server = EmbeddedPostgres(closed / ".perennial", settings=FAST, system_folder=folder / "system", wait_seconds=90)
    server.start()
    server.ensure_database("x")
    home = postgres_home.recorded_home(closed / ".perennial")
    assert home is not None
    assert modes_of(*watched) == before
    assert home.uid != 0
    assert psutil.Process(int((home.data / "postmaster.pid").read_text().split("\n")[0])).uids().real == home.uid
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.data.stat().st_mode) == 0o700
    server.stop()


@as_root
def test_programs_that_the_account_cannot_reach_are_copied_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    installed = postgres_programs.installed_binaries()
    package = installed.parents[1]
    shutil.copytree(installed.parent, closed / package.name / "pginstall18", symlinks=True)
    shutil.copytree(f"{package}.libs", closed / f"{package.name}.libs", symlinks=True)
    hidden = closed / package.name / "pginstall18" / "bin"
    monkeypatch.setattr(postgres_programs, "installed_binaries", lambda: hidden)
    server = server_in(folder)
    server.start()
    assert server.running()
    assert home_of(folder).binaries.is_relative_to(folder / "system")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    server.stop()
    server.start()
    assert len(list((folder / "system").glob("postgresql-18-*"))) == 1
    server.stop()


@as_root
def test_a_copied_workspace_is_refused_instead_of_sharing_rows(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    server.stop()
    shutil.copytree(folder / "workspace", folder / "copy")
    copy = EmbeddedPostgres(folder / "copy" / ".perennial", settings=FAST, system_folder=folder / "system")
    with pytest.raises(ConfigurationError, match="is a copy of"):
        copy.start()


@as_root
def test_a_workspace_made_again_at_the_same_path_starts_empty(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    remember(server, 1)
    old = postmaster(folder)
    shutil.rmtree(folder / "workspace")
    again = server_in(folder)
    again.start()
    database = Database(again.ensure_database("kept"))
    with database.transaction() as connection:
        assert connection.scalar(text("SELECT to_regclass('fact')")) is None
    database.dispose()
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == old], timeout=20)
    assert not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE
    again.stop()


@as_root
def test_an_ordinary_user_keeps_everything_inside_the_workspace(folder: Path) -> None:
    (folder / "workspace").mkdir()
    nobody = 65534
    os.chown(folder / "workspace", nobody, nobody)
    before = modes_of(folder / "workspace")
    # Python itself may lie where only root can read: everything is imported before the change of user.
    program = (
        "import os, sys, pathlib, json\n"
        "import psycopg2, sqlalchemy.dialects.postgresql.psycopg2, encodings.idna, concurrent.futures\n"
        "from components.store.postgres.embedded import EmbeddedPostgres\n"
        "from components.store.postgres.programs import installed_binaries\n"
        "from components.store.database import Database\n"
        "installed_binaries()\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "state = pathlib.Path(sys.argv[1]) / 'workspace' / '.perennial'\n"
        "server = EmbeddedPostgres(state, settings={'fsync': 'off'}, wait_seconds=90)\n"
        "server.start()\n"
        "url = server.ensure_database('x')\n"
        "connection = psycopg2.connect(url.replace('+psycopg2', ''))\n"
        "connection.close()\n"
        "server.stop(); server.start(); server.stop()\n"
        "print(json.dumps([server.running(), (state / 'postgres' / 'data').is_dir()]))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [False, True]
    assert modes_of(folder / "workspace") == before
    assert {p.stat().st_uid for p in (folder / "workspace").rglob("*")} == {nobody}
    (folder / "system").mkdir()  # root now uses the same workspace, as its owner
    server = server_in(folder)
    server.start()
    assert home_of(folder).uid == nobody
    server.stop()


def test_a_destroyed_server_leaves_nothing_and_can_be_made_again(folder: Path) -> None:
    server = server_in(folder)
    server.start()
    remember(server, 1)
    home = home_of(folder)
    server.destroy()
    assert not home.folder.exists()
    assert not server.running()
    server.start()
    remember(server, 2)
    assert remembered(server) == [2]
    server.stop()
