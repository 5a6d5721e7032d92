"""What an ingest would bring in, found out from names, sizes and labels; only a few first files are decoded."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.data.decoding.isolation import IsolatedDecoder
from components.data.label_sets import decode
from components.data.sources.item import SourceEntry, printable

_MOST_LISTED = 1000
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Sampled:
    """One file that was decoded: its size in pixels, or why it cannot be used."""

    name: str
    label: str | None
    width: int | None = None
    height: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class UnknownLabel:
    """A label that is not in the class list, its number of files, and the class it may be a misspelling of."""

    label: str
    files: int
    nearest: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a source holds.

    files: all that are listed. usable: those of them that no rule about names, sizes and labels sets aside; bytes: how
    large these are together, unknown_sizes of them not counted. classes: usable files, or opinions, of each label, the
    most frequent first. unknown: labels that the class list lacks; None where the first labels make the list. reasons:
    how many files each rule sets aside; set_aside: (name, reason) of the first ones. sample: the first usable files,
    decoded. opinions: labels with a name of who gave them, by so many annotators; those of one file in a row count it
    once.
    """

    files: int
    usable: int
    bytes: int
    unknown_sizes: int
    classes: dict[str, int]
    unknown: tuple[UnknownLabel, ...] | None
    groups: int
    reasons: dict[str, int]
    set_aside: tuple[tuple[str, str], ...]
    sample: tuple[Sampled, ...]
    opinions: int = 0
    annotators: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the preview for the command line; of a thousand labels and more, the first thousand."""
        shown = asdict(self)
        shown["classes"] = dict(list(self.classes.items())[:_MOST_LISTED])
        shown["labels"] = len(self.classes)
        shown["unknown"] = None if self.unknown is None else shown["unknown"][:_MOST_LISTED]
        shown["set_aside"] = [{"name": name, "reason": reason} for name, reason in self.set_aside]
        return shown


def preview(
    entries: Iterable[SourceEntry],
    *,
    classes: Sequence[str] | None,
    decoder: IsolatedDecoder,
    sample: int = 5,
    several: bool = False,
) -> Preview:
    """Return what the files of a source are, having read the first `sample` usable ones and no other.

    classes: the class list they would meet; None where there is none yet. several: labels are sets of classes. What
    only the bytes tell (damage, duplicates, images that were recalled) an ingest finds out.
    """
    counted: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    groups: set[int] = set()
    aside: list[tuple[str, str]] = []
    taken: list[tuple[SourceEntry, bytes, str | None]] = []
    people: set[int] = set()
    files = usable = size_known = unknown_sizes = opinions = 0
    last: str | None = None
    for entry in entries:
        if entry.annotator is not None and entry.name == last and entry.problem is None and entry.label is not None:
            counted[entry.label] += 1
            opinions += 1
            people.add(hash(entry.annotator))
            continue
        files += 1
        size, reason = _judged(entry, decoder.limits.max_bytes)
        if reason is not None or entry.label is None:
            reasons[reason or "no-label"] += 1
            if len(aside) < _MOST_LISTED:
                aside.append((entry.name, reason or "no-label"))
            continue
        last = entry.name
        usable += 1
        if entry.annotator is not None:
            opinions += 1
            people.add(hash(entry.annotator))
        counted.update(decode(entry.label) if several else (entry.label,))
        size_known += size or 0
        unknown_sizes += size is None
        if entry.group is not None:
            groups.add(hash(entry.group))
        if len(taken) < sample:
            taken.append((entry, *entry.read()))
    unknown = None if classes is None else tuple(_unknown(counted, classes))
    return Preview(
        files, usable, size_known, unknown_sizes, dict(counted.most_common()), unknown, len(groups),
        dict(reasons), tuple(aside), tuple(_decoded(taken, decoder)), opinions, len(people),
    )  # fmt: skip


def _judged(entry: SourceEntry, max_bytes: int) -> tuple[int | None, str | None]:
    if entry.problem is not None:
        return None, entry.problem
    size, problem = (entry.size, None) if entry.look is None else entry.look()
    if problem is None and size is not None:
        problem = "empty" if size == 0 else "too-many-bytes" if size > max_bytes else None
    return size, problem


def _decoded(taken: Sequence[tuple[SourceEntry, bytes, str | None]], decoder: IsolatedDecoder) -> Iterator[Sampled]:
    read = [content for _, content, problem in taken if problem is None]
    verdicts = iter(decoder.submit(read).result() if read else ())
    for entry, _, problem in taken:
        if problem is not None:
            yield Sampled(entry.name, entry.label, problem=problem)
            continue
        verdict = next(verdicts)
        if verdict.reason is not None:
            yield Sampled(entry.name, entry.label, problem=f"{verdict.reason}: {verdict.detail}")
        else:
            yield Sampled(entry.name, entry.label, verdict.width, verdict.height)


def _unknown(counted: Counter[str], classes: Sequence[str]) -> list[UnknownLabel]:
    known = set(classes)
    found = [(label, files) for label, files in counted.most_common() if label not in known]
    # The nearest class is looked for only for as many as anybody reads.
    near = [difflib.get_close_matches(label[:_SHOWN_CHARACTERS], classes, n=1) for label, _ in found[:_MOST_LISTED]]
    near += [[]] * (len(found) - len(near))
    return [
        UnknownLabel(printable(label), files, match[0] if match else None)
        for (label, files), match in zip(found, near, strict=True)
    ]
