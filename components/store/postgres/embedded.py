"""A PostgreSQL server of the workspace's own, started by the first command that needs it, on a private socket."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2
from psycopg2 import sql

from components.errors import ServiceError
from components.store.postgres.home import (
    PORT,
    RECORD,
    SYSTEM_FOLDER,
    PostgresHome,
    abandoned_homes,
    recorded_home,
    settle_home,
    write_atomically,
)
from components.store.postgres.programs import file_lock

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    # Containers often give 64 MB of /dev/shm; parallel queries would run out of it.
    "dynamic_shared_memory_type": "mmap",
}
# A killed server's children linger for a second or two and hold its memory; another start must wait for them.
LINGERING = ("pre-existing shared memory block", "Is another postmaster")
LOG_BYTES = 10_000_000


class EmbeddedPostgres:
    """The server of one workspace. `workspace_state` is its `.perennial` folder.

    Every method is safe to call from several processes at once. settings: further lines of postgresql.conf;
    `fsync` off is for tests, whose data may be lost with the machine.
    """

    def __init__(
        self,
        workspace_state: Path,
        *,
        settings: Mapping[str, str] | None = None,
        wait_seconds: float = 60.0,
        system_folder: Path = SYSTEM_FOLDER,
    ) -> None:
        self._state = workspace_state.resolve()
        self._settings = {**SETTINGS, **(settings or {})}
        self._wait_seconds = wait_seconds
        self._system_folder = system_folder

    def start(self) -> None:
        """Make the server accept connections; nothing happens where it already does.

        Waits out a server that is recovering or shutting down, and the leftovers of a killed one.
        Raises ServiceError with the last lines of the server's log if it is not there after `wait_seconds`.
        """
        if self.running():
            return
        self._state.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if recorded_home(self._state) is None:
                self._stop_abandoned()
            home = settle_home(self._state, self._system_folder)
            if not home.data.exists():
                _make_cluster(home, sync=self._settings.get("fsync") != "off")
            self._bring_up(home)

    def stop(self) -> None:
        """Stop the server, rolling open transactions back; nothing happens where none runs."""
        home = recorded_home(self._state)
        if home is None:
            return
        with self._lock():
            _halt(home, self._wait_seconds)

    def destroy(self) -> None:
        """Stop the server and delete its data for good: the workspace it belongs to is being thrown away."""
        home = recorded_home(self._state)
        if home is None:
            return
        with self._lock():
            _halt(home, self._wait_seconds)
            shutil.rmtree(home.folder)
            (self._state / RECORD).unlink()

    def made(self) -> bool:
        """Return whether this workspace ever had a server; starts nothing."""
        home = recorded_home(self._state)
        return home is not None and home.data.exists()

    def running(self) -> bool:
        """Return whether the server accepts a connection now."""
        home = recorded_home(self._state)
        return home is not None and _refusal(home) is None

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of `database`. Raises ServiceError before the first start."""
        home = self._home()
        return f"postgresql+psycopg2://postgres@/{quote(database, safe='')}?host={quote(str(home.socket))}&port={PORT}"

    def ensure_database(self, name: str) -> str:
        """Make the database `name` if it is missing and return its URL. The server must be running."""
        home = self._home()
        with self._lock():
            try:
                connection = _connect(home, seconds=10)
            except psycopg2.OperationalError as error:
                raise ServiceError(f"the database in {home.folder} does not answer: {_one_line(error)}") from error
            try:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                    if cursor.fetchone() is None:
                        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
            finally:
                connection.close()
        return self.url(name)

    def _home(self) -> PostgresHome:
        home = recorded_home(self._state)
        if home is None:
            raise ServiceError(f"{self._state} has no database yet; start it first")
        return home

    def _lock(self) -> AbstractContextManager[None]:
        return file_lock(self._state / "postgres.lock", 2 * self._wait_seconds)

    def _stop_abandoned(self) -> None:
        # Someone deleted this workspace and makes it anew; its old server would run for ever.
        for folder in abandoned_homes(self._state, self._system_folder):
            pid = _postmaster(folder / "data")
            if pid is not None:
                psutil.Process(pid).send_signal(signal.SIGINT)

    def _bring_up(self, home: PostgresHome) -> None:
        deadline = time.monotonic() + self._wait_seconds
        while True:
            refusal = _refusal(home)
            if refusal is None:
                return
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"PostgreSQL in {home.folder} accepted no connection within {self._wait_seconds:g} s ({refusal}); "
                    f"see {home.log_file}: {_log_tail(home)}"
                )
            if _postmaster(home.data) is None:
                self._launch(home, deadline)
            elif _unreachable(home):
                _halt(home, self._wait_seconds)
            else:
                time.sleep(0.1)

    def _launch(self, home: PostgresHome, deadline: float) -> None:
        _clear_dead_lock(home)
        _write_settings(home, self._settings)
        _rotate(home.log_file)
        before = home.log_file.stat().st_size if home.log_file.exists() else 0
        seconds = str(max(1, int(deadline - time.monotonic())))
        done = home.run("pg_ctl", "start", "-s", "-w", "-t", seconds, "-D", str(home.data), "-l", str(home.log_file))
        if done.returncode == 0 or _postmaster(home.data) is not None:
            return
        said = home.log_file.read_text(encoding="utf-8", errors="replace")[before:] if home.log_file.exists() else ""
        if not any(sign in said for sign in LINGERING):
            raise ServiceError(f"PostgreSQL in {home.folder} does not start: {_last_lines(said or done.stderr)}")
        time.sleep(0.2)


