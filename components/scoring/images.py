"""The image store: the pixels behind logged predictions, kept in immutable monthly shards on any fsspec URL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from datetime import date

from components.data.shards import ShardReader, write_shard
from components.errors import IntegrityError, ServiceError

_SHARD = re.compile(r"\d{4}-\d{2}/[A-Za-z0-9][A-Za-z0-9._-]*\.arrow")
_REMEDY = "bring it back from a backup of the image store"
_MONTH = re.compile(r"\d{4}-\d{2}")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def shard_name(month: date, batch_id: str, chunk: int) -> str:
    """Return where chunk number `chunk` of a batch keeps its pixels, as in `2026-10/BATCH-00003.arrow`.

    A batch id that is not a plain file name is replaced by its sha256: a caller's key must not choose a path.
    """
    key = batch_id if _PLAIN_KEY.fullmatch(batch_id) else hashlib.sha256(batch_id.encode()).hexdigest()
    return f"{month:%Y-%m}/{key}-{chunk:05d}.arrow"


class ImageStore:
    """Shards by month under one folder or fsspec URL. May be used from several threads."""

    def __init__(self, url: str) -> None:
        """Keep shards under `url`: a path, `file://…`, `s3://bucket/prefix` or any other fsspec URL."""
        self.url = url
        self._reader = ShardReader(url, _REMEDY)

    def put(self, shard: str, rows: Iterable[tuple[str, bytes]]) -> None:
        """Write (image_id, content) `rows` as `shard`, whole or not at all; one of the same name is replaced.

        Raises ServiceError where the store cannot be written.
        """
        try:
            write_shard(self.url, rows, name=_checked(shard))
        except OSError as error:
            raise ServiceError(
                f"image store {self.url}: shard {shard} cannot be written ({error}); make room or check the store's "
                "URL, then score the batch again: it goes on where it stopped"
            ) from error

    def get(self, shard: str, row: int, image_id: str | None = None) -> bytes:
        """Return the encoded image in a row of a shard.

        Raises IntegrityError if the shard or the row is missing, or if `image_id` is given and is not the sha256 of
        the bytes found.
        """
        if image_id is None:
            return self._reader.read(_checked(shard), row)
        return self._reader.read_verified(_checked(shard), row, image_id)

    def holds(self, shard: str) -> bool:
        """Return whether a shard is still stored."""
        import fsspec

        system, path = fsspec.core.url_to_fs(f"{self.url.rstrip('/')}/{_checked(shard)}")
        return bool(system.exists(path))

    def shards_of(self, month: date, batch_id: str) -> list[str]:
        """Return the shards that a batch has stored so far, whether rows name them or not."""
        import fsspec

        first = shard_name(month, batch_id, 0)
        pattern = first.removesuffix("00000.arrow")
        system, folder = fsspec.core.url_to_fs(f"{self.url.rstrip('/')}/{month:%Y-%m}")
        if not system.exists(folder):
            return []
        names = (f"{month:%Y-%m}/{str(entry).rsplit('/', 1)[-1]}" for entry in system.ls(folder, detail=False))
        return sorted(name for name in names if re.fullmatch(rf"{re.escape(pattern)}\d{{5,}}\.arrow", name))

    def erase(self, shard: str, image_ids: Collection[str]) -> int:
        """Write a shard anew with nothing in the place of these images; return how many lost their bytes.

        Every other row keeps its number, so whatever names it goes on finding it. A shard that is gone has none.
        Raises ServiceError where the store cannot be written; then the shard is as it was.
        """
        if not self.holds(shard):
            return 0
        reader = ShardReader(self.url, _REMEDY)
        ids = reader.column(shard, "image_id")
        there = [] if ids is None else ids.to_pylist()
        doomed = {row for row, image_id in enumerate(there) if image_id in image_ids and reader.read(shard, row)}
        if doomed:
            rows = ((name, b"" if row in doomed else reader.read(shard, row)) for row, name in enumerate(there))
            self.put(shard, rows)
            self._reader = ShardReader(self.url, _REMEDY)  # the old one may hold the old shard open
        return len(doomed)

    def months(self) -> list[date]:
        """Return the first days of the months that hold shards, oldest first."""
        import fsspec

        system, root = fsspec.core.url_to_fs(self.url)
        if not system.exists(root):
            return []
        names = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in system.ls(root, detail=False))
        return sorted(date.fromisoformat(f"{name}-01") for name in names if _MONTH.fullmatch(name))

    def delete_month(self, month: date) -> bool:
        """Delete a month's shards; return whether there were any. Predictions keep their numbers, lose the picture."""
        import fsspec

        system, folder = fsspec.core.url_to_fs(f"{self.url.rstrip('/')}/{month:%Y-%m}")
        if not system.exists(folder):
            return False
        system.rm(folder, recursive=True)
        self._reader = ShardReader(self.url, _REMEDY)  # the old one may hold deleted shards open
        return True


def _checked(shard: str) -> str:
    if _SHARD.fullmatch(shard) is None:
        raise IntegrityError(f"image-store shard {shard!r} is not named MONTH/BATCH-CHUNK.arrow; we wrote no such file")
    return shard
