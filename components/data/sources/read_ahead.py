"""Files read ahead of the one that is asked for, where each takes long: a bucket answers many requests as soon as one.

Files that come quickly are read one by one: threads that hand small files over would cost more than they save (measured
on a local disk, 10 to 80 %).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from components.data.sources.item import SourceEntry, SourceItem

THREADS = 8
SLOW_SECONDS = 0.001
_LATEST, _MOST_QUICK = 16, 4  # of the latest files, how many may be quick where reading is slow
_PART_FILES = 16
_PART_BYTES = 256 * 1024
_MOST_PARTS = 4 * THREADS
_MOST_BYTES = 32 * 1024 * 1024
_UNKNOWN = 1024 * 1024  # what a file of unknown size counts


class _Part:
    """Some files in a row; those that are read are read together, by one thread."""

    def __init__(self) -> None:
        self.files: list[SourceEntry | SourceItem] = []
        self.bytes = 0
        self.reading: Future[list[SourceItem]] | None = None

    def add(self, file: SourceEntry | SourceItem) -> None:
        self.files.append(file)
        if isinstance(file, SourceEntry):
            self.bytes += _UNKNOWN if file.size is None else max(file.size, 1)

    def is_full(self) -> bool:
        return len(self.files) >= _PART_FILES or self.bytes >= _PART_BYTES

    def start(self, pool: ThreadPoolExecutor) -> None:
        if self.bytes:
            self.reading = pool.submit(self.read)

    def read(self) -> list[SourceItem]:
        return [file.item() if isinstance(file, SourceEntry) else file for file in self.files]

    def items(self) -> list[SourceItem]:
        """Return the files, read; an error of reading one is raised here."""
        return self.read() if self.reading is None else self.reading.result()


def read_items(
    entries: Iterable[SourceEntry],
    find: Callable[[bytes], str | None] | None = None,
    *,
    slow_seconds: float = SLOW_SECONDS,
) -> Iterator[SourceItem]:
    """Yield every file in its order, read, unless `find` knows the image that a file with its stamp held.

    Once most of the latest files took `slow_seconds` or more, those that can be read apart from their source are read
    up to 32 MiB ahead; others always when it is their turn. slow_seconds: 0 reads ahead from the first file on.
    """
    latest = deque[bool](maxlen=_LATEST)
    pending = iter(entries)
    if slow_seconds > 0:
        for entry in pending:
            start = time.perf_counter()
            item = entry.item(find)
            if entry.apart and item.image_id is None:
                latest.append(time.perf_counter() - start >= slow_seconds)
            yield item
            if len(latest) == _LATEST and latest.count(False) <= _MOST_QUICK:
                break
    yield from _read_ahead(pending, find)


def _read_ahead(entries: Iterator[SourceEntry], find: Callable[[bytes], str | None] | None) -> Iterator[SourceItem]:
    waiting: deque[_Part] = deque()
    ahead, part = 0, _Part()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read-ahead")
    try:
        for entry in entries:
            if not entry.apart:
                for earlier in (*waiting, part):
                    yield from earlier.items()
                waiting.clear()
                ahead, part = 0, _Part()
                yield entry.item(find)
                continue
            read = entry.problem is None and entry.known(find) is None
            part.add(entry if read else entry.item(find))
            if part.is_full():
                part.start(pool)
                waiting.append(part)
                ahead, part = ahead + part.bytes, _Part()
            while len(waiting) > _MOST_PARTS or ahead > _MOST_BYTES:
                first = waiting.popleft()
                ahead -= first.bytes
                yield from first.items()
        for last in (*waiting, part):
            yield from last.items()
    finally:
        pool.shutdown(cancel_futures=True)
