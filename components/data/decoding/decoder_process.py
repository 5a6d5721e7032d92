"""The process that opens files from outside: it may hang, swell or crash, and takes nothing else with it.

Run by `components.data.decoding.isolation` alone, or by a module of its own for another answer than a verdict. It reads
framed batches of files from stdin and answers on stdout; which file it is at stands in shared memory, so that its end
tells which file ended it.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from components.data.decoding.decode import ImageLimits, ImageRejected, decode
from components.data.descriptor import descriptor

USABLE = struct.Struct("<BII")
"""Before a usable file's descriptor: 1, width, height."""
REFUSED = struct.Struct("<BHH")
"""Before a refused file's reason and detail: 0, and their lengths in bytes."""
COUNT = struct.Struct("<I")
"""Before a batch: how many files; their lengths follow, then their bytes."""
LENGTH = struct.Struct("<Q")
"""Before a batch's answers, and of one file: bytes."""
READY = b"ready"
PROGRESS_BYTES = 8

_MOST_DETAIL = 500
_MOST_WRITTEN = 1_000_000  # of standard error, by libraries that complain about every file

Answer = Callable[[Iterator[bytes]], bytes]
"""What a process makes of a batch of files; each is taken from the iterator when its turn has come."""


def main(arguments: list[str]) -> int:
    """Say of every file what it is. arguments: most bytes, most pixels, least side, and those of `serve`."""
    most_bytes, most_pixels, least_side = map(int, arguments[:3])
    limits = ImageLimits(most_bytes, most_pixels, least_side)
    serve(lambda contents: b"".join(_verdict(content, limits) for content in contents), arguments[3:])
    return 0


def serve(answer: Answer, arguments: list[str]) -> None:
    """Answer batches until stdin ends. arguments: seconds of computing a file, bytes of memory, number of a file."""
    seconds, memory, progress = map(int, arguments)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_WRITTEN, _MOST_WRITTEN))
    # The shell's Ctrl-C reaches every process of the group; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as answers, mmap.mmap(progress, PROGRESS_BYTES) as at:
        os.dup2(2, 1)  # what a library prints may not pass for an answer
        answers.write(READY)
        answers.flush()
        while (contents := _read_batch(sys.stdin.buffer)) is not None:
            said = answer(_in_turn(contents, at, seconds))
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(LENGTH.pack(len(said)) + said)
            answers.flush()


def _in_turn(contents: list[bytes], at: mmap.mmap, seconds: int) -> Iterator[bytes]:
    for number, content in enumerate(contents):
        at[:] = number.to_bytes(PROGRESS_BYTES, "little")
        # CPU time, not the clock's: on a busy machine a good image is not refused.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        yield content


def opened(content: bytes, open_one: Callable[[bytes], bytes]) -> bytes:
    """Return what `open_one` says of a file, or why it is refused, as REFUSED and two texts."""
    try:
        return open_one(content)
    except ImageRejected as rejected:
        reason, detail = rejected.reason.encode(), rejected.detail.encode(errors="replace")[:_MOST_DETAIL]
    except MemoryError:
        reason, detail = b"too-much-memory", b"decoding it needs more memory than one image may take"
    return REFUSED.pack(0, len(reason), len(detail)) + reason + detail


def _verdict(content: bytes, limits: ImageLimits) -> bytes:
    def look(content: bytes) -> bytes:
        image = decode(content, limits)
        return USABLE.pack(1, *image.size) + descriptor(image).tobytes()

    return opened(content, look)


def _read_batch(source: BinaryIO) -> list[bytes] | None:
    head = source.read(COUNT.size)
    if len(head) < COUNT.size:
        return None
    (count,) = COUNT.unpack(head)
    lengths = struct.unpack(f"<{count}Q", source.read(LENGTH.size * count))
    return [source.read(length) for length in lengths]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
