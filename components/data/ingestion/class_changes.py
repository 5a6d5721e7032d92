"""Changes of a class list, and what a name or a label given under an older list is called under a newer one. Pure.

A name never comes back with another meaning: stored answers, references and reports go by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.data.ingestion.class_list import checked_class_name, unknown_class
from components.data.label_sets import decode, encode
from components.data.manifest import Manifest
from components.errors import ConfigurationError

MOST_NAMED = 10  # classes in one sentence


@dataclass(frozen=True, slots=True)
class Add:
    """A class is new."""

    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A class is called otherwise, and means the same."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Merge:
    """Two or more classes are one from now on; `into` is one of them, or new."""

    sources: tuple[str, ...]
    into: str


@dataclass(frozen=True, slots=True)
class Split:
    """A class is several from now on. images: the new class of every image that is listed, by image id.

    rest: the class of all others, `name` itself or a new one; None where every image is listed, and `name` goes.
    """

    name: str
    parts: tuple[str, ...]
    rest: str | None
    images: Mapping[str, str] = field(repr=False)


ClassChange = Add | Rename | Merge | Split


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of one name: the name now, or None and why that cannot be told."""

    name: str | None
    why: str = ""


def describe(change: ClassChange) -> str:
    """Return the change in words."""
    match change:
        case Add(name):
            return f"add {name!r}"
        case Rename(old, new):
            return f"rename {old!r} to {new!r}"
        case Merge(sources, into):
            return f"merge {listed(sources)} into {into!r}"
        case Split(name, parts, rest):
            return f"split {name!r} into {listed(outcomes(parts, rest))}"


