"""Ctrl-C that is always heard: Python drops one that falls into a finalizer while garbage is collected."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.05

_collecting = False


def hear_interrupts() -> None:
    """Put off an interrupt that comes while garbage is collected, for a moment; one that is ignored stays ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    if _note_collection not in gc.callbacks:
        gc.callbacks.append(_note_collection)
    signal.signal(signal.SIGINT, _interrupt)


@contextmanager
def interrupts_of_asyncio() -> Iterator[None]:
    """Give Ctrl-C back to Python within: an event loop ends its tasks in order only where it finds Python's handler."""
    if signal.getsignal(signal.SIGINT) is not _interrupt:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _interrupt)


def _note_collection(phase: str, _: dict[str, Any]) -> None:
    global _collecting  # noqa: PLW0603 - the interpreter's own state
    _collecting = phase == "start"


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _collecting:
        signal.default_int_handler(number, frame)
    again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()
