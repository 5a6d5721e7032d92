"""The figures of bench_monitoring.py with annotators who err and do not always answer: as answered, and corrected.

Run: python tests/benchmarks/bench_annotators.py [--months 300] [--processes 2] [--error 0.03] [--unanswered 0.2]. The
worlds are those of bench_monitoring.py. A tenth of the tasks is asked twice, as `labelling.check_share` has it. Exits 1
if a figure is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from bench_monitoring import (
    BUDGETS,
    KINDS,
    REFERENCE_FACTOR,
    Row,
    at_least,
    at_most,
    happening,
    show,
    world_module,
)
from monitoring_worlds import MonthOfLabels, both_rules, judged, precision_only

from components.monitoring.estimation.accuracy import estimate
from components.monitoring.estimation.annotator_error import annotator_error, corrected
from components.monitoring.judgement.policy import reference_from
from components.monitoring.sampling.one_class import draw
from components.params import Labelling
from components.records import Interval, StratumCounts

DIFFERENT_PEOPLE = 2 / 3  # of three annotators who take tasks at random, another one takes the check


@dataclass(frozen=True)
class People:
    """Annotators who give a wrong answer, any other class alike, and who leave tasks unanswered, both at random."""

    error: float
    unanswered: float


class MonthOfAnswers(MonthOfLabels):
    """A month whose tasks are answered by `people`: each prediction has one answer, the same in every draw."""

    def __init__(self, month: dict[str, np.ndarray], classes: int, rng: np.random.Generator, people: People) -> None:
        super().__init__(month, classes, rng)
        size = len(self.truth)
        self.answer = self._answers(people, rng)
        self.answered = rng.random(size) >= people.unanswered
        other = self._answers(people, rng)
        independent = rng.random(size) < (1 - people.unanswered) * DIFFERENT_PEOPLE
        self.checked = (rng.random(size) < Labelling().check_share) & independent & self.answered
        self.differs = self.answer != other

    def _answers(self, people: People, rng: np.random.Generator) -> np.ndarray:
        size = len(self.truth)
        wrong = rng.random(size) < people.error
        return np.where(wrong, (self.truth + rng.integers(1, self.classes, size)) % self.classes, self.truth)

    def counts(self, sizes: np.ndarray) -> StratumCounts:
        """Return the counts of the answers to a draw of `sizes`."""
        at = draw(self.stratum, self.u, sizes)
        at = at[self.answered[at]]
        return self._counts(self.stratum[at], self.answer[at], sizes)

    def pairs(self, sizes: np.ndarray) -> np.ndarray:
        """Return how many of a draw's images two people answered, and how many of those differ."""
        at = draw(self.stratum, self.u, sizes)
        at = at[self.checked[at]]
        return np.array([len(at), int(self.differs[at].sum())])


def estimator_month(seed: int, kind: str, people: People) -> dict[str, Any]:
    """Return errors and hits of one month of `kind`, after a reference window that was checked too."""
    world, rng = world_module(), np.random.default_rng([seed, 11])
    first = MonthOfAnswers(world.month(rng), world.CLASSES, rng, people)
    month = MonthOfAnswers(world.month(rng, happening(kind, seed % world.CLASSES)), world.CLASSES, rng, people)
    confusion = month.confusion()
    truth = {name: confusion.diagonal() / confusion.sum(axis=axis) for name, axis in (("precision", 1), ("recall", 0))}
    accuracy = confusion.trace() / confusion.sum()
    result: dict[str, Any] = {"dropped": seed % world.CLASSES}
    for budget in BUDGETS:
        sizes = month.sizes(budget)
        pairs = first.pairs(first.sizes(REFERENCE_FACTOR * budget)) + month.pairs(sizes)
        e = estimate(month.counts(sizes))
        error = annotator_error(int(pairs[0]), int(pairs[1]), world.CLASSES)
        result[f"rate {budget}"] = np.nan if error is None else error.rate
        result[f"rate hit {budget}"] = np.nan if error is None else error.low <= people.error <= error.high
        freed = None if error is None else corrected(e, error)
        for name in ("precision", "recall"):
            rates = getattr(e, name)
            _note(result, f"{name} as answered {budget}", rates.value, rates.low, rates.high, truth[name])
            found = [None] * world.CLASSES if freed is None else getattr(freed, name)
            _note(result, f"{name} corrected {budget}", *_columns(found), truth[name])
        _note(result, f"accuracy as answered {budget}", *_columns([e.accuracy]), np.array([accuracy]))
        _note(result, f"accuracy corrected {budget}", *_columns([freed and freed.accuracy]), np.array([accuracy]))
    return result


