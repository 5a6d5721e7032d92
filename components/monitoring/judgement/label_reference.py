"""The level that each label is held to where images carry several: a reference of its own, of its two-class problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.judgement.reference import (
    Level,
    ReferenceLevel,
    reference_from,
    reference_obstacle,
    significantly_better,
)
from components.params import Monitor

if TYPE_CHECKING:
    from components.monitoring.judgement.several_labels import LabelEstimates

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LabelReference:
    """P0 of K labels: each label's reference level, that of the problem "the label or not", the label first.

    labels: different images with a settled answer.
    """

    classes: tuple[str, ...]
    window: str
    each: tuple[ReferenceLevel, ...]
    labels: int

    @property
    def precision(self) -> Level:
        """Return the precision (K,) of the labels."""
        return first_of([level.precision for level in self.each])

    @property
    def recall(self) -> Level:
        """Return the recall (K,) of the labels."""
        return first_of([level.recall for level in self.each])

    def for_classes(self, classes: tuple[str, ...]) -> LabelReference:
        """Return the level in the order of `classes`, by name; a label it does not know has none."""
        known = dict(zip(self.classes, self.each, strict=True))
        each = tuple(known.get(name) or _unknown(name, self.window) for name in classes)
        return replace(self, classes=classes, each=each)

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; `from_json` reads it back."""
        return {
            "several": True,
            "classes": list(self.classes),
            "window": self.window,
            "labels": self.labels,
            "each": [level.as_json() for level in self.each],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LabelReference:
        """Return the level that `as_json` wrote. Raises DataError if it is not one."""
        try:
            classes = tuple(str(name) for name in content["classes"])
            each = tuple(ReferenceLevel.from_json(one) for one in content["each"])
            if len(each) != len(classes):
                raise ValueError(f"{len(each)} levels for {len(classes)} labels")
            return cls(classes, str(content["window"]), each, int(content["labels"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"stored reference level of labels is malformed ({error}); write it anew with `perennial reference "
                "reset`"
            ) from error


def first_of(levels: list[Level]) -> Level:
    """Return the level (K,) of the first class of each of K problems."""

    def stacked(name: str) -> FloatArray:
        return np.array([getattr(level, name)[0] for level in levels], dtype=np.float64)

    return Level(stacked("value"), stacked("smoothed"), stacked("effective"))


def label_reference_obstacle(estimates: LabelEstimates) -> str | None:
    """Return why the window of `estimates` cannot be what a service is held to, or None when it can.

    A label whose own problem nobody answered enough of is no obstacle: it is left without a level.
    """
    obstacles = [reference_obstacle(one) for one in estimates.each]
    return obstacles[0] if obstacles and all(obstacles) else None


def label_reference_from(estimates: LabelEstimates, window: str) -> LabelReference:
    """Return the reference level that `estimates` of the complete window named `window` set."""
    each = tuple(
        reference_from(one, window) if reference_obstacle(one) is None else _unknown(name, window)
        for name, one in zip(estimates.classes, estimates.each, strict=True)
    )
    return LabelReference(estimates.classes, window, each, estimates.labelled)


def next_label_level(
    level: LabelReference, estimates: LabelEstimates, window: str, *, suspected: bool, rules: Monitor
) -> tuple[Literal["kept", "replaced", "extended"], LabelReference, tuple[str, ...]]:
    """Return what the final judgement of `window` makes of the reference `level`, and the labels new to it.

    As `reference.next_level` does for classes: a significantly better window replaces it unless a label is `suspected`,
    and a label without a level gets one from the first window that measures it.
    """
    known = level.for_classes(estimates.classes)
    if label_reference_obstacle(estimates) is not None:
        return "kept", level, ()
    here = label_reference_from(estimates, window)
    if not suspected and significantly_better(estimates, level, rules):
        return "replaced", _filled(here, known), ()
    wider = _filled(known, here)
    added = np.isnan(known.precision.value) & ~np.isnan(wider.precision.value)
    names = tuple(estimates.classes[k] for k in np.flatnonzero(added))
    return ("extended", wider, names) if names else ("kept", level, ())


def _filled(level: LabelReference, other: LabelReference) -> LabelReference:
    """Return `level`, the labels without a precision in it as in `other`."""
    each = tuple(
        theirs if np.isnan(own.precision.value[0]) else own for own, theirs in zip(level.each, other.each, strict=True)
    )
    return replace(level, each=each)


def _unknown(name: str, window: str) -> ReferenceLevel:
    nothing = np.full(2, np.nan)
    level = Level(nothing, nothing, nothing)
    return ReferenceLevel(
        classes=(name, f"not {name}"),
        window=window,
        precision=level,
        recall=level,
        joint=np.full((2, 3), np.nan),
        mix=nothing,
        mix_spread=np.full(2, np.inf),
        mix_effective=0.0,
        labels=0,
    )
