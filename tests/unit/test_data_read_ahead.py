"""Files read ahead: in their order, within bounds, and as if they had been read one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.sources import read_ahead
from components.data.sources.item import Content, SourceEntry
from components.data.sources.read_ahead import THREADS
from components.errors import DataError

MEBIBYTE = 1024 * 1024

read_items = partial(read_ahead.read_items, slow_seconds=0)


def entry(
    number: int, read: Callable[[], Content] | None = None, *, apart: bool = True, size: int | None = 1, **more: object
) -> SourceEntry:
    def content() -> Content:
        return b"%d" % number, None

    return SourceEntry(str(number), read or content, size, apart=apart, **more)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([None, 1, 100_000, 9 * MEBIBYTE]), st.booleans()), max_size=80)
)
def test_files_come_as_if_they_were_read_one_by_one(files: list[tuple[bool, int | None, bool]]) -> None:
    entries = [
        entry(n, apart=apart, size=size, stamp=b"%d" % n, problem="symlink" if n % 7 == 6 else None)
        for n, (apart, size, _) in enumerate(files)
    ]
    seen = {b"%d" % n: f"{n:064x}" for n, (_, _, known) in enumerate(files) if known}
    expected = [one.item(seen.get) for one in entries]
    found = list(read_items(iter(entries), seen.get))
    assert [(i.name, i.content, i.problem, i.image_id) for i in found] == [
        (i.name, i.content, i.problem, i.image_id) for i in expected
    ]


def test_a_file_that_must_be_read_in_its_turn_is_read_before_the_next_is_asked_for() -> None:
    current: list[int] = []

    def entries() -> Iterator[SourceEntry]:
        for number in range(40):
            current[:] = [number]
            yield entry(number, lambda n=number: (b"right" if current == [n] else b"late", None), apart=number % 5 > 2)

    late = [int(item.name) for item in read_items(entries()) if item.content == b"late"]
    assert all(number % 5 > 2 for number in late)
    assert late


def test_many_files_are_read_at_once() -> None:
    together = threading.Barrier(THREADS, timeout=60)

    def read() -> Content:
        together.wait()
        return b"", None

    # Each fills a part of its own; none is read before eight are being read.
    assert len(list(read_items(entry(n, read, size=MEBIBYTE) for n in range(2 * THREADS)))) == 2 * THREADS


def test_no_more_is_read_ahead_than_memory_is_for() -> None:
    read: list[int] = []

    def reading(number: int) -> Callable[[], Content]:
        def content() -> Content:
            read.append(number)
            return b"", None

        return content

    items = read_items(entry(n, reading(n), size=20 * MEBIBYTE) for n in range(50))
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert len(read) <= 3


def test_an_error_is_raised_when_it_is_the_files_turn() -> None:
    def broken() -> Content:
        raise DataError("the server went away")

    items = read_items(entry(n, broken if n == 40 else None) for n in range(100))
    assert [next(items).name for _ in range(32)] == [str(n) for n in range(32)]
    with pytest.raises(DataError, match="went away"):
        list(items)


def test_giving_up_leaves_no_thread_behind() -> None:
    items = read_items(entry(n) for n in range(1000))
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize(("slow", "ahead"), [(range(40), True), (range(0, 40, 4), False), (range(20, 22), False)])
def test_files_are_read_ahead_once_most_of_the_latest_took_long(
    slow: range, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(read_ahead.time, "perf_counter", lambda: clock[0])
    main, others = threading.get_ident(), []

    def reading(number: int) -> Callable[[], Content]:
        def content() -> Content:
            others.append(threading.get_ident() != main)
            clock[0] += 0.002 if number in slow else 0.0001
            return b"%d" % number, None

        return content

    found = list(read_ahead.read_items(entry(n, reading(n)) for n in range(60)))
    assert [item.content for item in found] == [b"%d" % n for n in range(60)]
    assert not any(others[:16])
    assert any(others) == ahead