def _columns(found: Iterable[Interval | None]) -> list[np.ndarray]:
    rows = [(np.nan,) * 3 if one is None else (one.value, one.low, one.high) for one in found]
    return list(np.array(rows).T)


def _note(
    result: dict[str, Any], name: str, value: np.ndarray, low: np.ndarray, high: np.ndarray, truth: np.ndarray
) -> None:
    result[f"{name} error"] = value - truth
    result[f"{name} hit"] = np.where(np.isnan(value), np.nan, (low <= truth) & (truth <= high))
    result[f"{name} width"] = high - low


def estimator_rows(kind: str, months: int, people: People, run: Callable[..., Iterable[Any]]) -> list[Row]:
    gathered = defaultdict(list)
    for result in run(partial(estimator_month, kind=kind, people=people), range(months)):
        for key, value in result.items():
            gathered[key].append(value)
    table = {key: np.array(value, dtype=float) for key, value in gathered.items()}
    dropped, months_of = table["dropped"].astype(int), np.arange(months)
    rows: list[Row] = []
    for budget in BUDGETS:
        where = f"{kind}, n={budget}"
        rate, hit = (100 * float(np.nanmean(table[f"{name} {budget}"])) for name in ("rate", "rate hit"))
        rows.append((f"{where}: annotators' error, % (coverage)", f"{rate:.2f} ({hit:.0f})", "-", None))
        for name in ("precision", "recall", "accuracy"):
            rows += _compared(f"{where}: {name}", table, f"{name} {{}} {budget}", months_of, dropped)
    return rows


def _compared(
    where: str, table: dict[str, np.ndarray], column: str, months_of: np.ndarray, dropped: np.ndarray
) -> list[Row]:
    """Return bias, coverage and width of the corrected estimate; in brackets, as answered."""

    def both(what: str, at: tuple[np.ndarray, np.ndarray] | None = None) -> tuple[float, float]:
        columns = (table[f"{column.format(how)} {what}"] for how in ("corrected", "as answered"))
        after, before = (100 * float(np.nanmean(c if at is None else c[at])) for c in columns)
        return after, before

    (bias, raw_bias), (hit, raw_hit), (width, raw_width) = both("error"), both("hit"), both("width")
    rows = [
        (f"{where}, bias in points (as answered)", f"{bias:+.2f} ({raw_bias:+.2f})", "within 0.5", abs(bias) <= 0.5),
        (f"{where}, coverage in % (as answered)", f"{hit:.1f} ({raw_hit:.1f})", "93-99", 93 <= hit <= 99),
        (f"{where}, width in points (as answered)", f"{width:.1f} ({raw_width:.1f})", "-", None),
    ]
    if table[f"{column.format('corrected')} hit"].shape[1] > 1:
        hit, raw_hit = both("hit", (months_of, dropped))
        rows.append((f"{where}, coverage in the dropped class", f"{hit:.1f} ({raw_hit:.1f})", "-", None))
    return rows


def year(seed: int, people: People) -> dict[tuple[int, str], list[tuple[int, int]]]:
    """Return (alarmed classes, further labels) of twelve quiet months, per budget and rule set."""
    world, rng = world_module(), np.random.default_rng([seed, 12])
    first = MonthOfAnswers(world.month(rng), world.CLASSES, rng, people)
    references = {
        n: reference_from(estimate(first.counts(first.sizes(REFERENCE_FACTOR * n))), "first") for n in BUDGETS
    }
    result: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for _ in range(12):
        month = MonthOfAnswers(world.month(rng), world.CLASSES, rng, people)
        for n in BUDGETS:
            for name, keep in (("precision rule", precision_only), ("both rules", both_rules)):
                alarmed, extra = judged(month, n, references[n], keep)
                result[n, name].append((len(alarmed), extra))
    return dict(result)


