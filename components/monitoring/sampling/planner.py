"""How many labels a month does it take to see a class get worse? The trigger itself, tried on simulated months.

A month stands for a window of whatever length the counts are of: those of a week or a day give budgets for one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.estimation.accuracy import check_counts, estimate, truth_shares
from components.monitoring.judgement.policy import judge, reference_from
from components.monitoring.judgement.reference import ReferenceLevel
from components.monitoring.sampling.one_class import allocate
from components.params import Labelling, Monitor
from components.records import StratumCounts, WindowLength

STEP = 1.6  # between the budgets tried
SMALLEST_BUDGET = 50
FEWEST_TRIALS_A_CLASS = 25  # below, a class's own share of months found is not reported
WINDOWS_A_YEAR: dict[WindowLength, float] = {"month": 12, "week": 365.2425 / 7, "day": 365.2425}

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBudget:
    """What a budget of `labels` a month (or week, or day: `length`) buys, from simulated months.

    by_class: (K,) of the labels, those among the predictions of each class. found: the share of months with the drop
    that raise an alarm for the dropped class. found_by_class: (K,) the same by class, NaN where too few were tried.
    false_alarms: the share of quiet months with any alarm. further: mean labels of the top-up in a quiet month.
    trials: the months of each kind that were simulated.
    """

    labels: int
    by_class: IntArray
    found: float
    found_by_class: FloatArray
    false_alarms: float
    further: float
    trials: int
    length: WindowLength = "month"

    @property
    def windows_to_alarm(self) -> float:
        """Return the expected number of windows until the alarm, each with a draw of its own."""
        return 1 / self.found if self.found > 0 else np.inf

    @property
    def months_to_alarm(self) -> float:
        """Return the expected number of months until the alarm, however long a window is."""
        return self.windows_to_alarm * WINDOWS_A_YEAR["month"] / WINDOWS_A_YEAR[self.length]

    @property
    def false_alarms_a_year(self) -> float:
        """Return the expected number of windows in a quiet year that raise an alarm."""
        return WINDOWS_A_YEAR[self.length] * self.false_alarms


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Budgets in ascending order, and the first of them that finds the drop often enough; None where none does."""

    drop: float
    power: float
    curve: tuple[PlannedBudget, ...]
    chosen: PlannedBudget | None

    @property
    def length(self) -> WindowLength:
        """Return what the budgets are of: a month, a week or a day."""
        return self.curve[0].length


def plan(
    counts: StratumCounts,
    monitor: Monitor,
    labelling: Labelling,
    *,
    drop: float,
    power: float,
    trials: int,
    seed: int,
    length: WindowLength = "month",
) -> Plan:
    """Return what budgets of labels buy in months like that of `counts`, when one class loses `drop` of its precision.

    The drop is silent: every confidence bin of the class loses the same, and no confidence tells. The dropped class is
    another one in every trial. The reference is drawn anew in every trial, `reference_factor` times as large as the
    budget. Budgets grow by 1.6 until one finds the drop with `power`, or nothing more can be drawn; that one is then
    narrowed to between the last two. length: of the window that `counts` are of. Deterministic for a `seed`.
    Raises DataError for a month without predictions.
    """
    check_counts(counts)
    population = int(counts.population.sum())
    if population == 0:
        raise DataError("the window has no predictions; there is nothing to plan a sample of")
    shares = answer_shares(counts)
    most = min(labelling.max_labels, population)
    trial = _Trial(counts, shares, monitor, labelling.reference_factor, drop, trials, seed, length)
    curve: list[PlannedBudget] = []
    labels = min(most, max(SMALLEST_BUDGET, 2 * int((counts.population > 0).sum())))
    while True:
        curve.append(trial.of(labels))
        if curve[-1].found >= power or labels >= most:
            break
        labels = min(most, int(np.ceil(labels * STEP)))
    if curve[-1].found < power:
        return Plan(drop, power, tuple(curve), None)
    while len(curve) > 1:
        low, high = curve[-2], curve[-1]
        middle = round(math.sqrt(low.labels * high.labels))
        if middle - low.labels < 0.1 * low.labels:
            break
        tried = trial.of(middle)
        if tried.found >= power:
            curve[-1] = tried
        else:
            curve.insert(-1, tried)
    return Plan(drop, power, tuple(curve), curve[-1])