def _make_cluster(home: PostgresHome, *, sync: bool) -> None:
    # Made aside and renamed: an interrupted initdb leaves nothing that looks like a database.
    partial = Path(tempfile.mkdtemp(prefix="initdb-", dir=home.folder))
    if os.geteuid() == 0:
        os.chown(partial, home.uid, home.gid)
    options = ("-U", "postgres", "-A", "trust", "--encoding=UTF8", "--no-locale", "--no-instructions")
    done = home.run("initdb", "-D", str(partial), *options, *([] if sync else ["--no-sync"]))
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise ServiceError(f"PostgreSQL cannot make its files in {home.folder}: {_last_lines(done.stderr)}")
    with (partial / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write("include 'perennial.conf'\n")
    partial.rename(home.data)


def _write_settings(home: PostgresHome, settings: Mapping[str, str]) -> None:
    lines = {**settings, "unix_socket_directories": str(home.socket)}
    text = "".join(f"{key} = '{value.replace(chr(39), chr(39) * 2)}'\n" for key, value in lines.items())
    write_atomically(home.data / "perennial.conf", text, owner=(home.uid, home.gid))


def _connect(home: PostgresHome, seconds: int) -> psycopg2.extensions.connection:
    return psycopg2.connect(
        host=str(home.socket), port=PORT, user="postgres", dbname="postgres", connect_timeout=seconds, sslmode="disable"
    )


def _refusal(home: PostgresHome) -> str | None:
    """Return why no connection can be had, or None if one can."""
    if not home.socket_file.exists():
        return "no socket"
    try:
        _connect(home, seconds=2).close()
    except psycopg2.OperationalError as error:
        return _one_line(error)
    return None


def _postmaster(data: Path) -> int | None:
    """Return the live server's process id. A zombie, or another process that got the old number, is not one."""
    pid = _first_number(data / "postmaster.pid")
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return None
        return pid if Path(process.cwd()) == data.resolve() else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _clear_dead_lock(home: PostgresHome) -> None:
    # PostgreSQL trusts any living process with the recorded number, even a zombie or, after a reboot, a stranger.
    # Where no process has it, PostgreSQL itself does better: it also looks for children that still hold memory.
    if _postmaster(home.data) is not None:
        return
    for lock in (home.data / "postmaster.pid", home.socket / f"{home.socket_file.name}.lock"):
        number = _first_number(lock)
        if number is not None and psutil.pid_exists(number):
            lock.unlink(missing_ok=True)


def _first_number(lock: Path) -> int | None:
    try:
        return int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _unreachable(home: PostgresHome) -> bool:
    """Return whether the server is ready on a socket that was deleted, or that lies elsewhere by now."""
    lines = (home.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    return len(lines) >= 8 and lines[7].strip() == "ready" and not home.socket_file.exists()


def _halt(home: PostgresHome, wait_seconds: float) -> None:
    if _postmaster(home.data) is None:
        return
    seconds = str(max(1, int(wait_seconds)))
    done = home.run("pg_ctl", "stop", "-s", "-m", "fast", "-w", "-t", seconds, "-D", str(home.data))
    if done.returncode != 0 and _postmaster(home.data) is not None:
        said = _last_lines(done.stderr)
        raise ServiceError(f"PostgreSQL in {home.folder} does not stop: {said}; see {home.log_file}")


def _rotate(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
        log_file.replace(log_file.with_suffix(".log.old"))


def _log_tail(home: PostgresHome) -> str:
    text = home.log_file.read_text(encoding="utf-8", errors="replace") if home.log_file.exists() else ""
    return _last_lines(text)


def _last_lines(text: str) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-3:]) or "it said nothing"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
