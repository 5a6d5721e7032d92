"""Bytes on their way into shards, a bounded number of them in memory."""

from __future__ import annotations

from pathlib import Path

from components.data.decoding.isolation import Checked
from components.data.shards import DESCRIBED_SCHEMA, ShardRow, write_shard


class ShardBuffer:
    """Collects images and writes a shard whenever `shard_bytes` of them have come together."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._rows: list[ShardRow] = []
        self._size = 0
        self._stored: list[str] = []
        self._before = {path.name for path in folder.glob("*")}
        self._shards: list[str] = []

    def add(self, image_id: str, content: bytes, checked: Checked) -> tuple[int, int]:
        """Take one usable image and return its place: a number that `shard` knows, and row."""
        place = (len(self._shards), len(self._rows))
        self._rows.append((image_id, content, checked.width, checked.height, checked.descriptor))
        self._size += len(content)
        if self._size >= self._shard_bytes:
            self.flush()
        return place

    def stored(self, shard: str, row: int) -> tuple[int, int]:
        """Return the place of an image that lies in a shard already."""
        if shard not in self._stored:
            self._stored.append(shard)
        return ~self._stored.index(shard), row

    def shard(self, number: int) -> str:
        """Return the name of the shard of a place's number, once `flush` has run."""
        return self._shards[number] if number >= 0 else self._stored[~number]

    def flush(self) -> None:
        """Write what is still in memory."""
        if self._rows:
            self._shards.append(write_shard(self._folder, self._rows, schema=DESCRIBED_SCHEMA))
            self._rows, self._size = [], 0

    def discard(self) -> None:
        """Remove every shard this buffer wrote, but none that was there before."""
        for shard in self._shards:
            if shard not in self._before:
                (self._folder / shard).unlink(missing_ok=True)
