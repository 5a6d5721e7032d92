"""Numbers, months and planted changes as a newcomer reads them."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPACE = "\N{NO-BREAK SPACE}"
NOT_MEASURED = "not measured"
SMALLEST_P = 0.001

_SMALL_NUMBERS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

# Kind of shift: its short name on a chart, and what happens to the images in a sentence.
_SHIFTS: Mapping[str, tuple[str, str]] = {
    "brightness": ("darker", "get darker"),
    "contrast": ("hazy", "lose contrast"),
    "blur": ("blurred", "get blurred"),
    "noise": ("noisy", "get noisy"),
    "rotate": ("turned", "arrive turned"),
    "invert": ("inverted", "arrive with dark and light swapped"),
    "new_style": ("new style", "arrive in a new style, inverted and mirrored"),
    "class_prior": ("other mix", "come more or less often than before"),
    "relabel": ("new meaning", "mean another class"),
    "novel_class": ("new class", "appear for the first time"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """One change the scenario plants in the world. first, last: months counted from 0, both within the run."""

    first: int
    last: int
    short: str
    sentence: str


def planted_changes(scenario: Mapping[str, Any], months: int) -> list[Change]:
    """Return the changes that fall into the first `months` months, in the order they begin."""
    return [
        _change(shift, first, min(shift.get("until") or months, months) - 1)
        for first, month in enumerate(scenario.get("months", ())[:months])
        for shift in month.get("shifts", ())
    ]


def _change(shift: Mapping[str, Any], first: int, last: int) -> Change:
    kind = shift["kind"]
    short, verb = _SHIFTS.get(kind, (kind, f"change ({kind})"))
    named = tuple(shift.get("classes") or ()) or tuple(shift.get("weights") or ())
    goal = f", {shift['to']}" if shift.get("to") else ""
    sentence = f"{listed(named)} images {verb}{goal}" if named else f"All images {verb}"
    return Change(
        first, last, f"{short}: {', '.join(named) or 'all images'}", sentence + _strength(shift.get("severity"))
    )


def _strength(severity: object) -> str:
    """Return how strongly, where it is not simply in full. severity: one share or [from, to]."""
    ends = severity if isinstance(severity, list | tuple) else (severity, severity)
    low, high = (1.0 if end is None else float(end) for end in ends)
    if low == high == 1:
        return ""
    return f" (strength {percent(low, 0)})" if low == high else f" (strength {percent(low, 0)} to {percent(high, 0)})"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share 0..1 as in `91.9 %`, with a space that does not break."""
    return NOT_MEASURED if value is None else f"{100 * value:.{digits}f}{SPACE}%"


def interval(estimate: Mapping[str, float] | None) -> str:
    """Return an estimate with its bounds as in `91.6 % (90.0 to 93.1)`."""
    if estimate is None:
        return NOT_MEASURED
    bounds = f"{100 * estimate['low']:.1f} to {100 * estimate['high']:.1f}"
    return f"{percent(estimate['value'])} ({bounds.replace(' ', SPACE)})"


def decimal(value: float | None, digits: int = 3) -> str:
    """Return a number with that many decimals, an en dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """Return a p-value; a tiny one as a bound."""
    if value is None:
        return "–"
    return f"<{SPACE}{SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun as in `one alarm`, `no alarms` or `1,250 labels`."""
    word = _SMALL_NUMBERS[number] if number < len(_SMALL_NUMBERS) else f"{number:,}"
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """Return names as in `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def column_name(column: str) -> str:
    """Return what a column watched for drift is called where its own name tells little."""
    return {"predicted": "predicted class", "bytes": "file size"}.get(column, column)


def unbroken(text: str) -> str:
    """Return `text` with no line break possible between a number and its per cent sign."""
    return text.replace(" %", f"{SPACE}%")


def capital(text: str) -> str:
    """Return `text` with its first letter large."""
    return text[:1].upper() + text[1:]


def long_window(window: str) -> str:
    """Return `March 2026` for `2026-03`; another window's own name."""
    month = _month(window)
    return f"{calendar.month_name[month[1]]} {month[0]}" if month else window


def short_window(window: str) -> str:
    """Return `Mar` for `2026-03`; another window's own name."""
    month = _month(window)
    return calendar.month_abbr[month[1]] if month else window


def duration(seconds: float) -> str:
    """Return `48 s` or `6 min 12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{SPACE}min {rest}{SPACE}s" if minutes else f"{rest}{SPACE}s"


def _month(window: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", window)
    return (int(found[1]), int(found[2])) if found else None
