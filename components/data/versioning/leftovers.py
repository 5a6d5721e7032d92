"""What a killed process leaves: stages that still run in a clone that nobody will read, and halves of DVC's objects."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil

WAIT_SECONDS = 10.0
ABANDONED_SECONDS = 3600.0
"""Nobody writes any more to a file that has not grown for so long."""

logger = logging.getLogger(__name__)


def end_processes_in(folder: Path) -> int:
    """Kill this interpreter's processes that work in `folder` or below it, and return how many there were.

    Call under the lock that guards the folder: then nobody else's are there. Other programs, say the shell of a person
    who looks around in it, are left alone.
    """
    folder = folder.resolve()
    return end_processes(lambda process: Path(process.cwd()).is_relative_to(folder), f"in {folder}")


def end_processes(left_over: Callable[[psutil.Process], bool], where: str) -> int:
    """Kill this interpreter's processes that `left_over` says are, with their children; return how many there were."""
    found = list(_our_processes(left_over))
    for process in found:
        logger.warning("process %d was left running %s; it is ended", process.pid, where)
        for each in (process, *_children(process)):
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
    psutil.wait_procs(found, timeout=WAIT_SECONDS)
    return len(found)


def runs_this_interpreter(process: psutil.Process) -> bool:
    """Return whether a process is one of this Python; one that we may not look at is not."""
    try:
        return Path(process.exe()).resolve() == Path(sys.executable).resolve()
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return False


def _our_processes(left_over: Callable[[psutil.Process], bool]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if runs_this_interpreter(process) and left_over(process):
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def remove_partial_objects(stores: Iterable[Path | None]) -> list[Path]:
    """Remove what killed or failed DVC commands left half copied an hour ago or longer, and return it.

    stores: folders that hold objects, DVC's cache or its remote; None is passed over.
    """
    oldest = time.time() - ABANDONED_SECONDS
    removed = []
    for store in stores:
        if store is None:
            continue
        for path in (store / "files" / "md5").glob("*/.*.tmp"):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    removed.append(path)
            except OSError as error:  # its writer was quicker; or a shared remote keeps it
                logger.info("%s is left: %s", path, error)
    return removed
