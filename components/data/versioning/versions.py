"""Dataset versions: a git commit and a DVC object for each, tagged `data/YYYY-MM-DD-n`. The door to DVC.

Flows never work in the folder a person looks at. They work in a clone of the workspace's origin, made under a lock,
published in one atomic push and thrown away; the visible folder is fast-forwarded when it is clean.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from components.data.erasure.following import OldVersion, paths_of, record_of, wants
from components.data.files import command_failed, naming_a_full_disk
from components.data.history.integrity import listing_of, require_available, require_kept, require_recorded
from components.data.history.kept import file_at, recorded_at
from components.data.sources.remote import without_credentials
from components.data.versioning.dvc_remote import configure_dvc, remote_folder, remote_url, require_remote
from components.data.versioning.git import commit_all, git, is_clean, remove_stale_locks
from components.data.versioning.leftovers import end_processes_in, remove_partial_objects
from components.errors import BusyError, ConflictError, DataError, NoSpaceError, RefusedError, ServiceError

logger = logging.getLogger(__name__)

TAG_PREFIX = "data/"
PAST_PREFIX = "past-"


TRAINING_STATES = "PERENNIAL_TRAINING_STATES"
"""The variable that names the folder where trainings keep their whole epochs until they are over."""


def dvc_environment() -> dict[str, str]:
    """Return the environment in which DVC finds this interpreter's `python` and `dvc`, and tells nobody."""
    folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": folder + os.pathsep + os.environ.get("PATH", ""),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def dvc(*arguments: str, cwd: Path) -> str:
    """Return what `dvc ARGUMENTS` printed.

    Raises BusyError where another DVC holds the lock, NoSpaceError where the disk is full, else ServiceError.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=cwd, env=dvc_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).partition("Having any troubles?")[0].split())[-500:]
        if "is busy" in said or "Unable to acquire lock" in said:
            raise BusyError(f"DVC in {cwd} is held by another process; try again when it has finished")
        raise command_failed(f"dvc {' '.join(arguments)} failed in {cwd}: {said}", cwd)
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class WorkspaceClone:
    """One flow's private checkout of the workspace's branch `main`. Use inside `working_clone`."""

    root: Path

    def pull(self, *targets: str) -> None:
        """Bring versioned files and folders from cache or remote; those not yet versioned are passed over.

        Raises IntegrityError, naming the file, where stored bytes are not those that were versioned.
        """
        known = [t for t in targets if (self.root / f"{t}.dvc").exists()]
        if known:
            try:
                self._with_remote("pull", *[f"{t}.dvc" for t in known])
            except BusyError:
                raise
            except ServiceError:
                require_available(self.root, known)
                raise
            require_recorded(self.root, known)

    def commit_dataset(self, targets: Sequence[str], message: str, now: datetime) -> str:
        """Version those `targets` that are there with DVC, commit, tag, and return the tag `data/YYYY-MM-DD-n`.

        Raises IntegrityError where a versioned file of a folder among them changed.
        """
        self.commit_files(targets, message)
        tag = next_tag(self.root, now)
        git("tag", "--annotate", tag, "-m", message, cwd=self.root)
        return tag

    def commit_files(self, targets: Sequence[str], message: str) -> str:
        """Version those `targets` that are there with DVC, commit, and return the commit: no new dataset version.

        Raises as `commit_dataset` does.
        """
        before = {target: listing_of(self.root, target) for target in targets}
        dvc("add", *[target for target in targets if (self.root / target).exists()], cwd=self.root)
        for target in targets:
            require_kept(before[target], listing_of(self.root, target), target)
        return commit_all(self.root, message)

    def commit(self, message: str) -> str:
        """Commit whatever changed and return the commit's hash."""
        return commit_all(self.root, message)

    def publish(self) -> None:
        """Push the data, then commit and tags in one atomic push.

        Raises ConflictError where `main` moved meanwhile: discard the clone and redo from a fresh one.
        """
        self._with_remote("push")
        try:
            git("push", "--quiet", "--atomic", "--follow-tags", "origin", "main", cwd=self.root)
        except ServiceError as error:
            if _lost_a_race(str(error)):
                raise ConflictError(f"{error}; somebody else pushed first: run it again") from error
            raise

    def _with_remote(self, *command: str) -> None:
        try:
            dvc(*command, cwd=self.root)
        except BusyError:
            raise
        except ServiceError as error:
            where = f"the DVC remote is {remote_url(self.root)}: see that it is there and reachable, and run this again"
            raise ServiceError(f"{error}; {where}") from error


