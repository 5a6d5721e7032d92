"""The door to git: one function, a fixed identity, and no surprises from a user's configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

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


def git(*arguments: str, cwd: Path) -> str:
    """Return what `git ARGUMENTS` printed in `cwd`, stripped. Raises ServiceError with git's own last words."""
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
        raise ServiceError(f"git {arguments[0]} failed in {cwd}: {said}")
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


def is_clean(folder: Path) -> bool:
    """Return whether nothing tracked or untracked differs from HEAD."""
    return not git("status", "--porcelain", cwd=folder)
