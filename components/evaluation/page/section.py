"""One part of the report: words and a table, the same in Markdown and on the page. All cells are plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """head and rows have as many cells each; the first column is words, the others are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """key: a name for links and pictures. warnings: what must not be overlooked. table: None where there is none."""

    key: str
    title: str
    words: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    table: Table | None = None
    notes: tuple[str, ...] = ()

    def markdown(self) -> list[str]:
        """Return the part as lines of Markdown."""
        lines = ["", f"## {escaped(self.title)}"]
        for words in self.words:
            lines += ["", escaped(words)]
        for words in self.warnings:
            lines += ["", f"**{escaped(words)}**"]
        if self.table is not None and self.table.rows:
            lines += ["", _line(self.table.head), "|---" + "|---:" * (len(self.table.head) - 1) + "|"]
            lines += [_line(row) for row in self.table.rows]
        for words in self.notes:
            lines += ["", escaped(words)]
        return lines


def escaped(text: str) -> str:
    """Return a name that cannot leave its place in Markdown or the HTML made from it."""
    safe = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*[]|":
        safe = safe.replace(mark, f"&#{ord(mark)};")
    return safe


def percent(share: float) -> str:
    """Return a share of 0..1 as a person reads it."""
    return f"{100 * share:.1f} %"


def percents(value: Mapping[str, Any] | None) -> str:
    """Return a share with its interval."""
    if value is None:
        return "n/a"
    return f"{100 * value['value']:.1f} % ({100 * value['low']:.1f}–{100 * value['high']:.1f})"


def number(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return a number with its interval."""
    if value is None:
        return "n/a"
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f}–{value['high']:.{digits}f})"


def images(many: int) -> str:
    """Return a number of images in words."""
    return f"{many:,} image{'' if many == 1 else 's'}"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"
