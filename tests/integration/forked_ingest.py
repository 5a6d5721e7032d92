"""Run ingests in forked children that are killed at a named step, or find a limit on the size of files.

The protocol is that of `forked_operations.py`. Every child leads a process group of its own; a deadly step kills all of
the group, as a stopped container or a machine that loses its power does: git and DVC too. DVC runs as its own command
line in a further fork, since most of a DVC command is the import of DVC.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from components.data import manifest, shards
from components.data.decoding import isolation
from components.data.ingestion import checking, shard_buffer
from components.data.versioning import versions
from components.errors import PerennialError
from components.operations import ingestion
from components.operations.services import Services, open_services
from components.settings import Settings

Job = dict[str, Any]

_IMPORTED_LATE = (  # what an ingest and DVC's commands import when they run: here once, for all children
    "configobj", "dulwich.porcelain", "dulwich.worktree", "dvc._debug", "dvc.cachemgr", "dvc.cli.parser",
    "dvc.data_cloud", "dvc.dirs", "dvc.repo.artifacts", "dvc.repo.brancher", "dvc.repo.datasets", "dvc.repo.graph",
    "dvc.repo.index", "dvc.repo.metrics", "dvc.repo.open_repo", "dvc.repo.params", "dvc.repo.plots", "dvc.repo.stage",
    "dvc.repo.trie", "dvc.repo.worktree", "dvc.rwlock", "dvc.scm", "dvc.types", "dvc.utils.strictyaml",
    "dvc_data.hashfile._progress", "dvc_data.hashfile.db.index", "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.status", "dvc_data.index.checkout", "dvc_data.index.collect", "dvc_data.index.fetch",
    "dvc_data.index.push", "dvc_render", "fsspec.implementations.memory", "networkx", "pandas", "platformdirs.unix",
    "psycopg2", "pyparsing", "rich.markup", "rich.status", "rich.text", "ruamel.yaml", "scipy.spatial",
    "sqlalchemy.dialects.postgresql", "unittest",
)  # fmt: skip
_HALF_A_SHARD = 4096


def die() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("still alive")


def always(*_: Any) -> bool:
    return True


def before(owner: Any, name: str, wanted: Callable[..., bool] = always, then: Callable[[], None] = die) -> None:
    """Let `then` happen before a wanted call of `owner.name`."""
    real = getattr(owner, name)

    def disturbed(*arguments: Any, **named: Any) -> Any:
        if wanted(*arguments):
            then()
        return real(*arguments, **named)

    setattr(owner, name, disturbed)


def after(owner: Any, name: str, wanted: Callable[..., bool] = always, then: Callable[[], None] = die) -> None:
    """Let `then` happen after a wanted call of `owner.name`."""
    real = getattr(owner, name)

    def disturbed(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        if wanted(*arguments):
            then()
        return result

    setattr(owner, name, disturbed)


def lose(folder: Path) -> None:
    """Let a folder be gone, and nothing take its place."""
    folder.rename(folder.with_name("moved-away"))
    folder.touch()


def flip_in_clone(root: Path, pattern: str) -> None:
    """Flip a byte in the middle of a file of the clone that is under way."""
    path = sorted((root / ".perennial" / "work" / "ingest").glob(pattern))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def in_the_middle_of(owner: Any, name: str, given: int) -> None:
    """Die when one thing more than so many is asked for of what `owner.name` gives one by one."""
    real = getattr(owner, name)

    def deadly(*arguments: Any, **named: Any) -> Iterator[Any]:
        for number, each in enumerate(real(*arguments, **named)):
            if number == given:
                die()
            yield each

    setattr(owner, name, deadly)


def with_the_second_object(command: str) -> Callable[[], None]:
    """Die when DVC's `command` has copied an object and half of the next."""

    def prepare() -> None:
        if command not in sys.argv:
            return
        from dvc_objects.fs import local

        real, copied = local.copyfile, []

        def copy(source: str, target: str, **named: Any) -> None:
            if copied:
                Path(target).write_bytes(Path(source).read_bytes()[:100])
                die()
            copied.append(real(source, target, **named))

        local.copyfile = copy

    return prepare


