"""A simulated service in counts alone: no images, but strata, answers and a known truth, window by window.

A window is a table of probabilities over predicted class, confidence bin and truth. Drops and changes of the class mix
act on that table; people's answers are drawn from it. Nothing here knows of rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, model_validator

from components.errors import ConfigurationError
from components.monitoring.judgement.policy import Stage
from components.monitoring.judgement.trigger import Rule
from components.monitoring.sampling.planner import answer_shares, dropped
from components.params import OpenShare, Section, Share, parse_strictly
from components.records import StratumCounts

FALL = 0.01  # of a class's true precision or recall, from which an alarm that names it is true
AVERSION = 0.01  # to breaking the surest answers, where errors concentrate at low confidence

# The default service: ten classes of unequal size, and how accurate and how sure a model is in each confidence bin.
PREDICTIONS = 20_000
CLASS_SHARES = (0.18, 0.15, 0.13, 0.12, 0.10, 0.09, 0.08, 0.06, 0.05, 0.04)
BIN_SHARES = (0.03, 0.07, 0.10, 0.80)
BIN_ACCURACY = (0.48, 0.70, 0.88, 0.985)
BIN_CONFIDENCE = (0.50, 0.74, 0.92, 0.992)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Rate = Annotated[float, Field(ge=0, le=50)]


class Climate(Section):
    """How often what happens. Events come independently, each at most once a window; a window without any is quiet.

    silent_drops, low_confidence_drops: a year; one class's precision falls by points within drop_points, at every
    confidence alike or mostly where confidence is low, until a retraining helps. mix_changes: a year; one class comes
    by a factor within mix_factor more often, or less, to the year's end. repair_chance: that a retraining's candidate
    passes its gate; it then knows every drop whose window had closed before it was trained.
    """

    silent_drops: Rate = 1.0
    low_confidence_drops: Rate = 0.5
    mix_changes: Rate = 0.5
    drop_points: tuple[OpenShare, OpenShare] = (0.05, 0.20)
    mix_factor: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (2.0, 4.0)
    repair_chance: Share = 0.8

    @model_validator(mode="after")
    def _ordered(self) -> Climate:
        for name in ("drop_points", "mix_factor"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} goes from {low:g} to {high:g}; write the smaller one first")
        return self

    def quiet_share(self, windows_a_year: int) -> float:
        """Return the expected share of windows in which nothing new happens."""
        rates = (self.silent_drops, self.low_confidence_drops, self.mix_changes)
        return float(np.prod([1 - min(rate / windows_a_year, 1) for rate in rates]))


def load_climate(path: Path) -> Climate:
    """Return the climate in a YAML file. Raises ConfigurationError, in one line, naming key, value and remedy."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"climate {path} does not exist") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"climate {path} is not readable YAML: {' '.join(str(error).split())}") from error
    return parse_strictly(Climate, content if content is not None else {}, str(path))


@dataclass(frozen=True, slots=True)
class Drop:
    """One class gets worse in window number `window` (from 0). touched: (class index, rule) whose truth falls by it."""

    window: int
    class_index: int
    points: float
    low_confidence: bool
    touched: frozenset[tuple[int, Rule]] = frozenset()


@dataclass(frozen=True, slots=True)
class MixChange:
    """From window number `window` on, one class comes `factor` times as often."""

    window: int
    class_index: int
    factor: float


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens in one year, whatever the rules: the same for all that are compared."""

    drops: tuple[Drop, ...]
    mix_changes: tuple[MixChange, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The world of one window: probabilities (K, B, K + 1) of predicted class, confidence bin and truth; sum to 1."""

    table: FloatArray

    @property
    def accuracy(self) -> float:
        """Return the share of predictions that are right."""
        return float(self._right.sum())

    @property
    def strata(self) -> FloatArray:
        """Return the probability of every stratum (K, B)."""
        return np.asarray(self.table.sum(axis=2))

    def rates(self) -> dict[Rule, FloatArray]:
        """Return true precision and recall (K,) of every class, NaN where there is none."""
        right = self._right.sum(axis=1)
        predicted, actual = self.table.sum(axis=(1, 2)), self.table.sum(axis=(0, 1))[:-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"precision": right / predicted, "recall": right / actual}

    @property
    def _right(self) -> FloatArray:
        every = np.arange(self.table.shape[0])
        return np.asarray(self.table[every, :, every])


