"""Files on their way through the decoder: known by their hash, decoded only where new, judged in their order."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from components.data.decoding.isolation import Checked, IsolatedDecoder
from components.data.sources.item import SourceItem

_PART_FILES = 512
_PART_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CheckedItem:
    """One file of a source. image_id: SHA-256 of its bytes, "" where there are none. checked: None unless decoded."""

    number: int
    item: SourceItem
    image_id: str
    checked: Checked | None


@dataclass(slots=True)
class _Part:
    """Some files in a row, their ids, and the verdicts to come on those that are decoded, by place in the part."""

    first: int
    items: list[SourceItem] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)
    verdicts: Future[list[Checked]] | None = None

    def judged(self) -> Iterator[CheckedItem]:
        verdicts = dict(zip(self.decoded, self.verdicts.result() if self.verdicts else (), strict=True))
        for place, (item, image_id) in enumerate(zip(self.items, self.ids, strict=True)):
            yield CheckedItem(self.first + place, item, image_id, verdicts.get(place))


def check_items(
    items: Iterable[SourceItem], decoder: IsolatedDecoder, is_new: Callable[[str], bool]
) -> Iterator[CheckedItem]:
    """Yield every file in its order, with the verdict of the decoder where its bytes are new.

    is_new: asked with an image id before it is decoded; of equal files among those under way the first is decoded. A
    file that came unread, since it was met before, is read where it is new all the same.
    Files without a label are not decoded. Some parts of at most 8 MiB (or one file) are in memory at a time.
    """
    waiting: deque[_Part] = deque()
    under_way: set[str] = set()
    for part in _parts(items, is_new):
        for place, item in enumerate(part.items):
            usable = item.problem is None and item.label is not None
            image_id = (item.image_id or hashlib.sha256(item.content).hexdigest()) if usable else ""
            part.ids.append(image_id)
            if usable and image_id not in under_way and is_new(image_id):
                under_way.add(image_id)
                part.decoded.append(place)
        if part.decoded:
            part.verdicts = decoder.submit([part.items[place].content for place in part.decoded])
        waiting.append(part)
        if len(waiting) > 2 * decoder.processes:
            yield from _finish(waiting.popleft(), under_way)
    while waiting:
        yield from _finish(waiting.popleft(), under_way)


def _finish(part: _Part, under_way: set[str]) -> Iterator[CheckedItem]:
    yield from part.judged()
    under_way.difference_update(part.ids[place] for place in part.decoded)


def _parts(items: Iterable[SourceItem], is_new: Callable[[str], bool]) -> Iterator[_Part]:
    part, size = _Part(0), 0
    for number, given in enumerate(items):
        item = given.again() if given.image_id is not None and is_new(given.image_id) else given
        if len(part.items) >= _PART_FILES or (part.items and size + len(item.content) > _PART_BYTES):
            yield part
            part, size = _Part(number), 0
        part.items.append(item)
        size += len(item.content)
    if part.items:
        yield part