def asked(*words: str) -> Callable[..., bool]:
    return lambda *arguments: arguments[: len(words)] == words


def prepare_death(step: str) -> None:
    """Let this process, or DVC in a child of it, die at the step."""
    {
        "a source is read": lambda: in_the_middle_of(ingestion, "open_source", 50),
        "a shard is half written": lambda: (
            setattr(shards, "_BATCH_BYTES", _HALF_A_SHARD), in_the_middle_of(shards, "_parts", 2)
        ),
        "a shard is closed": lambda: after(shard_buffer, "write_shard"),
        "the manifest is written, not replaced": lambda: before(manifest, "publish"),
        "the manifest is replaced": lambda: after(manifest, "publish"),
        "dvc add has half an object": lambda: dvc_preparations.append(with_the_second_object("add")),
        "dvc add is done": lambda: after(versions, "dvc", asked("add")),
        "the commit is made": lambda: after(versions, "commit_all"),
        "the tag is made": lambda: after(versions, "git", asked("tag", "--annotate")),
        "dvc push has half an object": lambda: dvc_preparations.append(with_the_second_object("push")),
        "the origin has locked its branch": lambda: None,  # by a hook of the origin
        "git push is done": lambda: after(versions, "git", asked("push")),
        "the visible folder has the commit, not the data": lambda: after(versions, "git", asked("merge")),
        "the ledger is to be written": lambda: before(ingestion, "record"),
        "the ledger is written": lambda: after(ingestion, "record"),
    }[step]()  # fmt: skip


dvc_preparations: list[Callable[[], None]] = []


def run(command: list[str], **named: Any) -> subprocess.CompletedProcess[str]:
    """Do what subprocess.run does; DVC is forked."""
    if command[1:3] != ["-m", "dvc"]:
        return subprocess.run(command, check=False, **named)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if not pid:
            become_dvc(command[3:], named["cwd"], named["env"], out.fileno(), err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def become_dvc(arguments: list[str], cwd: Path, environment: dict[str, str], out: int, err: int) -> NoReturn:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["dvc", *arguments]
        warnings.simplefilter("ignore")
        for prepare in dvc_preparations:
            prepare()
        from dvc.cli import main

        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # the end of a process
        traceback.print_exc()
    os._exit(code)


def ingest(services: Services, job: Job) -> Any:
    return ingestion.ingest_source(services, job["source"], add_classes=(), now=datetime.fromisoformat(job["at"]))


def start(job: Job) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    versions.subprocess = SimpleNamespace(run=run)  # type: ignore[assignment]
    isolation.available_cores = lambda: 1
    checking._PART_FILES = 4  # a source of this size is under way in several parts too
    if job.get("most_bytes"):
        limit = (job["most_bytes"], resource.RLIM_INFINITY)
        after(versions.WorkspaceClone, "pull", then=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    if job.get("lose_remote"):
        before(versions, "dvc", asked("push"), then=lambda: lose(Path(job["lose_remote"])))
    if job.get("flip"):
        after(versions.WorkspaceClone, "pull", then=lambda: flip_in_clone(Path(job["root"]), job["flip"]))
    if job.get("die_at"):
        prepare_death(job["die_at"])
    code, result = 0, None
    try:
        settings = Settings(database_url=job["database_url"], mlflow_tracking_uri="sqlite:///unused")
        with open_services(Path(job["root"]), settings) as services:
            result = ingest(services, job)
    except PerennialError as error:
        code, result = error.exit_code, {"error": type(error).__name__, "said": str(error)}
    except BaseException:  # the end of a process
        code, result = 70, {"error": "unforeseen", "said": traceback.format_exc()}
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Path(job["result"]).write_text(json.dumps(result, default=str), encoding="utf-8")
    os._exit(code)


def main() -> None:
    import PIL.Image

    PIL.Image.init()
    for name in _IMPORTED_LATE:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        children = [start(job) for job in json.loads(line)]
        print(json.dumps(children), flush=True)  # noqa: T201
        sys.stdin.readline()
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