def _lost_a_race(said: str) -> bool:
    """Return whether git refused a push since the branch or the tag is not as it was."""
    if "[remote rejected]" in said:  # a hook's no, or a lock that is held: not for that reason alone
        return "but expected" in said or "incorrect old value" in said
    return any(word in said for word in ("rejected", "fetch first", "non-fast-forward"))


@contextlib.contextmanager
def working_clone(*, origin: str, state: Path, name: str) -> Iterator[WorkspaceClone]:
    """Yield a fresh clone of `origin` under `state`/work; it is removed afterwards, whatever happened.

    The caller holds the workspace's lock, so whatever a killed run left there, files and processes, goes first. Raises
    ServiceError, before anything is done, where the origin or the DVC remote is not there.
    """
    work = state / "work"
    end_processes_in(work)
    shutil.rmtree(work, ignore_errors=True)
    root = work / name
    try:
        with naming_a_full_disk(work):
            work.mkdir(parents=True)
            _clone(origin, state, root)
            configure_dvc(root, state)
            remove_partial_objects([state / "dvc-cache", remote_folder(root)])
            newest = recorded_at(root, "HEAD", paths_of(root).manifest)
            if newest is not None:
                require_remote(root, newest)
            yield WorkspaceClone(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _clone(origin: str, state: Path, root: Path) -> None:
    if Path(origin).is_relative_to(state):  # nobody but this machine writes to it
        remove_stale_locks(Path(origin))
    try:
        git("clone", "--quiet", "--branch", "main", origin, str(root), cwd=root.parent)
    except ServiceError as error:
        raise ServiceError(
            f"{error}; {without_credentials(origin)} is where flows keep the workspace's versions, and nothing was "
            "done. Bring it back, or set WORKSPACE_GIT_URL to where it is now, and run this again"
        ) from error


@contextlib.contextmanager
def past_checkout(*, origin: str, state: Path, commit: str, targets: Sequence[str]) -> Iterator[Path]:
    """Yield a folder with the workspace as of `commit` and `targets`, its .dvc files or stages' outputs, to read from.

    No lock is needed: it is a clone of its own, and nothing of it is published. Images that were erased since are
    recalled in its manifest. A .dvc file that the commit does not have is passed over. Raises ServiceError where the
    commit or an output cannot be had.
    """
    state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PAST_PREFIX, dir=state) as temporary:
        root = Path(temporary) / "workspace"
        git("clone", "--quiet", "--no-checkout", origin, str(root), cwd=state)
        git("checkout", "--quiet", "--detach", commit, cwd=root)
        configure_dvc(root, state)
        _pull_past(root, targets)
        yield root


def _pull_past(root: Path, targets: Sequence[str]) -> tuple[str, ...]:
    """Bring `targets` of an old commit; return the ids of the images that were erased since."""
    of_dataset = wants(targets, paths_of(root))
    old = OldVersion.prepare(root) if of_dataset else None
    # Apart: of .dvc files and outputs in one call, DVC 3.67 silently leaves the files of the .dvc files out.
    files = [target for target in targets if target.endswith(".dvc")]
    there = [target for target in files if (root / target).exists()]
    for some in (there, [target for target in targets if target not in files]):
        if some:
            dvc("pull", *some, cwd=root)
    return old.finish() if old is not None else ()


def dataset_tags(root: Path) -> list[str]:
    """Return every dataset version of the repository at `root`, oldest first."""
    listed = git("tag", "--list", f"{TAG_PREFIX}*", "--sort=creatordate", cwd=root)
    return sorted(listed.split(), key=_tag_order) if listed else []


def latest_dataset(root: Path) -> str | None:
    """Return the newest dataset version, or None before the first ingest."""
    tags = dataset_tags(root)
    return tags[-1] if tags else None


def next_tag(root: Path, now: datetime) -> str:
    """Return the first free `data/YYYY-MM-DD-n` of that day."""
    day = f"{TAG_PREFIX}{now:%Y-%m-%d}-"
    taken = [int(tag.removeprefix(day)) for tag in dataset_tags(root) if tag.startswith(day)]
    return f"{day}{max(taken, default=0) + 1}"