def listed(names: Sequence[str]) -> str:
    """Return names for a sentence, the first ten of them."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more


def merge_of(names: Sequence[str], into: str, classes: Sequence[str]) -> Merge:
    """Return the merge of `names` into a class that may be one of them, another one of the list, or new."""
    return Merge((*names, into) if into in classes and into not in names else tuple(names), into)


def outcomes(parts: Sequence[str], rest: str | None) -> tuple[str, ...]:
    """Return the classes that a split makes, what is left first."""
    return tuple(dict.fromkeys([*([rest] if rest is not None else []), *parts]))


def touched(change: ClassChange) -> tuple[str, ...]:
    """Return the names of the older list that mean something else afterwards, or go."""
    match change:
        case Add():
            return ()
        case Rename(old, _):
            return (old,)
        case Merge(sources, _):
            return sources
        case Split(name, _, _):
            return (name,)


def changed_list(classes: Sequence[str], change: ClassChange) -> tuple[str, ...]:
    """Return the class list after the change. Classes keep their order: their indices are what models answer in.

    A renamed class keeps its place. A merged one has that of `into`, or of the first of its sources where `into` is
    new. Of a split one the rest has its place, or the first part where there is none; other parts come last.
    Raises ConfigurationError for a name that is not there, one that is there already, or one that cannot be a class.
    """
    known = set(classes)
    for name in touched(change):
        if name not in known:
            raise unknown_class(name, classes)
    match change:
        case Add(name):
            return (*classes, _free(name, known))
        case Rename(old, new):
            _free(new, known - {old} if new != old else known)
            return tuple(new if name == old else name for name in classes)
        case Merge(sources, into):
            if len(set(sources)) < 2 or len(set(sources)) < len(sources):
                raise ConfigurationError(f"a merge needs two classes or more, once each, not {listed(sources)}")
            place = into if into in sources else next(name for name in classes if name in sources)
            _free(into, known - set(sources))
            gone = set(sources) - {place}
            return tuple(into if name == place else name for name in classes if name not in gone)
        case Split(name, parts, rest):
            made = outcomes(parts, rest)
            if len(made) < 2:
                raise ConfigurationError(f"a split of {name!r} makes one class, {made!r}; list images of another one")
            for part in made:
                _free(part, known - {name})
            # What is left of a class goes on in its place; a part of the same name is the rest.
            head = name if name in made else made[0]
            return tuple(chain((head if one == name else one for one in classes), (p for p in made if p != head)))


def relabelled(table: pa.Table, change: ClassChange, *, several: bool = False) -> pa.Table:
    """Return manifest rows of every state and split, or annotations, with labels as called after the change.

    several: labels are sets of classes. Raises ConfigurationError for a split of one of these.
    """
    if isinstance(change, Add):
        return table
    if several:
        return _sets_relabelled(table, change)
    labels = table["label"].combine_chunks()
    wanted = pc.fill_null(pc.is_in(labels, pa.array(touched(change), pa.string())), False)
    match change:
        case Rename(_, new):
            renamed = pc.if_else(wanted, pa.scalar(new, pa.string()), labels)
        case Merge(_, into):
            renamed = pc.if_else(wanted, pa.scalar(into, pa.string()), labels)
        case Split(name, _, rest):
            left = name if rest is None else rest
            image_ids = table["image_id"].filter(wanted).to_pylist()
            mended = pa.array([change.images.get(image_id, left) for image_id in image_ids], pa.string())
            renamed = pc.replace_with_mask(labels, wanted, mended)
    return table.set_column(table.schema.get_field_index("label"), table.schema.field("label"), renamed)


def _sets_relabelled(table: pa.Table, change: ClassChange) -> pa.Table:
    names: dict[str, str] = {}
    match change:
        case Rename(old, new):
            names = {old: new}
        case Merge(sources, into):
            names = dict.fromkeys(sources, into)
        case Split(name):
            raise ConfigurationError(
                f"class {name!r} cannot be split where images carry several labels; add the new classes, and ingest a "
                "list of its images with the labels they are to have"
            )
    encoded = pc.dictionary_encode(table["label"].combine_chunks())
    changed = [encode(names.get(one, one) for one in decode(label)) for label in encoded.dictionary.to_pylist()]
    labels = pa.array(changed, pa.string()).take(encoded.indices)
    return table.set_column(table.schema.get_field_index("label"), table.schema.field("label"), labels)


def carried_opinions(table: pa.Table, change: ClassChange) -> tuple[pa.Table, int]:
    """Return what annotators said as it is called after the change, and how many opinions are lost.

    Lost are those that name a split class which is no more, of images that the split does not list.
    """
    if isinstance(change, Split) and change.rest is None and change.name not in change.parts:
        unlisted = pc.invert(pc.is_in(table["image_id"], pa.array(sorted(change.images), pa.string())))
        lost = pc.and_(pc.equal(table["label"], change.name), unlisted)
        return relabelled(table.filter(pc.invert(lost)), change), pc.sum(lost).as_py() or 0
    return relabelled(table, change), 0


def applied(manifest: Manifest, change: ClassChange) -> Manifest:
    """Return the manifest after the change. Raises ConfigurationError as `changed_list`."""
    return replace(
        manifest,
        table=relabelled(manifest.table, change, several=manifest.several),
        classes=changed_list(manifest.classes, change),
    )


def carried(name: str, changes: Sequence[ClassChange], image_id: str | None = None) -> Carried:
    """Return what a class of the list before `changes` is called after them.

    image_id: of the image that was given this class; after a split that alone can tell, where the split lists it.
    """
    for change in changes:
        match change:
            case Rename(old, new) if name == old:
                name = new
            case Merge(sources, into) if name in sources:
                name = into
            case Split(split, parts, rest) if name == split:
                found = None if image_id is None else change.images.get(image_id)
                if found is None:
                    made = listed(outcomes(parts, rest))
                    return Carried(None, f"{split!r} was split into {made}, and this image is not in the list")
                name = found
    return Carried(name)


@dataclass(frozen=True, slots=True)
class Translation:
    """How the class list `old` reads in the list `new`.

    names: the new name of every old class that has exactly one. whole: the classes of `new` that `old` knows, each made
    of these classes of `old` and nothing else; a class that was added, took one in that was, or is left of a split, is
    not among them.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    names: Mapping[str, str]
    whole: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, old: Sequence[str], new: Sequence[str], changes: Sequence[ClassChange]) -> Translation:
        """Return the translation. changes: those between the two lists; classes may have been added besides."""
        parts: dict[str, tuple[str, ...] | None] = {name: (name,) for name in old}
        for change in changes:
            match change:
                case Add(name):
                    parts.setdefault(name, None)
                case Rename(before, after):
                    parts[after] = parts.pop(before, None)
                case Merge(sources, into):
                    merged = [parts.pop(name, None) for name in sources]
                    known = [part for part in merged if part is not None]
                    parts[into] = tuple(chain.from_iterable(known)) if len(known) == len(merged) else None
                case Split(name, made, rest):
                    parts.pop(name, None)
                    parts.update(dict.fromkeys(outcomes(made, rest)))
        present = set(new)
        found = {name: carried(name, changes).name for name in old}
        return cls(
            tuple(old),
            tuple(new),
            {before: after for before, after in found.items() if after in present and after is not None},
            {name: part for name in new if (part := parts.get(name)) is not None},
        )

    def inverse(self) -> Translation:
        """Return how the newer list reads in the older one: the classes that are one class in both."""
        one = {name: parts[0] for name, parts in self.whole.items() if len(parts) == 1}
        return Translation(self.new, self.old, one, {before: (after,) for after, before in one.items()})

    @property
    def trivial(self) -> bool:
        """Return whether every old class is the class of the same name; others may have been added."""
        return all(self.whole.get(name) == (name,) for name in self.old)

    def as_json(self) -> dict[str, Any]:
        """Return what differs: new names that were called otherwise, and those that the older list does not know."""
        changed = {name: list(parts) for name, parts in self.whole.items() if parts != (name,)}
        return {"changed": changed, "unknown": [name for name in self.new if name not in self.whole]}

    def places(self) -> list[int]:
        """Return the index in `new` of every class of `old`; -1 where it has none."""
        index = {name: place for place, name in enumerate(self.new)}
        return [index[self.names[name]] if name in self.names else -1 for name in self.old]

    def describe(self) -> str:
        """Return in words what is called otherwise, what was merged, and what the older list does not know."""
        renamed = [f"{p[0]!r} counts as {n!r}" for n, p in self.whole.items() if p != (n,) and len(p) == 1]
        merged = [f"{listed(p)} count as {n!r}" for n, p in self.whole.items() if len(p) > 1]
        unclear = [f"{name!r} is no class any more" for name in self.old if name not in self.names]
        strange = [name for name in self.new if name not in self.whole]
        told = [*renamed, *merged, *unclear]
        words = [*told[:MOST_NAMED], *([f"and {len(told) - MOST_NAMED} more"] if len(told) > MOST_NAMED else [])]
        return "; ".join([*words, *([f"it does not know {listed(strange)}"] if strange else [])])


