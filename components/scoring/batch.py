"""Scoring one batch: workers decode and infer piece by piece beside the caller's writing; rows come out by chunks."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.data.decoding.turns import available_cores
from components.data.sources.item import printable
from components.errors import DataError
from components.model.artifact import reject_index
from components.model.serving.predictor import decisions, energy, joint_energy
from components.records import IMAGE_STATISTICS, ScoredChunk, SetAside
from components.scoring.images import ImageStore, shard_name
from components.scoring.overlap import ordered_map, read_ahead
from components.scoring.pieces import Piece, read_batch

if TYPE_CHECKING:
    from datetime import date

    from components.data.sources.item import SourceItem
    from components.model.artifact import ModelSpec
    from components.model.images.preprocess import Prepared
    from components.model.serving.predictor import Predictor
    from components.params import Score

Clock = Callable[[], float]
Prepare = Callable[[Sequence[bytes]], "Prepared"]
Recalled = Callable[[Sequence[str]], Collection[str]]


@dataclass(frozen=True, slots=True)
class _Scored:
    """One piece: its accepted images column by column with the model's answers, and the refused ones."""

    chunk: int
    item_no: tuple[int, ...]
    name: tuple[str, ...]
    image_id: tuple[str, ...]
    content: tuple[bytes, ...]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    statistics: NDArray[np.float32]
    refused: tuple[SetAside, ...]
    seconds: float


@dataclass(slots=True)
class _Columns:
    """What is known of a chunk so far, piece by piece."""

    item_no: list[int] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    image_id: list[str] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)
    statistics: list[NDArray[np.float32]] = field(default_factory=list)
    refused: list[SetAside] = field(default_factory=list)
    seconds: float = 0.0


def score(
    items: Iterable[SourceItem],
    predictor: Predictor,
    prepare: Prepare,
    *,
    params: Score,
    store: ImageStore,
    batch_id: str,
    month: date,
    done: Collection[int] = frozenset(),
    recalled: Recalled = lambda _: (),
    clock: Clock = time.perf_counter,
) -> Generator[ScoredChunk | list[SetAside], None, None]:
    """Yield a batch's predictions, one ScoredChunk per `params.chunk_rows` items, each after the list of its refusals.

    An item's number is its place in `items`, whose order must be the same in every run; a chunk is all numbers with
    the same `number // chunk_rows`, so a repeated run makes the same chunks and shards. Chunks wholly in `done` are
    not decoded again. The accepted images lie in `store` before their chunk is yielded. `latency_ms` is the mean time
    an image spent in decoding and inference. prepare: gives the pixels of some files. recalled: given image ids,
    returns those that are not to be scored; it is asked just before they would be decoded. Both are called from any
    thread. Close the generator (`contextlib.closing`) to stop its threads early.

    Raises whatever `items` raises, and DataError where the model answers with NaN.
    """
    workers = params.workers or available_cores()
    stop = threading.Event()
    pieces = read_batch(items, batch_size=params.batch_size, chunk_rows=params.chunk_rows, done=done)
    work = partial(_score_piece, predictor=predictor, prepare=prepare, recalled=recalled, clock=clock)
    with ThreadPoolExecutor(workers, thread_name_prefix="score") as pool:
        scored = ordered_map(pool, work, read_ahead(pieces, workers, "read"), workers + 1)
        name_shard = partial(shard_name, month, batch_id)
        chunks = _chunks(_until(stop, scored), predictor.spec, store, name_shard)
        # One chunk ahead: the next is scored and stored while the caller commits this one.
        yield from read_ahead(chunks, 1, "store", stop)


class _StoppedError(Exception):
    """The caller wants no more chunks; raised within a chunk so that its shard is not published in part."""


def _until(stop: threading.Event, scored: Generator[_Scored, None, None]) -> Generator[_Scored, None, None]:
    with closing(scored):
        for piece in scored:
            if stop.is_set():
                raise _StoppedError
            yield piece


def _chunks(
    scored: Generator[_Scored, None, None], spec: ModelSpec, store: ImageStore, name_shard: Callable[[int], str]
) -> Generator[ScoredChunk | list[SetAside], None, None]:
    with closing(scored):
        for number, group in groupby(scored, key=lambda piece: piece.chunk):
            columns, shard = _Columns(), name_shard(number)
            # The shard pulls its rows out of the workers, so that no more than a few pieces' bytes are in memory.
            rows = _collect(group, columns)
            first = next(rows, None)
            if first is not None:
                store.put(shard, chain([first], rows))
            if columns.refused:
                yield columns.refused
            if columns.item_no:
                yield _chunk(columns, spec, shard)


