"""Where a workspace's embedded PostgreSQL keeps its files, as whom it runs, and with which binaries.

A server refuses to run as root, so root's workspaces get a folder of a system account outside the workspace. No
folder that we did not make is ever given another mode: binaries that account cannot reach are copied instead.
"""

from __future__ import annotations

import hashlib
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
from dataclasses import dataclass
from pathlib import Path

from components.errors import ConfigurationError, ServiceError
from components.store.postgres.programs import ensure_system_folder, file_lock, reachable_binaries, run_as

ACCOUNT = "perennial"
SYSTEM_FOLDER = Path("/var/lib/perennial")
RECORD = "postgres.json"
MARKER = "workspace"
PORT = 5432
LONGEST_SOCKET_PATH = 100

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
    ensure_system_folder(system_folder)
    with file_lock(system_folder / ".lock", 60.0):
        account = _account()
    for left in abandoned_homes(state, system_folder):
        log.warning("%s holds the database of a workspace that was deleted; delete it too if nobody misses it", left)
    # The name is new each time: a workspace made again at the same path must not wake up with the old one's rows.
    folder = system_folder / f"{_path_digest(state)}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    os.chown(folder, account.pw_uid, account.pw_gid)
    return PostgresHome(folder, folder, folder, account.pw_uid, account.pw_gid)


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