def name_in_use(name: str, change: ClassChange, changes: Sequence[ClassChange]) -> str | None:
    """Return why `name`, which is in no class list now, is not free for `change`; None where it is.

    changes: all before. A name that had a meaning is given again only to what became of that meaning.
    """
    meanings: list[set[str]] = []  # what became of every class that was ever called so
    for number, past in enumerate(changes):
        if name in touched(past):
            meanings.append(_became(name, changes[number:]))
    if all(names & set(touched(change)) for names in meanings):
        return None
    became = sorted(set().union(*meanings))
    return (
        f"{name!r} was a class before and became {listed(became)}; stored answers and reports go by "
        "name, so it cannot mean something else now: choose another name"
    )


def former_names(names: Sequence[str], changes: Sequence[ClassChange]) -> set[str]:
    """Return `names` and every name, of any time, of what became one of them."""
    wanted = set(names)
    ever = ((name, n) for n, change in enumerate(changes) for name in touched(change))
    return wanted | {name for name, n in ever if _became(name, changes[n:]) & wanted}


def _became(name: str, changes: Sequence[ClassChange]) -> set[str]:
    names = {name}
    for change in changes:
        if not names & set(touched(change)):
            continue
        names -= set(touched(change))
        match change:
            case Rename(_, new):
                names.add(new)
            case Merge(_, into):
                names.add(into)
            case Split(_, parts, rest):
                names |= set(outcomes(parts, rest))
    return names


def _free(name: str, taken: set[str]) -> str:
    if checked_class_name(name, "class list") != name:
        raise ConfigurationError(f"class name {name!r} is not in Unicode NFC; give it in that form")
    if name in taken:
        raise ConfigurationError(f"{name!r} is a class already; choose another name, or merge the two")
    return name
