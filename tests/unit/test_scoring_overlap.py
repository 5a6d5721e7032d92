import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.scoring.overlap import ordered_map, read_ahead


class SourceError(Exception):
    pass


def at_work() -> list[str]:
    """The names of scoring's own threads that still run; other tests' libraries may have left theirs."""
    return [t.name for t in threading.enumerate() if t.name.startswith(("decode", "read", "infer"))]


def counted(log: list[int], total: int) -> Iterator[int]:
    try:
        for number in range(total):
            log.append(number)
            yield number
    finally:
        log.append(-1)


def test_read_ahead_keeps_order_and_runs_in_its_own_thread():
    names: set[str] = set()

    def source() -> Iterator[int]:
        for number in range(100):
            names.add(threading.current_thread().name)
            yield number

    assert list(read_ahead(source(), 3, "reader")) == list(range(100))
    assert names == {"reader"}


def test_read_ahead_is_at_most_depth_items_ahead():
    log: list[int] = []
    ahead = read_ahead(counted(log, 100), 3, "reader")
    for number in range(50):
        assert next(ahead) == number
        assert len(log) <= number + 1 + 3 + 1
    ahead.close()


def test_read_ahead_raises_the_sources_error_after_the_items_before_it():
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise SourceError("gone")

    ahead = read_ahead(source(), 1, "reader")
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(SourceError, match="gone"):
        next(ahead)


def test_closing_read_ahead_closes_the_source_and_joins_the_thread():
    log: list[int] = []
    stop = threading.Event()
    ahead = read_ahead(counted(log, 1_000_000), 2, "reader", stop)
    next(ahead)
    ahead.close()
    assert log[-1] == -1
    assert stop.is_set()
    assert at_work() == []


def test_ordered_map_keeps_order_whatever_finishes_first():
    second_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_done.wait(10)
        if number == 1:
            second_done.set()
        return number * number

    with ThreadPoolExecutor(2) as pool:
        assert list(ordered_map(pool, work, range(20), 4)) == [number * number for number in range(20)]


def test_ordered_map_never_begins_more_than_it_may():
    log: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda number: number, counted(log, 100), 4)
        for number in range(20):
            next(results)
            assert len(log) <= number + 4
        results.close()
    assert log[-1] == -1


def test_ordered_map_raises_the_functions_error_in_its_place():
    def work(number: int) -> int:
        if number == 3:
            raise SourceError("three")
        return number

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, work, range(10), 3)
        assert [next(results), next(results), next(results)] == [0, 1, 2]
        with pytest.raises(SourceError, match="three"):
            next(results)
