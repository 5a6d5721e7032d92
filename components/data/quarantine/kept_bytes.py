"""Bytes of quarantined files, one object each under the SHA-256 of its content, in any fsspec folder; not versioned.

A file that was refused for a limit set too low is good data, and its source may be gone when the limit is raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from components.data.quarantine.register import LEAST_COUNTED, Register
from components.errors import ServiceError


class KeptBytes:
    """The objects below one folder or fsspec URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def put(self, image_id: str, content: bytes) -> None:
        """Keep a file. Raises ServiceError where the store cannot be written."""
        import fsspec

        system, path = fsspec.core.url_to_fs(f"{self.url}/{_place(image_id)}")
        try:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, content)
        except OSError as error:
            raise ServiceError(
                f"{self.url}: a quarantined file cannot be kept ({error}); make room, check the store's URL, or set "
                "data.quarantine_bytes to 0, then ingest again"
            ) from error

    def get(self, image_id: str) -> bytes | None:
        """Return a file's bytes, None where it is not kept, or what is there is not it."""
        import fsspec

        system, path = fsspec.core.url_to_fs(f"{self.url}/{_place(image_id)}")
        try:
            content: bytes = system.cat_file(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ServiceError(f"{self.url} cannot be read ({error}); check the store's URL and try again") from error
        return content if hashlib.sha256(content).hexdigest() == image_id else None

    def remove(self, image_ids: Collection[str]) -> int:
        """Remove these files; return how many there were."""
        import fsspec

        removed = 0
        for image_id in sorted(image_ids):
            system, path = fsspec.core.url_to_fs(f"{self.url}/{_place(image_id)}")
            if system.exists(path):
                system.rm_file(path)
                removed += 1
        return removed

    def remove_others(self, image_ids: Collection[str]) -> int:
        """Remove every file but these, such as those of an ingest that was killed; return how many there were."""
        import fsspec

        system, root = fsspec.core.url_to_fs(self.url)
        if not system.exists(root):
            return 0
        wanted = set(image_ids)
        others = [path for path in system.find(root) if path.rpartition("/")[2] not in wanted]
        for path in others:
            system.rm_file(path)
        return len(others)


class Keeper:
    """Keeps files for as long as there is room: `most` bytes over all that the register tells of and come now."""

    def __init__(self, store: KeptBytes | None, most: int, register: Register) -> None:
        self._store = store
        self._kept = register.kept()
        self._room = most - sum(max(size, LEAST_COUNTED) for size in self._kept.values())

    def keep(self, image_id: str, content: bytes) -> int:
        """Keep a file if there is room; return how many bytes are kept of it: all or none."""
        size = self._kept.get(image_id, 0)
        if size or self._store is None or not content or self._room < max(len(content), LEAST_COUNTED):
            return size
        self._store.put(image_id, content)
        self._kept[image_id] = len(content)
        self._room -= max(len(content), LEAST_COUNTED)
        return len(content)


def _place(image_id: str) -> str:
    return f"{image_id[:2]}/{image_id}"
