"""Figures of sampling, accuracy, trigger and drift in simulated worlds whose truth is known, beside those demanded.

Run: python tests/benchmarks/bench_monitoring.py [--months 300] [--processes 2]. The worlds are those of a
monitoring_world.py in the folder that PERENNIAL_BENCH_WORLD names or in ../shared/tools beside the repository, else
those of monitoring_worlds.py, of the same facts. Exits 1 if a figure is missed. About 3 minutes for 300 months on two
cores.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import monitoring_worlds
import numpy as np
from monitoring_worlds import RULES, MonthOfLabels, MonthOfStrata, both_rules, judged, precision_only, shifted

from components.monitoring.drift.findings import minimum_effect_test
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import reference_from

BUDGETS = (200, 500, 1000)
REFERENCE_FACTOR = 5
# What happens to one class: points of precision lost, and how. The class is another one every month or trial.
KINDS: dict[str, tuple[float, str] | None] = {
    "quiet": None,
    "silent 10": (10, "silent"),
    "low-confidence 10": (10, "lowconf"),
    "silent 20": (20, "silent"),
    "on the threshold 5": (5, "silent"),
}
# Demanded share found in month 1 and by month 3, in %, at 200, 500 and 1000 labels a month.
DETECTION = {
    "silent 10": ((18, 38), (61, 89), (87, 100)),
    "low-confidence 10": ((29, 47), (77, 94), (93, 100)),
    "silent 20": ((82, 98), (100, 100), (100, 100)),
}


def happening(kind: str, target: int) -> tuple[int, float, str] | None:
    """Return what the world needs to make `kind` happen to class `target`; None for a quiet month."""
    drop = KINDS[kind]
    return None if drop is None else (target, *drop)


Row = tuple[str, str, str, bool | None]


def world_module() -> Any:
    """Return the module of simulated worlds: another hand's where it is found, else our own."""
    return monitoring_worlds.other_worlds() or monitoring_worlds


# --- estimators: lines 2 to 4 -----------------------------------------------------------------------------------------


def estimator_month(seed: int, kind: str) -> dict[str, Any]:
    """Return errors and hits of every estimator in one month of `kind`."""
    world, rng = world_module(), np.random.default_rng([seed, 1])
    dropped = seed % world.CLASSES
    raw = world.month(rng, happening(kind, dropped))
    month = MonthOfLabels(raw, world.CLASSES, rng)
    confusion = month.confusion()
    precision, recall = (confusion.diagonal() / confusion.sum(axis=axis) for axis in (1, 0))
    result: dict[str, Any] = {"dropped": dropped}
    for budget in BUDGETS:
        e = estimate(month.counts(month.sizes(budget)))
        uniform = rng.choice(len(raw["truth"]), budget, replace=False)
        said = raw["predicted"][uniform]
        labels = np.bincount(said, minlength=world.CLASSES)
        right = np.bincount(said, raw["truth"][uniform] == said, world.CLASSES)
        result[f"precision error {budget}"] = e.precision.value - precision
        result[f"recall error {budget}"] = e.recall.value - recall
        result[f"precision hit {budget}"] = (e.precision.low <= precision) & (precision <= e.precision.high)
        result[f"recall hit {budget}"] = (e.recall.low <= recall) & (recall <= e.recall.high)
        result[f"uniform error {budget}"] = np.where(labels > 0, right / np.maximum(labels, 1), np.nan) - precision
    # Negative control: half the labels go to the least confident, and nobody weights them.
    least = np.argsort(raw["confidence"])[:250]
    sample = np.append(least, rng.choice(len(raw["truth"]), 250, replace=False))
    right = raw["truth"] == raw["predicted"]
    result["unweighted error"] = np.array([right[sample].mean() - right.mean()])
    return result


def estimator_rows(kind: str, months: int, run: Callable[..., Iterable[Any]]) -> list[Row]:
    gathered = defaultdict(list)
    for result in run(partial(estimator_month, kind=kind), range(months)):
        for key, value in result.items():
            gathered[key].append(value)
    table = {key: np.array(value, dtype=float) for key, value in gathered.items()}
    dropped, months_of = table["dropped"].astype(int), np.arange(months)
    rows: list[Row] = []
    for budget, rmse_wanted, high in zip(BUDGETS, (5.4, 3.5, 2.4), (99, 98, 98), strict=True):
        for metric in ("precision", "recall"):
            error = 100 * table[f"{metric} error {budget}"]
            bias = float(np.nanmean(error))
            rows.append(
                (f"{kind}, n={budget}: bias of {metric}, points", f"{bias:+.2f}", "within 0.5", abs(bias) <= 0.5)
            )
            hit = 100 * table[f"{metric} hit {budget}"]
            for where, share in (("all classes", hit.mean()), ("dropped class", hit[months_of, dropped].mean())):
                ok = 93 <= share <= high
                rows.append(
                    (f"{kind}, n={budget}: coverage of {metric}, {where}", f"{share:.1f} %", f"93-{high} %", ok)
                )
        rmse = float(np.sqrt(np.nanmean((100 * table[f"precision error {budget}"]) ** 2)))
        uniform = float(np.sqrt(np.nanmean((100 * table[f"uniform error {budget}"]) ** 2)))
        limit = rmse_wanted if kind == "quiet" else None
        rows.append(at_most(f"{kind}, n={budget}: RMSE of precision, points", rmse, limit))
        rows.append(
            at_most(f"{kind}, n={budget}: RMSE over uniform's", rmse / uniform, 0.85 if budget == 500 else None)
        )
    off = abs(100 * float(table["unweighted error"].mean()))
    rows.append((f"{kind}: unweighted half-least-confident mean is off by, points", f"{off:.1f}", ">= 15", off >= 15))
    return rows