class CountedWorld:
    """A service whose quiet windows look like `counts`: its classes, confidences and errors, sampled anew each time."""

    def __init__(self, counts: StratumCounts) -> None:
        """counts: of a labelled window. Raises ConfigurationError for one without predictions."""
        total = int(counts.population.sum())
        if total == 0:
            raise ConfigurationError("a simulated service needs a window with predictions; name another with --window")
        self.classes = counts.classes
        self.predictions = total
        self.confidence = counts.confidence
        self._healthy = counts.population[:, :, None] / total * answer_shares(counts)
        self._targets = np.flatnonzero(counts.population.sum(axis=1) > 0)

    def weather(self, rng: np.random.Generator, climate: Climate, windows: int, a_year: int) -> Weather:
        """Return what happens in windows 1 to `windows` - 1; window 0 is quiet, it sets the reference level."""
        drops: list[Drop] = []
        changes: list[MixChange] = []
        for window in range(1, windows):
            # Every window uses up the same random numbers, so that a rarer event moves no other.
            happens = rng.random(3) * a_year < (
                climate.silent_drops, climate.low_confidence_drops, climate.mix_changes
            )  # fmt: skip
            classes = rng.choice(self._targets, 3)
            points = rng.uniform(*climate.drop_points, 2)
            factor = rng.uniform(*climate.mix_factor) ** rng.choice((-1, 1))
            if happens[2]:
                changes.append(MixChange(window, int(classes[2]), float(factor)))
            for number, low_confidence in enumerate((False, True)):
                if happens[number]:
                    drop = Drop(window, int(classes[number]), float(points[number]), low_confidence)
                    drops.append(self._with_effect(drop, changes))
        return Weather(tuple(drops), tuple(changes))

    def truth(self, drops: Sequence[Drop], changes: Sequence[MixChange]) -> Truth:
        """Return the world with these drops and changes of the mix in force."""
        weight = np.ones(len(self.classes) + 1)
        for change in changes:
            weight[change.class_index] *= change.factor
        table = self._healthy * weight
        table /= table.sum()
        strata = table.sum(axis=2)
        shares = table / np.where(strata > 0, strata, 1)[:, :, None]
        for drop in drops:
            shares = dropped(shares, drop.class_index, self._lost(shares, strata, drop))
        return Truth(shares * strata[:, :, None])

    def _lost(self, shares: FloatArray, strata: FloatArray, drop: Drop) -> FloatArray:
        """Return by how much each confidence bin (B,) of the class gets worse, so that the class does by `points`."""
        k = drop.class_index
        if not drop.low_confidence:
            return np.full(strata.shape[1], drop.points)
        right = strata[k] * shares[k, :, k]
        wanted = min(drop.points * strata[k].sum(), float(right.sum()))
        weight = right * (1 - np.nan_to_num(self.confidence[k], nan=1.0) + AVERSION)
        lost = np.zeros_like(right)
        for _ in right:  # what a bin cannot lose any more, the others lose
            room = np.where(lost < right, weight, 0)
            if room.sum() <= 0 or wanted - lost.sum() <= 0:
                break
            lost = np.minimum(lost + (wanted - lost.sum()) * room / room.sum(), right)
        return np.asarray(np.where(strata[k] > 0, lost / np.where(strata[k] > 0, strata[k], 1), 0))

    def _with_effect(self, drop: Drop, changes: Sequence[MixChange]) -> Drop:
        before, after = self.truth((), changes).rates(), self.truth((drop,), changes).rates()
        touched = {(int(k), rule) for rule in before for k in np.flatnonzero(before[rule] - after[rule] >= FALL)}
        return Drop(drop.window, drop.class_index, drop.points, drop.low_confidence, frozenset(touched))


class SimulatedWindow:
    """One window's population and the random numbers behind every answer in it.

    Rules that draw fewer get the first answers of those that draw more, and a class that is repaired under some rules
    and not under others is the only thing that differs between them.
    """

    def __init__(self, world: CountedWorld, strata: FloatArray, rng: np.random.Generator) -> None:
        """strata: (K, B) probabilities."""
        self._world = world
        self._rng = rng
        self.population = rng.multinomial(world.predictions, (strata / strata.sum()).reshape(-1)).reshape(strata.shape)
        self._uniforms = np.empty((0, strata.size))

    def counts(self) -> StratumCounts:
        """Return the window with nothing drawn."""
        nothing = np.zeros_like(self.population)
        answers = np.zeros((*nothing.shape, len(nothing) + 1), np.int64)
        return StratumCounts(self._world.classes, self.population, nothing, answers, nothing, self._world.confidence)

    def answered(self, truth: Truth, wanted: IntArray, _: Stage) -> StratumCounts:
        """Return the counts with the first `wanted` (K, B) tasks of every stratum drawn and answered rightly."""
        drawn = np.minimum(wanted, self.population)
        sizes = drawn.reshape(-1)
        most, columns = int(sizes.max(initial=0)), len(drawn) + 1
        if most > len(self._uniforms):
            more = self._rng.random((most - len(self._uniforms), sizes.size))
            self._uniforms = np.concatenate([self._uniforms, more])
        rank, stratum = np.nonzero(np.arange(most)[:, None] < sizes)
        strata = truth.strata.reshape(-1, 1)
        cumulated = np.cumsum(truth.table.reshape(-1, columns) / np.where(strata > 0, strata, 1), axis=1)
        # One sorted list for all strata: that of number h lies within h and h + 1.
        places = np.searchsorted((cumulated + np.arange(sizes.size)[:, None]).reshape(-1),
                                 stratum + self._uniforms[rank, stratum], side="right")  # fmt: skip
        answer = np.minimum(places - stratum * columns, columns - 1)
        cells = np.bincount(stratum * columns + answer, minlength=sizes.size * columns)
        answers = cells.reshape(*drawn.shape, columns)
        return StratumCounts(self._world.classes, self.population, drawn, answers, drawn, self._world.confidence)


def default_counts() -> StratumCounts:
    """Return the default service: ten classes of unequal size, 20,000 predictions, 94 % right, labelled in full."""
    classes, bins = len(CLASS_SHARES), len(BIN_SHARES)
    population = np.rint(PREDICTIONS * np.outer(CLASS_SHARES, BIN_SHARES)).astype(np.int64)
    right = np.rint(population * np.array(BIN_ACCURACY)).astype(np.int64)
    answers = np.zeros((classes, bins, classes + 1), np.int64)
    for k in range(classes):
        others = np.array(CLASS_SHARES)
        others[k] = 0
        for b in range(bins):
            bounds = np.rint(np.cumsum(others / others.sum()) * (population[k, b] - right[k, b])).astype(np.int64)
            answers[k, b, :classes] = np.diff(bounds, prepend=0)
            answers[k, b, k] = right[k, b]
    confidence = np.tile(np.array(BIN_CONFIDENCE), (classes, 1))
    names = tuple(f"class {k + 1}" for k in range(classes))
    return StratumCounts(names, population, population, answers, population, confidence)
