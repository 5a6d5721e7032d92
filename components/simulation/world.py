"""A world that gives images month by month, and knows the truth about each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.data.appearance import APPEARANCE, apply
from components.data.decoding.decode import ImageLimits, decode
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import ConfigurationError
from components.params import Data

if TYPE_CHECKING:
    from components.simulation.scenario import Scenario, Shift

IntArray = NDArray[np.int64]
Truth = dict[str, str]
Active = Sequence[tuple["Shift", float]]

# Each use has a stream of random numbers of its own, so that a longer scenario does not change the earlier months.
_SHUFFLE, _INITIAL, _ERRORS, _DRAW, _PIXELS = range(5)

_LIMITS = ImageLimits.of(Data(min_side=1))


@dataclass(frozen=True, slots=True)
class _Pool:
    """What the source still has: shuffled item numbers of every class, and how many of them were handed out."""

    numbers: Mapping[str, IntArray]
    taken: dict[str, int]

    def left(self, name: str) -> int:
        return len(self.numbers[name]) - self.taken[name]

    def take(self, name: str, count: int) -> IntArray:
        start = self.taken[name]
        self.taken[name] = start + count
        return self.numbers[name][start : start + count]


@dataclass(frozen=True, slots=True)
class _Relabel:
    """Images of these classes with at least that mean intensity now mean another class."""

    thresholds: Mapping[str, float]
    to: str


class World:
    """The images of a source, dealt out by a scenario: the same scenario and source give the same world."""

    def __init__(self, scenario: Scenario, items: Sequence[SourceItem]) -> None:
        """Plan every month; `items` are all images of the source, each with its true label.

        Raises ConfigurationError, before anything is handed out, for an item without a label, a class that the source
        does not have, and a month that wants more images than are left.
        """
        self.scenario = scenario
        self._items = items
        pool = _pool(scenario, items)
        self.classes = tuple(sorted(pool.numbers))
        self._check_names()
        self._initial = self._draw_initial(pool)
        self._months = [self._draw_month(pool, number) for number in range(1, len(scenario.months) + 1)]

    def initial(self) -> tuple[list[SourceItem], Truth]:
        """Return the labelled images the service starts with, and their true classes by name.

        The `label_errors` share of the labels is wrong: another class of the initial data, at random.
        """
        known = [name for name in self.classes if name not in self.scenario.novel_classes()]
        rng = self._rng(_ERRORS)
        wrong = set(
            rng.permutation(len(self._initial))[: round(self.scenario.label_errors * len(self._initial))].tolist()
        )
        items: list[SourceItem] = []
        truth: Truth = {}
        for place, number in enumerate(self._initial):
            item = self._items[number]
            label = _label(item)
            truth[item.name] = label
            if place in wrong:
                label = str(rng.choice([name for name in known if name != label]))
            items.append(replace(item, label=label))
        return items, truth

    def month(self, number: int) -> tuple[list[SourceItem], Truth]:
        """Return a month's unlabelled images (months count from 1), sorted by name, and their true classes by name.

        Raises ConfigurationError for a month the scenario does not have.
        """
        if not 1 <= number <= len(self._months):
            raise ConfigurationError(f"the scenario has {len(self._months)} months, month {number} is none of them")
        active = self.scenario.active(number)
        relabels = self._relabels(active)
        rng = self._rng(_PIXELS, number)
        items: list[SourceItem] = []
        truth: Truth = {}
        for place, source_number in enumerate(self._months[number - 1]):
            source = self._items[source_number]
            name = f"month-{number:02d}/{place:06d}.png"
            items.append(SourceItem(name, self._content(source, active, rng)))
            truth[name] = self._meaning(source, relabels)
        return items, truth

    def _draw_initial(self, pool: _Pool) -> IntArray:
        rng = self._rng(_INITIAL)
        held_back = self.scenario.novel_classes()
        weights = {name: 0.0 if name in held_back else 1.0 for name in self.classes}
        return self._draw(pool, self.scenario.initial_images, weights, rng, "the initial data")

    def _draw_month(self, pool: _Pool, number: int) -> IntArray:
        weights = dict.fromkeys(self.classes, 1.0)
        weights |= dict.fromkeys(self.scenario.novel_classes(), 0.0)
        for shift, severity in self.scenario.active(number):
            if shift.kind == "novel_class":
                weights |= dict.fromkeys(shift.classes, severity)
            for name, weight in shift.weights.items():
                weights[name] *= 1 + (weight - 1) * severity
        images = self.scenario.months[number - 1].images
        return self._draw(pool, images, weights, self._rng(_DRAW, number), f"month {number}")

    def _draw(
        self, pool: _Pool, images: int, weights: Mapping[str, float], rng: np.random.Generator, what: str
    ) -> IntArray:
        counts = _counts(pool, images, weights, rng, f"{what} of a {self.scenario.source} scenario")
        drawn = [pool.take(name, counts[name]) for name in self.classes]
        return rng.permutation(np.concatenate(drawn))

    def _content(self, item: SourceItem, active: Active, rng: np.random.Generator) -> bytes:
        changes = [
            (shift.kind, severity)
            for shift, severity in active
            if shift.kind in APPEARANCE and (not shift.classes or item.label in shift.classes)
        ]
        if not changes:
            return item.content
        pixels = np.asarray(decode(item.content, _LIMITS))
        for kind, severity in changes:
            pixels = apply(kind, pixels, severity, rng)
        return encode_png(pixels)

    def _relabels(self, active: Active) -> list[_Relabel]:
        """Return what the relabelling shifts in force do."""
        return [
            # Over the whole source: an image means the same in every month of that severity.
            _Relabel({name: _threshold(self._intensities[name], severity) for name in shift.classes}, shift.to)
            for shift, severity in active
            if shift.kind == "relabel" and shift.to is not None and severity > 0
        ]

    def _meaning(self, item: SourceItem, relabels: Sequence[_Relabel]) -> str:
        label = _label(item)
        for relabel in relabels:
            threshold = relabel.thresholds.get(label)
            if threshold is not None and self._intensities[label][item.name] >= threshold:
                return relabel.to
        return label

    @cached_property
    def _intensities(self) -> dict[str, dict[str, float]]:
        """The mean intensity of every image of a class that is relabelled some time, by class and name."""
        shifts = [shift for month in self.scenario.months for shift in month.shifts if shift.kind == "relabel"]
        levels: dict[str, dict[str, float]] = {name: {} for shift in shifts for name in shift.classes}
        for item in self._items:
            if item.label in levels:
                levels[item.label][item.name] = float(np.asarray(decode(item.content, _LIMITS)).mean())
        return levels

    def _check_names(self) -> None:
        shifts = [shift for month in self.scenario.months for shift in month.shifts]
        named = {name for shift in shifts for name in (*shift.classes, *shift.weights, *filter(None, [shift.to]))}
        unknown = sorted(named.difference(self.classes))
        if unknown:
            raise ConfigurationError(
                f"the scenario names the class {unknown[0]!r}; {self.scenario.source} has {', '.join(self.classes)}"
            )

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.scenario.seed, *stream])


def _pool(scenario: Scenario, items: Sequence[SourceItem]) -> _Pool:
    numbers: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        numbers.setdefault(_label(item), []).append(number)
    rng = np.random.default_rng([scenario.seed, _SHUFFLE])
    shuffled = {name: rng.permutation(np.asarray(numbers[name], np.int64)) for name in sorted(numbers)}
    return _Pool(shuffled, dict.fromkeys(shuffled, 0))


def _threshold(intensities: Mapping[str, float], severity: float) -> float:
    return float(np.quantile(list(intensities.values()), 1 - severity))


def _label(item: SourceItem) -> str:
    if item.label is None:
        raise ConfigurationError(f"{item.name} has no label; a simulated world needs the truth about every image")
    return item.label


def _counts(
    pool: _Pool, images: int, weights: Mapping[str, float], rng: np.random.Generator, what: str
) -> dict[str, int]:
    """Return how many images of each class to draw: by chance, in proportion to class size in the source × weight."""
    names = list(pool.numbers)
    left = np.array([pool.left(name) if weights[name] > 0 else 0 for name in names])
    if images > left.sum():
        raise ConfigurationError(
            f"{what} wants {images} images, {left.sum()} are left; "
            "take fewer images a month, fewer months or a larger source"
        )
    shares = np.array([len(pool.numbers[name]) * weights[name] for name in names])
    counts = rng.multinomial(images, shares / shares.sum())
    for place, name in enumerate(names):
        if counts[place] > left[place] and weights[name] > 1:
            raise ConfigurationError(
                f"{what} wants {counts[place]} images of class {name!r}, {left[place]} are left; "
                "take fewer images a month or a smaller weight"
            )
    # Toward the end of the source some class may run out first; the others fill its place.
    counts = np.minimum(counts, left)
    counts += rng.multivariate_hypergeometric(left - counts, images - int(counts.sum()))
    return dict(zip(names, counts.tolist(), strict=True))