# --- trigger: lines 5 to 7 --------------------------------------------------------------------------------------------


def year(seed: int) -> dict[tuple[int, str], list[tuple[int, int]]]:
    """Return (alarmed classes, further labels) of twelve quiet months, per budget and rule set."""
    world, rng = world_module(), np.random.default_rng([seed, 2])
    first = MonthOfLabels(world.month(rng), world.CLASSES, rng)
    references = {
        n: reference_from(estimate(first.counts(first.sizes(REFERENCE_FACTOR * n))), "first") for n in BUDGETS
    }
    result: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for _ in range(12):
        month = MonthOfLabels(world.month(rng), world.CLASSES, rng)
        for n in BUDGETS:
            for name, keep in (("precision rule", precision_only), ("both rules", both_rules)):
                alarmed, extra = judged(month, n, references[n], keep)
                result[n, name].append((len(alarmed), extra))
    return dict(result)


def drop(seed: int, kind: str) -> dict[int, list[bool]]:
    """Return, per budget, whether each of three months with a drop alarmed for the dropped class (precision rule)."""
    world, rng = world_module(), np.random.default_rng([seed, 3])
    dropped = seed % world.CLASSES
    first = MonthOfLabels(world.month(rng), world.CLASSES, rng)
    references = {
        n: reference_from(estimate(first.counts(first.sizes(REFERENCE_FACTOR * n))), "first") for n in BUDGETS
    }
    result: dict[int, list[bool]] = defaultdict(list)
    for _ in range(3):
        month = MonthOfLabels(world.month(rng, happening(kind, dropped)), world.CLASSES, rng)
        for n in BUDGETS:
            result[n].append(dropped in judged(month, n, references[n], precision_only)[0])
    return dict(result)


def quiet_rows(years: int, run: Callable[..., Iterable[Any]]) -> list[Row]:
    gathered = defaultdict(list)
    for result in run(year, range(years)):
        for key, months in result.items():
            gathered[key].append(months)
    rows: list[Row] = []
    for (n, name), value in sorted(gathered.items()):
        table = np.array(value)  # (years, 12, 2)
        months = 100 * float((table[..., 0] > 0).mean())
        of_years = 100 * float((table[..., 0] > 0).any(axis=1).mean())
        demanded = n >= 500
        limit = (1.5 if demanded else None) if name == "precision rule" else 2.5
        rows.append(at_most(f"n={n}, {name}: false-alarm months, %", months, limit))
        rows.append(
            at_most(
                f"n={n}, {name}: false-alarm years, %", of_years, 12 if demanded and name == "precision rule" else None
            )
        )
        limit = 200 if name == "precision rule" else 300
        rows.append(at_most(f"n={n}, {name}: further labels a quiet month", float(table[..., 1].mean()), limit))
    return rows


def detection_rows(kind: str, trials: int, run: Callable[..., Iterable[Any]]) -> list[Row]:
    gathered = defaultdict(list)
    for result in run(partial(drop, kind=kind), range(trials)):
        for n, found in result.items():
            gathered[n].append(found)
    rows: list[Row] = []
    for position, n in enumerate(BUDGETS):
        found = np.array(gathered[n])
        shares = 100 * found[:, 0].mean(), 100 * found.any(axis=1).mean()
        for label, share, at in (("in month 1", shares[0], 0), ("by month 3", shares[1], 1)):
            demanded = DETECTION[kind][position][at] if kind in DETECTION else None
            rows.append(at_least(f"{kind}, n={n}: found {label}, %", share, demanded, slack=4))
    return rows


def many_classes_month(seed: int, classes: int, predictions: int) -> tuple[int, int]:
    """Return false alarms (precision rule) and further labels of one quiet month with many classes."""
    world, rng = world_module(), np.random.default_rng([seed, 4])
    service = world.ManyClasses(rng, classes, predictions)
    confidence = np.tile(service.BIN_CONFIDENCE, (classes, 1))

    def one_month() -> MonthOfStrata:
        population, right = (a.reshape(confidence.shape) for a in service.month(rng))
        return MonthOfStrata(population, right, confidence, rng)

    budget = predictions // 20
    first = one_month()
    reference = reference_from(estimate(first.counts(first.sizes(REFERENCE_FACTOR * budget))), "first")
    alarmed, extra = judged(one_month(), budget, reference, precision_only)
    return len(alarmed), extra


