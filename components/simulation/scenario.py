"""What happens in a simulated world, month by month, as a YAML file says; a misspelt key is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from components.errors import ConfigurationError
from components.params import OpenShare, Positive, Section, Share, parse_strictly

Kind = Literal[
    "brightness", "contrast", "blur", "noise", "rotate", "invert", "new_style", "class_prior", "relabel", "novel_class"
]


def _level_ramp(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    raise ValueError("severity is a number from 0 to 1, or a ramp of two: [0.1, 0.9]")


Ramp = Annotated[tuple[Share, Share], BeforeValidator(_level_ramp)]


_NEED_CLASSES = ("new_style", "relabel", "novel_class")


class Annotators(Section):
    """The simulated people: how many, how often they err, and which share of the tasks they get to."""

    count: Positive = 3
    error_rate: Annotated[float, Field(ge=0, lt=1)] = 0.03
    answer_rate: Annotated[float, Field(gt=0, le=1)] = 0.9


class Shift(Section):
    """One change of the world, from the month it is written in to the end, or to month `until` (counted from 1).

    severity: 0..1, or a ramp [from, to] from its first to its last month; one number is kept as a level ramp.
    brightness, contrast, blur, noise and rotate get stronger with it; invert and new_style happen to that share of the
    images; relabel to that share of a class, the brightest; novel_class and class_prior reach their full share or
    weight at 1.
    """

    kind: Kind
    classes: tuple[str, ...] = ()
    severity: Ramp = (1.0, 1.0)
    until: Positive | None = None
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    to: str | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind in _NEED_CLASSES and not self.classes:
            raise ValueError(f"kind {self.kind} needs `classes`, the names it happens to")
        if (self.kind == "class_prior") != bool(self.weights):
            raise ValueError("`weights` belongs to kind class_prior, which needs it: {Trouser: 3.0}")
        if self.kind == "class_prior" and self.classes:
            raise ValueError("kind class_prior names its classes in `weights`, not in `classes`")
        if (self.kind == "relabel") != (self.to is not None):
            raise ValueError("`to` belongs to kind relabel, which needs it: the class the images now mean")
        if self.to in self.classes:
            raise ValueError(f"relabel from {self.to!r} to itself changes nothing")
        return self


class Month(Section):
    """One month's images, and the changes that begin in it."""

    images: Positive
    shifts: tuple[Shift, ...] = ()


class Scenario(Section):
    """A simulated world from its initial data to its last month.

    doubts_answered: whether the annotators also answer what the label audit asks about the initial data.
    """

    source: str = "fashion-mnist"
    seed: Annotated[int, Field(ge=0)] = 7
    initial_images: Positive = 12_000
    label_errors: Annotated[float, Field(ge=0, lt=1)] = 0.05
    annotators: Annotators = Annotators()
    doubts_answered: bool = False
    label_share: OpenShare = 0.05
    months: Annotated[tuple[Month, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _shifts_end_after_they_begin(self) -> Self:
        for number, month in enumerate(self.months, 1):
            for shift in month.shifts:
                if shift.until is not None and shift.until < number:
                    raise ValueError(
                        f"the {shift.kind} shift of month {number} ends in month {shift.until}, before it began"
                    )
        return self

    def active(self, month: int) -> list[tuple[Shift, float]]:
        """Return the shifts in force in a month (counted from 1), oldest first, each with its severity there."""
        return [
            (shift, _severity(shift, month, start, shift.until or len(self.months)))
            for start, begun in enumerate(self.months[:month], 1)
            for shift in begun.shifts
            if shift.until is None or month <= shift.until
        ]

    def novel_classes(self) -> frozenset[str]:
        """Return the classes held back from the initial data."""
        shifts = (shift for month in self.months for shift in month.shifts if shift.kind == "novel_class")
        return frozenset(name for shift in shifts for name in shift.classes)


def load_scenario(path: Path) -> Scenario:
    """Return the scenario in a YAML file. Raises ConfigurationError, in one line, naming key, value and remedy."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"scenario {path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"scenario {path} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_strictly(Scenario, content, str(path))


def _severity(shift: Shift, month: int, first: int, last: int) -> float:
    low, high = shift.severity
    return low if last == first else low + (high - low) * (month - first) / (last - first)
