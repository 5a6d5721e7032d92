"""Files read ahead of the one that is asked for: a cold disk, or a bucket, answers many requests as soon as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from components.data.sources.item import SourceEntry, SourceItem

THREADS = 8
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
    entries: Iterable[SourceEntry], find: Callable[[bytes], str | None] | None = None
) -> Iterator[SourceItem]:
    """Yield every file in its order, read, unless `find` knows the image that a file with its stamp held.

    Files that can be read apart from their source are read up to 32 MiB ahead, others when it is their turn.
    """
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