def many_rows(classes: int, predictions: int, months: int, run: Callable[..., Iterable[Any]]) -> list[Row]:
    work = partial(many_classes_month, classes=classes, predictions=predictions)
    table = np.array(list(run(work, range(months))), dtype=float)
    name = f"K={classes}, precision rule, {months} months"
    return [
        at_most(f"{name}: false classes a month", float(table[:, 0].mean()), 0.25),
        at_most(f"{name}: further labels a quiet month", float(table[:, 1].mean()), None),
    ]


# --- drift: line 8 ----------------------------------------------------------------------------------------------------


def drift_share(seed: int, classes: int, rows: int, points: float, repeats: int) -> float:
    rng = np.random.default_rng([seed, 5, classes, rows, int(10 * points)])
    base = np.full(classes, 0.1) if classes <= 10 else 1 / (np.arange(classes) + classes / 4)
    base = base / base.sum()
    moved = shifted(base, points)
    flagged = 0
    for _ in range(repeats):
        test = minimum_effect_test(rng.multinomial(rows, base), rng.multinomial(rows, moved), RULES.drift_v)
        flagged += test.p_value is not None and test.p_value < RULES.drift_alpha
    return flagged / repeats


def drift_rows(repeats: int) -> list[Row]:
    rows: list[Row] = []
    for classes in (10, 1000):
        for size in (10_000, 100_000, 1_000_000):
            for points in (0.0, 0.5, 2.0, 5.0, 10.0):
                share = 100 * drift_share(0, classes, size, points, repeats)
                name = f"drift, K={classes}, n={size:,}, {points:g} points: flagged, %"
                must_find = points >= 5 if classes == 10 else points >= 10 and size >= 100_000
                if points <= 2:
                    rows.append(at_most(name, share, 1.0))
                else:
                    rows.append(at_least(name, share, 99 if must_find else None))
    states = [
        minimum_effect_test([50, 50, 0], [40, 40, 20], 0.05).state,
        minimum_effect_test([50, 30, 20], [50, 50, 0], 0.05).state,
        minimum_effect_test([float("nan"), 50], [50, 50], 0.05).state,
        minimum_effect_test([100], [100], 0.05).state,
    ]
    wanted = ["ok", "ok", "undecided", "undecided"]
    ok = all(state.startswith(want) for state, want in zip(states, wanted, strict=True))
    rows.append(
        ("drift: unseen class, missing class, NaN, constant", "states" if ok else str(states), "a state each", ok)
    )
    return rows


# --- printing ---------------------------------------------------------------------------------------------------------


def at_most(name: str, reached: float, limit: float | None) -> Row:
    return (
        name,
        f"{reached:.2f}",
        "-" if limit is None else f"<= {limit:g}",
        None if limit is None else reached <= limit,
    )


def at_least(name: str, reached: float, wanted: float | None, slack: float = 0) -> Row:
    shown = "-" if wanted is None else f"{wanted:g}" + (f" - {slack:g}" if slack else "")
    return name, f"{reached:.1f}", shown, None if wanted is None else reached >= wanted - slack


def show(rows: list[Row]) -> int:
    """Print the rows and return how many figures were missed."""
    missed = 0
    for name, reached, demanded, ok in rows:
        mark = "" if ok is None else "reached" if ok else "MISSED"
        missed += mark == "MISSED"
        print(f"{name:<72}{reached:>16}{demanded:>14}  {mark}", flush=True)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=300, help="months of each world, and trials of each drop")
    parser.add_argument("--years", type=int, help="quiet years; default months / 12, at least 25")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=("estimators", "quiet", "detection", "many", "drift"))
    options = parser.parse_args()
    years = options.years or max(25, options.months // 12)
    many = max(options.months // 10, 20)
    with ProcessPoolExecutor(options.processes) as pool:
        run = partial(pool.map, chunksize=5)
        parts: dict[str, Callable[[], Iterable[list[Row]]]] = {
            "drift": lambda: [drift_rows(max(options.months, 200))],
            "estimators": lambda: (estimator_rows(kind, options.months, run) for kind in list(KINDS)[:3]),
            "quiet": lambda: [quiet_rows(years, run)],
            "detection": lambda: (detection_rows(kind, options.months, run) for kind in list(KINDS)[1:]),
            "many": lambda: (
                many_rows(classes, size, many, run) for classes, size in ((100, 200_000), (1000, 1_000_000))
            ),
        }
        missed = 0
        for name, part in parts.items():
            if options.only in (None, name):
                for rows in part():
                    missed += show(rows)
    print(f"{missed} figures missed" if missed else "every figure reached")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
