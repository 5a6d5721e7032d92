"""A drawing as a list of marks that a template writes as SVG, escaped; sizes are in its own units, y grows downward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor

DIGIT_WIDTH = 0.56  # of the font size, as a proportional sans-serif has it on average

# Lowest value shown and the distance of its ticks; the first that shows every value is taken.
_SHARE_AXES = ((0.95, 0.01), (0.9, 0.02), (0.8, 0.05), (0.7, 0.1), (0.6, 0.1), (0.4, 0.2), (0.0, 0.25))
_TICKS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25)
MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Mark:
    """One SVG element. text: what a text element says. tip: what a pointer resting on it is told."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    tip: str = ""


@dataclass(slots=True)
class Drawing:
    """Marks on a canvas of `width` by `height`. alt: what the picture says to who cannot see it."""

    width: float
    height: float
    alt: str
    marks: list[Mark] = field(default_factory=list)

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        """Draw a straight line between two points (x, y), styled by the class `kind`."""
        (x1, y1), (x2, y2) = start, end
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def polyline(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a line through all points; one point is no line."""
        if len(points) > 1:
            self._add("polyline", kind, points=" ".join(f"{_number(x)},{_number(y)}" for x, y in points))

    def box(
        self, corner: tuple[float, float], size: tuple[float, float], kind: str, *, round_by: float = 0, tip: str = ""
    ) -> None:
        """Draw a rectangle from its upper left corner."""
        (x, y), (width, height) = corner, size
        self._add("rect", kind, tip=tip, x=x, y=y, width=width, height=height, rx=round_by)

    def dot(self, centre: tuple[float, float], radius: float, kind: str, *, tip: str = "") -> None:
        """Draw a disc."""
        self._add("circle", kind, tip=tip, cx=centre[0], cy=centre[1], r=radius)

    def triangle(self, centre: tuple[float, float], radius: float, kind: str, *, tip: str = "") -> None:
        """Draw a triangle that stands on its base, the sign of an alarm."""
        x, y = centre
        self._polygon([(x, y - radius), (x + radius, y + 0.8 * radius), (x - radius, y + 0.8 * radius)], kind, tip)

    def diamond(self, centre: tuple[float, float], radius: float, kind: str, *, tip: str = "") -> None:
        """Draw a square on its corner, the sign of a renewal."""
        x, y = centre
        self._polygon([(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)], kind, tip)

    def text(self, place: tuple[float, float], words: str, kind: str, *, anchor: str = "start") -> None:
        """Write words on a baseline; anchor: start, middle or end."""
        self._add("text", kind, text=words, x=place[0], y=place[1], text_anchor=anchor)

    def _polygon(self, points: Sequence[tuple[float, float]], kind: str, tip: str) -> None:
        self._add("polygon", kind, tip=tip, points=" ".join(f"{_number(x)},{_number(y)}" for x, y in points))

    def _add(self, tag: str, kind: str, *, text: str = "", tip: str = "", **values: float | str) -> None:
        attributes = {"class": kind}
        for name, value in values.items():
            attributes[name.replace("_", "-")] = value if isinstance(value, str) else _number(value)
        self.marks.append(Mark(tag, attributes, text, tip))


@dataclass(frozen=True, slots=True)
class Steps:
    """`count` equal columns, one a month, between two x."""

    left: float
    right: float
    count: int

    @property
    def width(self) -> float:
        """Return the width of one column."""
        return (self.right - self.left) / self.count

    def centre(self, place: int) -> float:
        """Return the x of the middle of column `place`, counted from 0."""
        return self.left + (place + 0.5) * self.width

    def edge(self, place: int) -> float:
        """Return the x where column `place` begins."""
        return self.left + place * self.width


@dataclass(frozen=True, slots=True)
class ShareAxis:
    """A vertical axis of shares from `lowest` (at y `bottom`) to `highest` (at y `top`)."""

    lowest: float
    tick: float
    top: float
    bottom: float
    highest: float = 1.0

    @classmethod
    def showing(cls, values: Sequence[float], top: float, bottom: float) -> ShareAxis:
        """Return the narrowest axis that shows all `values`, each 0..1."""
        least = min(values, default=0.0)
        lowest, tick = next(axis for axis in _SHARE_AXES if axis[0] <= max(least, 0.0))
        return cls(lowest, tick, top, bottom)

    @classmethod
    def around(cls, values: Sequence[float], top: float, bottom: float) -> ShareAxis:
        """Return an axis of few ticks close around all `values`, which need not reach up to 1."""
        least, most = min(values, default=0.0), max(values, default=1.0)
        for tick in _TICKS:
            lowest, highest = floor(least / tick + 1e-9), ceil(most / tick - 1e-9)
            if highest - lowest <= MOST_TICKS:
                break
        return cls(lowest * tick, tick, top, bottom, max(highest, lowest + 1) * tick)

    def y(self, value: float) -> float:
        """Return where a share lies."""
        return self.bottom - (value - self.lowest) / (self.highest - self.lowest) * (self.bottom - self.top)

    def ticks(self) -> list[float]:
        """Return the shares that are written on the axis, lowest first."""
        return [self.lowest + n * self.tick for n in range(round((self.highest - self.lowest) / self.tick) + 1)]


def shortened(words: str, width: float, font_size: float) -> str:
    """Return `words`, cut with an ellipsis where they would be wider than `width`."""
    fits = max(int(width / (DIGIT_WIDTH * font_size)), 1)
    return words if len(words) <= fits else words[: max(fits - 1, 0)].rstrip() + "…"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
