"""Cutting a batch into pieces, and a batch's identity."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator, Iterable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.data.sources.item import SourceItem

# A piece is decoded by one thread and inferred at once; large photographs make it shorter, to bound the memory.
PIECE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BatchContent:
    """What a batch holds: the sha256 that identifies it, and its number of items, refused ones included."""

    sha256: str
    items: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring items of one chunk; item n of the piece is number `first + n` of the batch."""

    chunk: int
    first: int
    items: tuple[SourceItem, ...]


def survey(items: Iterable[SourceItem]) -> BatchContent:
    """Return the identity of a batch: the sha256 of its sorted (name, image sha256) pairs, and how many there are.

    The order of `items` does not matter. An item its source could not read counts with its problem in place of a hash.
    """
    pairs = sorted((_text(item.name), _mark(item)) for item in items)
    digest = hashlib.sha256()
    for name, mark in pairs:
        # Lengths before the parts: names may hold any character, a separator among them.
        digest.update(b"%d:%b%d:%b" % (len(name), name, len(mark), mark))
    return BatchContent(digest.hexdigest(), len(pairs))


def identity(items: Iterable[SourceItem]) -> str:
    """Return the sha256 that `survey` gives a batch."""
    return survey(items).sha256


def read_batch(
    items: Iterable[SourceItem], *, batch_size: int, chunk_rows: int, done: Collection[int] = frozenset()
) -> Generator[Piece, None, None]:
    """Yield `items` in order as pieces of at most `batch_size` items that never cross a multiple of `chunk_rows`.

    Chunks whose items are all in `done` are left out (of a last, shorter chunk that is known only where `items` has a
    length).
    """
    total = len(items) if isinstance(items, Sized) else None
    piece: list[SourceItem] = []
    size, first, chunk, skip = 0, 0, -1, False
    for number, item in enumerate(items):
        full = len(piece) >= batch_size or size >= PIECE_BYTES
        if piece and (full or number // chunk_rows != chunk):
            yield Piece(chunk, first, tuple(piece))
            piece, size = [], 0
        if number // chunk_rows != chunk:
            chunk = number // chunk_rows
            skip = _all_done(chunk, chunk_rows, total, done)
        if skip:
            continue
        if not piece:
            first = number
        piece.append(item)
        size += len(item.content)
    if piece:
        yield Piece(chunk, first, tuple(piece))


def _all_done(chunk: int, chunk_rows: int, total: int | None, done: Collection[int]) -> bool:
    end = (chunk + 1) * chunk_rows
    return all(number in done for number in range(chunk * chunk_rows, end if total is None else min(end, total)))


def _mark(item: SourceItem) -> bytes:
    if item.problem is not None:
        return f"problem:{item.problem}".encode()
    return hashlib.sha256(item.content).hexdigest().encode()


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
