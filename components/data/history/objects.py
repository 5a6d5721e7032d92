"""What DVC keeps of a workspace: objects named by their MD5, in this machine's cache and in the remote.

DVC's commands fetch and remove by workspace and commit; no command reads or removes one object. So this module, alone,
lays its hands on the cache's files, whose layout DVC documents, and, for the remote, on DVC's own object store.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.data.files import publish, unpublished
from components.errors import DataError, IntegrityError, ServiceError

DIRECTORY = ".dir"


class DataObjects:
    """The objects of one workspace. checkout: a folder with its `.dvc`, whose settings say where they lie.

    cache: this machine's; it is read and written as files. The remote is connected to when it is first needed.
    """

    def __init__(self, checkout: Path, cache: Path) -> None:
        self.checkout, self.cache = checkout, cache

    @classmethod
    def of(cls, checkout: Path) -> DataObjects:
        """Return the objects of a checkout as `configure_dvc` set it up."""
        local = configparser.ConfigParser(interpolation=None)
        local.read(checkout / ".dvc" / "config.local", encoding="utf-8")
        return cls(checkout, Path(local.get("cache", "dir", fallback=str(checkout / ".dvc" / "cache"))))

    def cached(self, md5: str) -> Path:
        """Return where the cache keeps an object, or would."""
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def file(self, md5: str) -> Path:
        """Return the cache's file of an object, brought from the remote if it is not there.

        Raises DataError where neither has it, IntegrityError where the remote's is not what its name says.
        """
        path = self.cached(md5)
        if not path.is_file():
            self.restore(md5)
        return path

    def restore(self, md5: str) -> None:
        """Bring an object from the remote, in the place of what the cache has of it. Raises as `file` does."""
        with self._remote() as remote:
            try:
                content = remote.fs.cat_file(remote.oid_to_path(md5))
            except FileNotFoundError as error:
                raise DataError(f"object {md5} is neither sound in {self.cache} nor in the DVC remote") from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5.removesuffix(DIRECTORY):
            raise IntegrityError(
                f"object {md5} of the DVC remote holds other bytes; `perennial doctor --restore` on a machine that has "
                "this version mends a remote that is a folder, else restore the object from a backup"
            )
        self._keep(self.cached(md5), content)

    def folder(self, md5: str) -> dict[str, str]:
        """Return the files of a versioned folder, as {relative path: MD5}. Raises DataError as `file` does."""
        entries = json.loads(self.file(md5).read_bytes())
        return {entry["relpath"]: entry["md5"] for entry in entries}

    def add_folder(self, files: Mapping[str, str]) -> str:
        """Put the listing of a folder made of known objects into the cache, and return its name."""
        entries = [{"md5": files[path], "relpath": path} for path in sorted(files)]
        content = json.dumps(entries, sort_keys=True).encode()
        name = hashlib.md5(content, usedforsecurity=False).hexdigest() + DIRECTORY
        if not self.cached(name).is_file():
            self._keep(self.cached(name), content)
        return name

    def in_cache(self, names: Iterable[str]) -> dict[str, int]:
        """Return the bytes of those objects that the cache has, by name."""
        return {name: self.cached(name).stat().st_size for name in names if self.cached(name).is_file()}

    def in_remote(self, names: Collection[str]) -> dict[str, int]:
        """Return the bytes of those objects that the remote has, by name."""
        if not names:
            return {}
        with self._remote() as remote:
            paths = {name: remote.oid_to_path(name) for name in names}
            return {name: int(remote.fs.info(path)["size"]) for name, path in paths.items() if remote.fs.exists(path)}

    def folders(self) -> list[Path]:
        """Return where objects lie as files on this machine: the cache, and the remote where it is a folder."""
        with self._remote() as remote:
            remote_too = [Path(remote.path)] if remote.fs.protocol == "local" else []
        return [self.cache / "files" / "md5", *remote_too]

    def remove_from_remote(self, names: Collection[str]) -> None:
        """Remove exactly these objects from the remote; those not there are passed over.

        Versions that hold them can then only be restored without them: see `components.data.erasure`.
        """
        if not names:
            return
        with self._remote() as remote:
            for name in names:
                path = remote.oid_to_path(name)
                if remote.fs.exists(path):
                    remote.fs.remove(path)

    def remove_from_cache(self, names: Collection[str]) -> None:
        """Remove exactly these objects from this machine's cache; those not there are passed over."""
        for name in names:
            self.cached(name).unlink(missing_ok=True)

    def _keep(self, path: Path, content: bytes) -> None:
        with unpublished(path.parent) as (file, temporary):
            file.write(content)
            os.fchmod(file.fileno(), 0o444)  # as DVC has it: its files are links to these
            publish(file, temporary, path)

    @contextmanager
    def _remote(self) -> Iterator[Any]:
        """Yield DVC's object store of the remote, with the credentials that DVC's settings name."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            with Repo(str(self.checkout)) as repo:
                yield repo.cloud.get_remote_odb()
        except FileNotFoundError:
            raise
        except (DvcException, OSError) as error:
            said = " ".join(str(error).split())
            raise ServiceError(
                f"the DVC remote of {self.checkout} failed: {said}; check `dvc remote list` and its credentials"
            ) from error