def _tag_order(tag: str) -> tuple[str, int]:
    day, _, number = tag.rpartition("-")
    return day, int(number) if number.isdigit() else 0


def fast_forward(visible: Path, origin: str) -> bool:
    """Bring the folder people look at up to `main` of `origin`; return False, losing nothing, where it cannot follow.

    It has local changes, a git that works in it or died in it holds a lock, or there is no room: a log says so, and
    what was published is published. origin: where flows push to. The folder's own remote may be an older place, if the
    repository was moved since.
    """
    if not is_clean(visible):
        logger.warning("%s has local changes; left as it is. Later: git pull && dvc checkout", visible)
        return False
    try:
        git("fetch", "--quiet", "--tags", origin, "+refs/heads/main:refs/remotes/origin/main", cwd=visible)
        git("merge", "--quiet", "--ff-only", "origin/main", cwd=visible)
        dvc("checkout", "--allow-missing", cwd=visible)  # never --force: a person's edits are theirs
    except (ServiceError, NoSpaceError) as error:
        logger.warning("%s could not follow what is published; the next flow tries again: %s", visible, error)
        return False
    return True


def restore_dataset(root: Path, tag: str, targets: Mapping[str, Path]) -> tuple[str, ...]:
    """Write the dataset version `tag` out: `targets` maps a versioned path to where it goes.

    It comes as it was, byte for byte; where images were erased since, without them, and their ids are returned. Raises
    DataError for an unknown tag. The checked-out version of `root` stays as it is.
    """
    known = dataset_tags(root)
    if tag not in known:
        raise DataError(f"dataset version {tag!r} is unknown; known: {', '.join(known) or 'none'}")
    paths = paths_of(root)
    if wants(list(targets), paths) and file_at(root, "HEAD", record_of(paths)) is not None:
        return _restore_past(root, tag, targets)
    for path, destination in targets.items():
        dvc("get", "--rev", tag, "--out", str(destination), str(root), path, cwd=root)
    return ()


def _restore_past(root: Path, tag: str, targets: Mapping[str, Path]) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix=PAST_PREFIX, dir=root / ".dvc") as temporary:
        clone = Path(temporary) / "workspace"
        git("clone", "--quiet", "--no-checkout", str(root), str(clone), cwd=root)
        git("checkout", "--quiet", "--detach", tag, cwd=clone)
        shutil.copyfile(root / ".dvc" / "config.local", clone / ".dvc" / "config.local")
        gone = _pull_past(clone, [f"{path}.dvc" for path in targets])
        for path, destination in targets.items():
            copy = shutil.copytree if (clone / path).is_dir() else shutil.copyfile
            copy(clone / path, destination)  # a copy: what lies in the clone are links to DVC's cache
    return gone


def reproduce(root: Path, stage: str, echo: TextIO) -> None:
    """Run one stage of dvc.yaml if its dependencies changed; what the stage itself says goes to `echo` as it says it.

    root: a working clone's. A training that is killed keeps its whole epochs in the state, and goes on when it is run
    again.

    Raises BusyError where another DVC holds the lock, RefusedError where the stage refused (exit 3), else ServiceError
    with the stage's last line.
    """
    # Beside the folder of clones, which goes when a flow ends or the next one begins.
    environment = {TRAINING_STATES: str(root.resolve().parents[1] / "training"), **dvc_environment()}
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", stage],
        cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None  # noqa: S101  (asked for above)
    lines: list[str] = []
    with process:
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith((f"{stage}:", f"Stage '{stage}'")):  # DVC's own advice is for people at a prompt
                echo.write(line)
    if process.returncode == 0:
        return
    said = " ".join(lines[-12:])
    if "is busy" in said or "Unable to acquire lock" in said:
        raise BusyError(f"DVC in {root} is held by another process; try again when it has finished")
    own = next((line.removeprefix(f"{stage}: ") for line in reversed(lines) if line.startswith(f"{stage}: ")), None)
    kind = RefusedError if "exited with 3" in said else ServiceError
    raise kind(f"stage {stage!r} failed: {own or said[-500:]}")
