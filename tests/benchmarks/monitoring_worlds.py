"""Simulated services whose truth is known, and their months as sampling, estimators and trigger meet them.

One service has ten classes and 20,000 predictions a month: 93.2 % are right, the mean confidence is 95.7 %, and 1.5 %
are wrong in a way that no confidence shows. `month` makes its predictions one by one. `ten_classes` is the same service
known by its strata alone, which is many times faster; `ManyClasses` is a long-tailed one of that form.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from components.monitoring.estimation.accuracy import Estimates, estimate
from components.monitoring.judgement.policy import ReferenceLevel, judge
from components.monitoring.sampling.one_class import allocate, draw
from components.params import Monitor
from components.records import CONFIDENCE_BINS, CONFIDENCE_EDGES, StratumCounts

RULES = Monitor()

# The ten classes: how common each is, and by how many standard deviations its score stands out where it is the truth.
COMMON = np.array([0.18, 0.15, 0.13, 0.12, 0.10, 0.09, 0.08, 0.06, 0.05, 0.04])
STANDS_OUT = np.array([3.5, 3.3, 3.2, 3.4, 3.15, 3.25, 3.5, 3.3, 3.45, 3.5])
CLASSES = len(COMMON)
PREDICTIONS = 20_000
UNSEEN = 0.015  # of all images: their truth is another class than the one that shows
TOO_SURE = 1 / 0.85  # the model's scores are larger than honest ones by this factor
SETTLED_MONTHS = 60  # from which the strata of the ten classes are known

Drop = tuple[int, float, str]


def month(rng: np.random.Generator, drop: Drop | None = None) -> dict[str, np.ndarray]:
    """Return one month of the ten classes: truth, predicted, confidence and stratum, each (20,000,).

    drop: (class, points, kind): that predicted class loses so many points of precision. Of kind "silent" any right
    prediction may turn wrong; of kind "lowconf" an unsure one is likelier to.
    """
    shown = np.repeat(np.arange(CLASSES), rng.multinomial(PREDICTIONS, COMMON))
    seen = rng.standard_normal((PREDICTIONS, CLASSES)) + np.eye(CLASSES)[shown] * STANDS_OUT
    # The log odds of a class against noise alone, a normal score's likelihood ratio, and how common the class is.
    evidence = TOO_SURE * (STANDS_OUT * (seen - STANDS_OUT / 2) + np.log(COMMON))
    predicted = evidence.argmax(axis=1)
    best = evidence.max(axis=1)
    confidence = 1 / np.exp(evidence - best[:, None]).sum(axis=1)
    unseen = rng.random(PREDICTIONS) < UNSEEN
    truth = np.where(unseen, _another(shown, rng), shown)
    if drop is not None:
        target, points, kind = drop
        right = np.flatnonzero((predicted == target) & (truth == target))
        lost = min(round(points / 100 * np.count_nonzero(predicted == target)), len(right))
        likelier = np.ones(len(right)) if kind == "silent" else 1.01 - confidence[right]
        # The smallest of exponential times: each falls with the chance that its weight gives it among those left.
        turned = right[np.argsort(rng.standard_exponential(len(right)) / likelier)[:lost]]
        truth[turned] = _another(truth[turned], rng)
    bins = np.digitize(confidence, CONFIDENCE_EDGES)
    return {
        "truth": truth,
        "predicted": predicted,
        "confidence": confidence,
        "stratum": predicted * CONFIDENCE_BINS + bins,
    }


def _another(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return for each of `classes` any other one, all alike."""
    drawn = rng.integers(CLASSES - 1, size=len(classes))
    return drawn + (drawn >= classes)


