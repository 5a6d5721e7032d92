"""A line chart as numbers that a template writes as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 14.0, 34.0
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
MOST_TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """kind: a class of the style sheet. points: as SVG has them. dots: (x, y) of every point."""

    name: str
    kind: str
    points: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """title: what it shows. ticks: (y, words) and (x, words). level: y of a straight line and its words, or None."""

    title: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    upward: tuple[tuple[float, str], ...]
    level: tuple[float, str] | None = None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM


def line_chart(
    title: str,
    series: Mapping[str, Sequence[float | None]],
    *,
    level: tuple[float, str] | None = None,
    shares: bool = False,
) -> Chart | None:
    """Return a chart of values over epochs, counted from 1; None where there is no value.

    series: for each name, a value of every epoch, None where there is none. level: a value drawn as a line of its own,
    where it is in sight. shares: values are of 0..1, written in %.
    """
    known = [value for values in series.values() for value in values if value is not None]
    if not known:
        return None
    low, high, step = _span(known, level, shares)
    number = max(len(values) for values in series.values())

    def x(place: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (place / (number - 1) if number > 1 else 0.5), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    lines = []
    for count, (name, values) in enumerate(series.items()):
        dots = tuple((x(place), y(value)) for place, value in enumerate(values) if value is not None)
        lines.append(Line(name, f"line{count}", " ".join(f"{a},{b}" for a, b in dots), dots))
    every = max(1, -(-number // 10))
    across = tuple((x(place), str(place + 1)) for place in range(0, number, every))
    ticks = [low + n * step for n in range(round((high - low) / step) + 1)]
    upward = tuple((y(tick), f"{100 * tick:.0f} %" if shares else f"{tick:.3g}") for tick in ticks)
    drawn = None if level is None or not low <= level[0] <= high else (y(level[0]), level[1])
    return Chart(title, tuple(lines), across, upward, drawn)


def _span(known: Sequence[float], level: tuple[float, str] | None, shares: bool) -> tuple[float, float, float]:
    """Return where the axis begins and ends, and the distance of its ticks."""
    low, high = min(known), max(known)
    if level is not None and high < level[0] < high + 2 * (high - low):
        high = level[0]
    step = next((one for one in _STEPS if (high - low) / one <= MOST_TICKS), _STEPS[-1])
    low, high = step * (low // step), step * -(-high // step)
    if high <= low:
        high = low + step
    return (low, min(high, 1.0) if shares and high - low > step else high, step)
