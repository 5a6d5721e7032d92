"""Two small ways to let stages of a pipeline overlap, in order, with bounded memory and a clean end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing a producer hands over: how it ended."""

    error: BaseException | None


def ordered_map(
    pool: Executor, function: Callable[[T], R], source: Iterable[T], ahead: int
) -> Generator[R, None, None]:
    """Yield `function(x)` for every x of `source`, in its order, with at most `ahead` calls begun and not yet yielded.

    An error of `source` or `function` is raised where its result would have come. Closing cancels what has not begun.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in source:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        _close(source)


def read_ahead(
    source: Iterable[T], depth: int, name: str, stop: threading.Event | None = None
) -> Generator[T, None, None]:
    """Yield the items of `source`, which runs in a thread called `name` and is at most `depth` items ahead.

    An error of `source` is raised here, after the items before it. Closing sets `stop`, which a source that takes long
    over one item may watch, stops the thread at its next item, closes `source` in that thread and waits for it.
    """
    ready: SimpleQueue[T | _End] = SimpleQueue()
    free = threading.Semaphore(depth)
    stop = stop or threading.Event()
    # A daemon: a generator nobody closed (its frame may live on in a traceback) must not keep the process from ending.
    thread = threading.Thread(target=_produce, args=(source, ready, free, stop), name=name, daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            free.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        free.release()
        thread.join()


def _produce(
    source: Iterable[T], ready: SimpleQueue[T | _End], free: threading.Semaphore, stop: threading.Event
) -> None:
    try:
        for item in source:
            free.acquire()
            if stop.is_set():
                break
            ready.put(item)
        _close(source)
    except BaseException as error:  # every kind: it is raised again in the consumer's thread
        ready.put(_End(error))
    else:
        ready.put(_End(None))


def _close(source: Iterable[T]) -> None:
    if isinstance(source, Generator):
        source.close()