def quiet_rows(years: int, people: People, run: Callable[..., Iterable[Any]]) -> list[Row]:
    gathered = defaultdict(list)
    for result in run(partial(year, people=people), range(years)):
        for key, months in result.items():
            gathered[key].append(months)
    rows: list[Row] = []
    for (n, name), value in sorted(gathered.items()):
        table = np.array(value)
        alarmed = table[..., 0] > 0
        limit = 1.5 if name == "precision rule" else 2.5
        rows.append(at_most(f"n={n}, {name}: false-alarm months, %", 100 * float(alarmed.mean()), limit))
        of_years = 100 * float(alarmed.any(axis=1).mean())
        rows.append(
            at_most(f"n={n}, {name}: false-alarm years, %", of_years, 12 if limit == 1.5 and n >= 500 else None)
        )
        limit = 200 if name == "precision rule" else 300
        rows.append(at_most(f"n={n}, {name}: further labels a quiet month", float(table[..., 1].mean()), limit))
    return rows


def found_drop(seed: int, kind: str, people: People) -> dict[int, list[bool]]:
    """Return, per budget, whether each of three months with a drop alarmed for the dropped class (precision rule)."""
    world, rng = world_module(), np.random.default_rng([seed, 13])
    dropped = seed % world.CLASSES
    first = MonthOfAnswers(world.month(rng), world.CLASSES, rng, people)
    references = {
        n: reference_from(estimate(first.counts(first.sizes(REFERENCE_FACTOR * n))), "first") for n in BUDGETS
    }
    result: dict[int, list[bool]] = defaultdict(list)
    for _ in range(3):
        month = MonthOfAnswers(world.month(rng, happening(kind, dropped)), world.CLASSES, rng, people)
        for n in BUDGETS:
            result[n].append(dropped in judged(month, n, references[n], precision_only)[0])
    return dict(result)


def detection_rows(kind: str, trials: int, people: People, run: Callable[..., Iterable[Any]]) -> list[Row]:
    gathered = defaultdict(list)
    for result in run(partial(found_drop, kind=kind, people=people), range(trials)):
        for n, found in result.items():
            gathered[n].append(found)
    rows: list[Row] = []
    for n in BUDGETS:
        found = np.array(gathered[n])
        rows.append(at_least(f"{kind}, n={n}: found in month 1, %", 100 * float(found[:, 0].mean()), None))
        rows.append(at_least(f"{kind}, n={n}: found by month 3, %", 100 * float(found.any(axis=1).mean()), None))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=300, help="months of each world, and trials of each drop")
    parser.add_argument("--years", type=int, help="quiet years; default months / 12, at least 25")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--error", type=float, default=0.03, help="share of answers that are wrong")
    parser.add_argument("--unanswered", type=float, default=0.2, help="share of tasks without an answer")
    parser.add_argument("--only", choices=("estimators", "quiet", "detection"))
    options = parser.parse_args()
    people = People(options.error, options.unanswered)
    years = options.years or max(25, options.months // 12)
    with ProcessPoolExecutor(options.processes) as pool:
        run = partial(pool.map, chunksize=5)
        parts: dict[str, Callable[[], Iterable[list[Row]]]] = {
            "estimators": lambda: (estimator_rows(kind, options.months, people, run) for kind in list(KINDS)[:3]),
            "quiet": lambda: [quiet_rows(years, people, run)],
            "detection": lambda: (detection_rows(kind, options.months, people, run) for kind in list(KINDS)[1:]),
        }
        missed = 0
        for name, part in parts.items():
            if options.only in (None, name):
                print(f"\n{name}: {people.error:.0%} of answers wrong, {people.unanswered:.0%} of tasks unanswered")
                for rows in part():
                    missed += show(rows)
    print(f"\n{missed} figures missed" if missed else "\nevery demanded figure reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