@dataclass(frozen=True, eq=False)
class Strata:
    """A service known by its strata. shares: (K, B) of all predictions; accuracy, confidence: (K, B) means."""

    shares: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    predictions: int

    def month(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return how many predictions each stratum (K, B) has in one month, and how many of them are right."""
        population = rng.multinomial(self.predictions, self.shares.reshape(-1)).reshape(self.shares.shape)
        return population, rng.binomial(population, self.accuracy)


@cache
def ten_classes() -> Strata:
    """Return the service of `month` by its strata, as many of its months show them."""
    rng, size = np.random.default_rng(20_260_101), CLASSES * CONFIDENCE_BINS
    total = np.zeros((3, size))
    for _ in range(SETTLED_MONTHS):
        one = month(rng)
        for row, weight in enumerate((None, one["truth"] == one["predicted"], one["confidence"])):
            total[row] += np.bincount(one["stratum"], weight, size)
    number, right, confidence = total.reshape(3, CLASSES, CONFIDENCE_BINS)
    return Strata(number / number.sum(), right / number, confidence / number, PREDICTIONS)


class ManyClasses:
    """A long-tailed service of many classes, whose months are counts by stratum."""

    BIN_ACCURACY = np.array([0.48, 0.70, 0.88, 0.985])
    BIN_CONFIDENCE = np.array([0.50, 0.74, 0.92, 0.992])
    BIN_WEIGHT = np.array([3.0, 7.0, 10.0, 80.0])  # of Dirichlet's distribution of a class's predictions over the bins

    def __init__(self, rng: np.random.Generator, classes: int = 1_000, predictions: int = 1_000_000) -> None:
        common = 1 / (classes / 4 + np.arange(classes))
        spread = rng.dirichlet(self.BIN_WEIGHT, classes)
        accuracy = self.BIN_ACCURACY + rng.normal(scale=0.01, size=spread.shape)
        self.strata = Strata(
            shares=common[:, None] / common.sum() * spread,
            accuracy=accuracy.clip(0, 1),
            confidence=np.tile(self.BIN_CONFIDENCE, (classes, 1)),
            predictions=predictions,
        )

    def month(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the predictions of each stratum (K * B,) in one month, and how many of them are right."""
        population, right = self.strata.month(rng)
        return population.reshape(-1), right.reshape(-1)


def silently_dropped(
    population: np.ndarray, right: np.ndarray, drop: tuple[int, float], rng: np.random.Generator
) -> np.ndarray:
    """Return `right` (K, B) after `drop` = (class, points): that class loses them wherever its predictions lie."""
    target, points = drop
    lost = min(round(points / 100 * int(population[target].sum())), int(right[target].sum()))
    fewer = right.copy()
    fewer[target] -= rng.multivariate_hypergeometric(right[target], lost)
    return fewer


class MonthOfLabels:
    """One simulated month, prediction by prediction, whose answers can be looked up for any draw."""

    def __init__(self, month: dict[str, np.ndarray], classes: int, rng: np.random.Generator) -> None:
        self.stratum, self.truth, self.predicted = month["stratum"], month["truth"], month["predicted"]
        self.classes, self.shape = classes, (classes, CONFIDENCE_BINS)
        self.u = rng.random(len(self.stratum))
        size = classes * CONFIDENCE_BINS
        self.population = np.bincount(self.stratum, minlength=size).reshape(self.shape)
        total = np.bincount(self.stratum, month["confidence"], size).reshape(self.shape)
        self.confidence = np.where(self.population > 0, total / np.maximum(self.population, 1), np.nan)

    def counts(self, sizes: np.ndarray) -> StratumCounts:
        """Return the counts of a draw of `sizes` (K, B), all of it answered."""
        at = draw(self.stratum, self.u, sizes)
        return self._counts(self.stratum[at], self.truth[at], sizes)

    def sizes(self, budget: int) -> np.ndarray:
        """Return how many to draw from each stratum for a budget."""
        nobody = np.empty(0, dtype=np.int64)
        return allocate(self._counts(nobody, nobody, np.zeros(self.shape, dtype=np.int64)), budget)

    def confusion(self) -> np.ndarray:
        """Return (K, K), the month's predictions by predicted class and truth."""
        table = np.zeros((self.classes, self.classes))
        np.add.at(table, (self.predicted, self.truth), 1)
        return table

    def _counts(self, stratum: np.ndarray, answer: np.ndarray, sizes: np.ndarray) -> StratumCounts:
        answers = np.zeros((self.classes * CONFIDENCE_BINS, self.classes + 1), dtype=np.int64)
        np.add.at(answers, (stratum, answer), 1)
        cube = answers.reshape(*self.shape, self.classes + 1)
        return StratumCounts(_names(self.classes), self.population, cube.sum(axis=2), cube, sizes, self.confidence)


class MonthOfStrata:
    """One simulated month known by its strata; a wrong prediction's answer is `other`.

    Each draw contains the one before: `sizes` may only grow.
    """

    def __init__(
        self, population: np.ndarray, right: np.ndarray, confidence: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.population, self.right, self.confidence, self._rng = population, right, confidence, rng
        self._drawn, self._found = np.zeros_like(population), np.zeros_like(population)

    def counts(self, sizes: np.ndarray) -> StratumCounts:
        """Return the counts of a draw of `sizes` (K, B), all of it answered."""
        good = self.right - self._found
        bad = self.population - self._drawn - good
        self._found = self._found + self._rng.hypergeometric(good, bad, sizes - self._drawn)
        self._drawn = sizes
        return self._counts(sizes, self._found)

    def sizes(self, budget: int) -> np.ndarray:
        """Return how many to draw from each stratum for a budget."""
        nothing = np.zeros_like(self.population)
        return allocate(self._counts(nothing, nothing), budget)

    def _counts(self, sizes: np.ndarray, found: np.ndarray) -> StratumCounts:
        classes = len(self.population)
        answers = np.zeros((*self.population.shape, classes + 1), dtype=np.int64)
        answers[np.arange(classes), :, np.arange(classes)] = found
        answers[:, :, classes] = sizes - found
        return StratumCounts(_names(classes), self.population, sizes, answers, sizes, self.confidence)


def _names(classes: int) -> tuple[str, ...]:
    return tuple(f"class {k}" for k in range(classes))


def judged(
    month: MonthOfLabels | MonthOfStrata,
    budget: int,
    reference: ReferenceLevel,
    keep: Callable[[Estimates], Estimates],
    rules: Monitor = RULES,
) -> tuple[set[int], int]:
    """Return the alarmed classes of a month judged twice, and the further labels it cost."""
    sizes = month.sizes(budget)
    counts = month.counts(sizes)
    judgement = judge(keep(estimate(counts)), counts, reference, rules, "first")
    extra = int(judgement.top_up.sum())
    if not judgement.final:
        counts = month.counts(sizes + judgement.top_up)
        judgement = judge(keep(estimate(counts)), counts, reference, rules, "topped-up")
    return {alarm.class_index for alarm in judgement.alarms}, extra


def precision_only(estimates: Estimates) -> Estimates:
    """Return the estimates with the recall rule silenced."""
    nothing = np.full(len(estimates.classes), np.nan)
    return replace(estimates, recall=replace(estimates.recall, value=nothing, process_effective=nothing))


def both_rules(estimates: Estimates) -> Estimates:
    """Return the estimates as they are."""
    return estimates


def shifted(base: np.ndarray, points: float) -> np.ndarray:
    """Return shares with `points` moved: from one of ten classes to another, or between halves of a thousand."""
    moved = base.copy()
    amount = points / 100
    if len(base) <= 10:
        moved[0] += amount
        moved[1] -= amount
        return moved
    half = np.arange(len(base)) % 2 == 0
    moved[half] *= 1 + amount / base[half].sum()
    moved[~half] *= 1 - amount / base[~half].sum()
    return moved


@cache
def other_worlds() -> Any:
    """Return the module monitoring_world.py of the folder PERENNIAL_BENCH_WORLD names, else of ../shared/tools.

    It holds worlds of the same facts by another hand; None where there is none.
    """
    beside = Path(__file__).resolve().parents[3] / "shared" / "tools"
    for folder in (os.environ.get("PERENNIAL_BENCH_WORLD"), beside):
        path = Path(folder) / "monitoring_world.py" if folder else None
        if path is not None and path.is_file():
            spec = importlib.util.spec_from_file_location("monitoring_world", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None
