"""How many threads decode images, and which of them may at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

# Of images with fewer bytes than that, most of the decoding is Python: two threads at it take turns image by image,
# each turn costs more than an image, and together they are slower than one.
SMALL_BYTES = 2048


class DecodingTurns:
    """Turns for the threads of one task: pieces of small images one at a time, pieces of large ones all at once."""

    def __init__(self) -> None:
        self._one = threading.Lock()

    def turn(self, contents: Sequence[bytes]) -> AbstractContextManager[object]:
        """Return what to hold while decoding these files."""
        small = sum(map(len, contents)) < SMALL_BYTES * len(contents)
        return self._one if small else nullcontext()


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