def answer_shares(counts: StratumCounts) -> FloatArray:
    """Return (K, B, K + 1), the smoothed distribution of the truth in every stratum; the last column is `other`.

    Where nothing is labelled yet, a stratum is as accurate as the model is confident, and its errors go to all classes
    alike.
    """
    classes, bins = counts.population.shape
    shares = np.zeros((classes, bins, classes + 1))
    if counts.labelled.sum() == 0:
        right = np.nan_to_num(counts.confidence, nan=1.0)
        shares[:, :, :classes] = ((1 - right) / max(classes - 1, 1))[:, :, None]
        shares[np.arange(classes), :, np.arange(classes)] = right
    else:
        shares[:, :, :classes] = truth_shares(counts)
    total = shares[:, :, :classes].sum(axis=2, keepdims=True)
    shares[:, :, :classes] /= np.maximum(total, 1)
    shares[:, :, classes] = np.maximum(0, 1 - shares[:, :, :classes].sum(axis=2))
    return shares


def dropped(shares: FloatArray, class_index: int, drop: float | FloatArray) -> FloatArray:
    """Return `shares` with the predictions of one class right less often by `drop` (never below 0) in every bin.

    drop: one number, or one for each bin (B,).

    What it loses goes to the other classes as they shared its errors before, evenly where it made none.
    """
    result = shares.copy()
    own = result[class_index, :, class_index].copy()
    lost = np.minimum(own, drop)
    result[class_index, :, class_index] = 0
    others = result[class_index].copy()
    even = np.ones_like(others)
    even[:, [class_index, -1]] = 0
    others = np.where(others.sum(axis=1, keepdims=True) > 0, others, even)
    spread = others / np.maximum(others.sum(axis=1, keepdims=True), 1e-300)
    result[class_index] += lost[:, None] * spread
    result[class_index, :, class_index] = own - lost
    return result


class _Trial:
    """Simulated months of one world, judged as real ones are."""

    def __init__(
        self,
        counts: StratumCounts,
        shares: FloatArray,
        monitor: Monitor,
        reference_factor: float,
        drop: float,
        trials: int,
        seed: int,
        length: WindowLength,
    ) -> None:
        self._counts, self._shares, self._monitor = counts, shares, monitor
        self._factor, self._drop, self._trials, self._seed = reference_factor, drop, trials, seed
        self._length: WindowLength = length
        self._targets = np.flatnonzero(counts.population.sum(axis=1) > 0)

    def of(self, labels: int) -> PlannedBudget:
        classes = len(self._counts.classes)
        sizes = allocate(self._counts, labels)
        reference_sizes = allocate(self._counts, int(np.ceil(labels * self._factor)))
        found, tried = np.zeros(classes), np.zeros(classes)
        alarmed, further = 0, 0
        for number in range(self._trials):
            rng = np.random.default_rng([self._seed, number])
            target = int(self._targets[number % len(self._targets)])
            reference = reference_from(estimate(self._answered(self._shares, reference_sizes, rng)), "reference")
            alarms, extra = self._judged(self._shares, sizes, reference, rng)
            alarmed, further = alarmed + bool(alarms), further + extra
            alarms, _ = self._judged(dropped(self._shares, target, self._drop), sizes, reference, rng)
            found[target] += target in alarms
            tried[target] += 1
        enough = tried >= FEWEST_TRIALS_A_CLASS
        return PlannedBudget(
            labels=int(sizes.sum()),
            by_class=sizes.sum(axis=1),
            found=float(found.sum() / tried.sum()),
            found_by_class=np.where(enough, found / np.maximum(tried, 1), np.nan),
            false_alarms=alarmed / self._trials,
            further=further / self._trials,
            trials=self._trials,
            length=self._length,
        )

    def _judged(
        self, shares: FloatArray, sizes: IntArray, reference: ReferenceLevel, rng: np.random.Generator
    ) -> tuple[set[int], int]:
        """Return the alarmed classes of one simulated month, and the further labels it asked for."""
        counts = self._answered(shares, sizes, rng)
        judgement = judge(estimate(counts), counts, reference, self._monitor, "first")
        extra = int(judgement.top_up.sum())
        if not judgement.final:
            counts = self._answered(shares, judgement.top_up, rng, before=counts)
            judgement = judge(estimate(counts), counts, reference, self._monitor, "topped-up")
        return {alarm.class_index for alarm in judgement.alarms}, extra

    def _answered(
        self, shares: FloatArray, sizes: IntArray, rng: np.random.Generator, before: StratumCounts | None = None
    ) -> StratumCounts:
        answers = rng.multinomial(sizes, shares).astype(np.int64)
        drawn = sizes
        if before is not None:
            answers, drawn = answers + before.answers, drawn + before.drawn
        known = self._counts
        return StratumCounts(known.classes, known.population, drawn, answers, drawn, known.confidence)
