"""The door to git: one function, a fixed identity, and no surprises from a user's configuration."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from components.data.files import command_failed
from components.errors import RefusedError, ServiceError

_UNATTENDED = (
    "-c", "user.name=Perennial",
    "-c", "user.email=perennial@localhost",
    "-c", "commit.gpgsign=false",
    "-c", "tag.gpgsign=false",
    "-c", "core.hooksPath=/dev/null",
    "-c", "init.defaultBranch=main",
    "-c", "protocol.ext.allow=never",
)  # fmt: skip

logger = logging.getLogger(__name__)


def git(*arguments: str, cwd: Path) -> str:
    """Return what `git ARGUMENTS` printed in `cwd`, stripped.

    Raises NoSpaceError where the disk is full, else ServiceError, with git's own last words.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith("GIT_SSL")}
    environment["GIT_TERMINAL_PROMPT"] = "0"
    try:
        done = subprocess.run(
            ["git", *_UNATTENDED, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ServiceError("git is not installed; Perennial versions every dataset with it") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        if done.returncode == -signal.SIGXFSZ:
            said = os.strerror(errno.EFBIG)
        raise command_failed(f"git {arguments[0]} failed in {cwd}: {said or f'exit {done.returncode}'}", cwd)
    return done.stdout.strip()


def is_source_checkout(folder: Path) -> bool:
    """Return whether `folder` is Perennial's own source, which no flow may commit to."""
    return (folder / "components" / "records.py").is_file() and (folder / "flows").is_dir()


def commit_all(folder: Path, message: str) -> str:
    """Commit everything git does not ignore in `folder` and return the commit; HEAD where nothing changed.

    Raises RefusedError in Perennial's source checkout: a workspace is a repository of its own.
    """
    top = Path(git("rev-parse", "--show-toplevel", cwd=folder))
    if is_source_checkout(top):
        raise RefusedError(
            f"{top} is Perennial's source, not a workspace; make one with `perennial init DIR` and work there"
        )
    git("add", "--all", cwd=folder)
    if git("status", "--porcelain", cwd=folder):
        git("commit", "--quiet", "-m", message, cwd=folder)
    return head(folder)


def head(folder: Path) -> str:
    """Return the full hash of the checked-out commit."""
    return git("rev-parse", "HEAD", cwd=folder)


def first_commit(folder: Path) -> str:
    """Return the commit that the checked-out history of a repository began with: the same in all its clones."""
    return git("rev-list", "--max-parents=0", "HEAD", cwd=folder).split()[-1]


def is_clean(folder: Path) -> bool:
    """Return whether nothing tracked or untracked differs from HEAD."""
    return not git("status", "--porcelain", cwd=folder)


def remove_stale_locks(repository: Path) -> list[Path]:
    """Remove the locks that a killed git left in a bare repository of this machine alone, and return them.

    A lock is left alone while a git works in there. What it guarded was not changed: git writes a lock's file, then
    renames it.
    """
    locks = [*repository.glob("*.lock"), *(repository / "refs").rglob("*.lock")]
    if not locks or any(process.is_running() for process in _gits_in(repository)):
        return []
    for lock in locks:
        logger.warning("%s was left locked by a git that died; it is unlocked", lock)
        lock.unlink(missing_ok=True)
    return locks


def _gits_in(folder: Path) -> Iterator[psutil.Process]:
    folder = folder.resolve()
    for process in psutil.process_iter():
        try:
            if process.name().startswith("git") and Path(process.cwd()).is_relative_to(folder):
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
