"""Which column of a list says what: by its own name, by an alias, or as a person maps it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.data.sources.item import printable
from components.errors import ConfigurationError, DataError

ALIASES = {
    "path": ("file_name", "filename", "file", "file_path", "filepath", "image", "image_path"),
    "label": ("class", "category", "class_name", "label_name"),
    "group": ("group_id",),
    "captured_at": (),
    "annotator": ("annotator_id",),
}
"""Other names that are understood where a column's own name is missing and only one of them is there."""

_NONE = ""
_MOST_COLUMNS = 10_000


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """What the columns of a list are called; None: by its own name or an alias; "": the list has none.

    several: its labels are sets, lists of names or names with bars between them, of which an empty one says "none".
    """

    path: str | None = None
    label: str | None = None
    group: str | None = None
    captured_at: str | None = None
    annotator: str | None = None
    several: bool = False

    @classmethod
    def parse(cls, mappings: Iterable[str], *, several: bool = False) -> ColumnNames:
        """Return the names that texts like "label=species" state. Raises ConfigurationError for another text."""
        names = cls(several=several)
        for mapping in mappings:
            known, equals, column = mapping.partition("=")
            if known not in ALIASES:
                near = difflib.get_close_matches(known, ALIASES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(ALIASES)}"
                raise ConfigurationError(f"--column {mapping!r}: {known!r} is not what a list can say; {hint}")
            if not equals or (known == "path" and not column):
                raise ConfigurationError(f"--column {mapping!r} names no column; write {known}=COLUMN")
            if getattr(names, known) is not None:
                raise ConfigurationError(f"--column {known}=… is given twice; remove one")
            changed: dict[str, Any] = {known: column}
            names = replace(names, **changed)
        return names

    def given(self) -> bool:
        """Return whether anything was mapped."""
        return self != ColumnNames(several=self.several)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the columns of one list are, by their names in it; None where it has none."""

    path: str
    label: str | None
    group: str | None
    captured_at: str | None
    annotator: str | None

    def in_order(self) -> tuple[str | None, ...]:
        """Return the columns in the order in which the cells of a row are given."""
        return self.path, self.label, self.group, self.captured_at, self.annotator


def found_columns(header: Sequence[str], names: ColumnNames, where: str) -> Columns:
    """Return which columns of `header` a list called `where` uses; further ones are passed over.

    Raises DataError for a list without paths, a mapped column that is not there, a used column that is there twice, two
    aliases of one thing, and a column whose name is a letter off one that is missing.
    """
    if len(header) > _MOST_COLUMNS:
        raise DataError(f"{where} has {len(header)} columns; at most {_MOST_COLUMNS} are read; remove some")
    found = {known: _found(known, getattr(names, known), header, where) for known in ALIASES}
    used = set(found.values())
    missing = [known for known, column in found.items() if column is None and getattr(names, known) is None]
    for column in header:
        if column not in used:
            _refuse_misspelt(column, missing, where)
        elif list(header).count(column) > 1:
            raise DataError(f"{where}: column {printable(column)!r} is there twice; remove or rename one")
    if found["path"] is None:
        raise DataError(
            f"{where} has no column 'path'; its columns are {_shown(header)}; rename one, or say which with "
            "--column path=COLUMN"
        )
    return Columns(found["path"], found["label"], found["group"], found["captured_at"], found["annotator"])


def _found(known: str, mapped: str | None, header: Sequence[str], where: str) -> str | None:
    if mapped == _NONE:
        return None
    if mapped is not None:
        if mapped not in header:
            near = difflib.get_close_matches(mapped, header, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its columns are {_shown(header)}"
            raise DataError(f"{where} has no column {printable(mapped)!r}, which --column {known}=… names; {hint}")
        return mapped
    own = [column for column in header if _plain(column) == known]
    if own:
        return known if known in own else own[0]
    aliases = [column for column in dict.fromkeys(header) if _plain(column) in ALIASES[known]]
    if len(aliases) > 1:
        raise DataError(
            f"{where}: columns {_shown(aliases)} may each be the {known}; say which with --column {known}=COLUMN"
        )
    return aliases[0] if aliases else None


def _refuse_misspelt(column: str, missing: Sequence[str], where: str) -> None:
    from rapidfuzz.distance import OSA

    for known in missing:
        for name in (known, *ALIASES[known]):
            if len(name) > 3 and OSA.distance(_plain(column), name, score_cutoff=1) == 1:
                raise DataError(
                    f"{where}: column {printable(column)!r} is not expected; did you mean {name!r}? "
                    f"If it is something else, say so with --column {known}={'COLUMN' if known == 'path' else ''}"
                )


def _plain(column: str) -> str:
    return column.strip().casefold().replace(" ", "_").replace("-", "_")


def _shown(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(printable(column[:80])) for column in columns[:20])
    return f"{shown} and {len(columns) - 20} more" if len(columns) > 20 else shown
