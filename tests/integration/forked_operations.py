"""Run operations in forked children, so that a test can kill one at any moment without paying for its imports.

Each line read is a JSON list of jobs, which are started together. Two lines are written: the children's process ids,
and, once "reap" was read, their exit codes (a negative one is the signal it died of). A child that succeeds leaves its
result as JSON in the file that its job names. Until they are reaped, no process id can become somebody else's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from components.operations.batches import score_source
from components.operations.monitoring.judging import monitor_window
from components.operations.services import Services, open_services
from components.settings import Settings

Job = dict[str, Any]


def score(services: Services, job: Job) -> Any:
    return score_source(services, job["source"], batch_id=job["batch"], now=datetime.fromisoformat(job["at"]))


def monitor(services: Services, job: Job) -> Any:
    return monitor_window(services, job["window"], now=datetime.fromisoformat(job["at"]))


def erase(services: Services, job: Job) -> Any:
    """Recall an image and erase it; `die_before` names the step that the process does not live to see."""
    from components.operations.erasure import erasing, recall

    if job.get("die_before"):
        kill_before(job["die_before"])
    now = datetime.fromisoformat(job["at"])
    told = {"actor": "ann", "reason": "asked for", "now": now}
    recall.recall(services, [job["image_id"]], purge=True, **told)
    return erasing.erase(services, [job["image_id"]], **told)


def kill_before(step: str) -> None:
    from components.data.erasure import rewriting
    from components.data.history.objects import DataObjects
    from components.data.manifest import Manifest
    from components.data.versioning import versions
    from components.operations import ingestion
    from components.operations.erasure import erasing
    from components.scoring.images import ImageStore
    from components.store import recalls

    owner, name = {
        "tasks are withdrawn": (recalls, "recall"),
        "a shard is written": (rewriting, "write_shard"),
        "the manifest is written": (Manifest, "write"),
        "the version is committed": (versions.WorkspaceClone, "commit_dataset"),
        "the data is pushed": (versions.WorkspaceClone, "publish"),
        "the commit is pushed": (versions, "git"),
        "the visible folder follows": (ingestion, "fast_forward"),
        "versions are noted": (recalls, "set_recalled_in"),
        "pictures are emptied": (ImageStore, "erase"),
        "pages are removed": (erasing, "_remove_pages"),
        "the remote is emptied": (DataObjects, "remove_from_remote"),
        "the cache is emptied": (DataObjects, "remove_from_cache"),
        "the end is noted": (recalls, "set_erased"),
    }[step]
    real = getattr(owner, name)

    def deadly(*arguments: Any, **named: Any) -> Any:
        if name != "git" or arguments[0] == "push":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(owner, name, deadly)


OPERATIONS: dict[str, Callable[[Services, Job], Any]] = {"score": score, "monitor": monitor, "erase": erase}


def start(job: Job, gate: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.close(gate[1])
    os.read(gate[0], 1)  # ends when the parent closes the other end: all children go at once
    with open_services(Path(job["root"]), Settings(database_url=job.get("database_url"))) as services:
        result = OPERATIONS[job["operation"]](services, job)
    Path(job["result"]).write_text(json.dumps(result, default=str), encoding="utf-8")
    os._exit(0)


def main() -> None:
    import onnxruntime  # noqa: F401  (imported once here, not in every child)
    import PIL.Image

    PIL.Image.init()
    for line in sys.stdin:
        gate = os.pipe()
        children = [start(job, gate) for job in json.loads(line)]
        os.close(gate[0])
        os.close(gate[1])
        print(json.dumps(children), flush=True)  # noqa: T201
        sys.stdin.readline()
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