def _score_piece(piece: Piece, predictor: Predictor, prepare: Prepare, recalled: Recalled, clock: Clock) -> _Scored:
    """Decode a piece and ask the model; its pixels are gone when it is done."""
    refused: list[SetAside] = []
    readable: list[tuple[int, SourceItem]] = []
    for number, item in enumerate(piece.items, piece.first):
        if item.problem is None:
            readable.append((number, item))
        else:
            refused.append(SetAside(number, printable(item.name), item.problem, "its source could not hand it over"))
    ids = [hashlib.sha256(item.content).hexdigest() for _, item in readable]
    unwanted = recalled(ids)
    if unwanted:
        said = "this image was recalled; it is not scored"
        kept = [place for place, image_id in enumerate(ids) if image_id not in unwanted]
        refused += [
            SetAside(number, printable(item.name), "recalled", said)
            for (number, item), image_id in zip(readable, ids, strict=True)
            if image_id in unwanted
        ]
        readable, ids = [readable[place] for place in kept], [ids[place] for place in kept]
    contents = [item.content for _, item in readable]
    started = clock()
    prepared = prepare(contents)
    logits, probabilities = predictor.predict(prepared.pixels)
    seconds = clock() - started
    for place, error in prepared.refused.items():
        number, item = readable[place]
        refused.append(SetAside(number, printable(item.name), error.reason, error.detail))
    accepted = [readable[place] for place in prepared.accepted]
    return _Scored(
        chunk=piece.chunk,
        item_no=tuple(number for number, _ in accepted),
        name=tuple(printable(item.name) for _, item in accepted),
        image_id=tuple(ids[place] for place in prepared.accepted),
        content=tuple(item.content for _, item in accepted),
        logits=logits,
        probabilities=probabilities,
        statistics=prepared.statistics,
        refused=tuple(sorted(refused, key=lambda aside: aside.item_no)),
        seconds=seconds,
    )


def _collect(pieces: Iterable[_Scored], columns: _Columns) -> Iterator[tuple[str, bytes]]:
    """Yield the (image_id, content) rows of a chunk, and add what is known of them to `columns`."""
    for piece in pieces:
        columns.refused.extend(piece.refused)
        if not piece.item_no:
            continue
        columns.seconds += piece.seconds
        columns.item_no.extend(piece.item_no)
        columns.name.extend(piece.name)
        columns.image_id.extend(piece.image_id)
        columns.logits.append(piece.logits)
        columns.probabilities.append(piece.probabilities)
        columns.statistics.append(piece.statistics)
        yield from zip(piece.image_id, piece.content, strict=True)


def _chunk(columns: _Columns, spec: ModelSpec, shard: str) -> ScoredChunk:
    probabilities = np.concatenate(columns.probabilities)
    broken = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(broken):
        raise DataError(
            f"the model answers NaN for {columns.name[broken[0]]!r} and {len(broken) - 1} more of {shard}; "
            "do not use this model: roll back, or retrain"
        )
    statistics = np.concatenate(columns.statistics)
    confidence = probabilities.max(axis=1).astype(np.float32)
    logits = np.concatenate(columns.logits)
    strangeness = joint_energy(logits) if spec.several else energy(logits, spec.temperature)
    positive = None
    predicted = probabilities.argmax(axis=1).astype(np.int16)
    reject = reject_index(spec.reject_class, spec.classes)
    needs_review = confidence < spec.review_below
    if reject is not None:
        needs_review |= predicted == reject
    if spec.several:
        positive, sure = decisions(probabilities, spec)
        needs_review = sure.min(axis=1) < spec.review_below  # a person sees an image, with all its labels
    if spec.unfamiliar_above is not None:
        needs_review |= strangeness > spec.unfamiliar_above
    return ScoredChunk(
        item_no=np.asarray(columns.item_no, np.int64),
        image_id=tuple(columns.image_id),
        name=tuple(columns.name),
        predicted=predicted,
        confidence=confidence,
        probabilities=probabilities.astype(np.float16),
        ood_score=strangeness,
        statistics={column: statistics[:, place] for place, column in enumerate(IMAGE_STATISTICS)},
        needs_review=needs_review,
        latency_ms=1000 * columns.seconds / len(columns.item_no),
        shard=shard,
        positive=positive,
    )
