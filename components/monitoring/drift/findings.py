"""Has a column changed by more than does not matter? A two-sample chi-square test with a smallest effect of interest.

Plain chi-square asks whether the change is non-zero: at a million rows it flags half a point. Here the null hypothesis
is "Cramér's V is at most v0", so the statistic is compared with the noncentral chi-square of that effect. The plain
p-value is recorded beside it and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from components.params import Monitor
from components.records import DriftFinding

FEWEST_ROWS = 50
FEWEST_EXPECTED = 5.0
MOST_ROWS = 1e11  # of a cell: beyond any window, and before the noncentral chi-square stops converging

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DriftTest:
    """The test of two count vectors. p_value, plain_p_value and v are None where `state` is not "ok"."""

    p_value: float | None
    plain_p_value: float | None
    v: float | None
    state: str
    reference_rows: int
    rows: int


def chi_square(p: FloatArray, q: FloatArray, reference_rows: float, rows: float) -> float:
    """Return the two-sample statistic n̄ Σ (p - q)²/pooled for shares p of `reference_rows` and q of `rows`, K cells."""
    pooled = (reference_rows * p + rows * q) / (reference_rows + rows)
    harmonic = reference_rows * rows / (reference_rows + rows)
    return float(harmonic * ((p - q) ** 2 / pooled).sum())


def minimum_effect_p_value(statistic: float, freedom: int, harmonic_rows: float, v0: float) -> float:
    """Return the p-value of "Cramér's V is at most v0"; harmonic_rows is n̄ = n0 n1 / (n0 + n1)."""
    if freedom < 1:
        return 1.0
    if v0 <= 0:
        return float(special.chdtrc(freedom, statistic))
    noncentrality = 4 * harmonic_rows * v0**2
    below = float(special.chndtr(statistic, freedom, noncentrality))
    if below < 0.5:  # far from any alarm, and nothing is lost by subtracting
        return 1 - below
    from scipy import stats

    return float(stats.ncx2.sf(statistic, freedom, noncentrality))


def minimum_effect_test(reference: ArrayLike, window: ArrayLike, v0: float) -> DriftTest:
    """Return the test of two count vectors of the same K cells, reference first.

    Cells expected below 5 are pooled. Undecidable input gives a state in words: fewer than 50 rows on a side, all rows
    in one cell, counts that are not finite numbers of at least 0, vectors of different length.
    """
    before, now = np.atleast_1d(np.asarray(reference, float)), np.atleast_1d(np.asarray(window, float))
    complaint = _complaint(before, now)
    if complaint:
        return DriftTest(None, None, None, complaint, _rows(before), _rows(now))
    rows = _rows(before), _rows(now)
    before, now = _pool_rare(before, now)
    if len(before) < 2:
        return DriftTest(None, None, None, "undecided: constant, all rows fall into one cell", *rows)
    sizes = float(before.sum()), float(now.sum())
    statistic = chi_square(before / sizes[0], now / sizes[1], *sizes)
    harmonic = sizes[0] * sizes[1] / (sizes[0] + sizes[1])
    freedom = len(before) - 1
    return DriftTest(
        p_value=minimum_effect_p_value(statistic, freedom, harmonic, v0),
        plain_p_value=float(special.chdtrc(freedom, statistic)),
        v=float(np.sqrt(max(0.0, statistic - freedom) / harmonic) / 2),
        state="ok",
        reference_rows=rows[0],
        rows=rows[1],
    )


def findings(columns: Mapping[str, tuple[ArrayLike, ArrayLike]], rules: Monitor) -> list[DriftFinding]:
    """Return one finding a column, in the order given; a column has its (reference, window) counts of the same cells.

    A column drifted if its minimum-effect p-value passes Benjamini and Hochberg's step-up at `drift_alpha` over all
    columns that could be decided.
    """
    tests = {name: minimum_effect_test(before, now, rules.drift_v) for name, (before, now) in columns.items()}
    decided = [name for name, test in tests.items() if test.p_value is not None]
    rejected = benjamini_hochberg([float(tests[name].p_value or 0.0) for name in decided], rules.drift_alpha)
    drifted = dict(zip(decided, rejected, strict=True))
    return [
        DriftFinding(
            column=name,
            p_value=test.p_value,
            v=test.v,
            drifted=drifted.get(name, False),
            plain_p_value=test.plain_p_value,
            state=test.state,
            rows=test.rows,
            reference_rows=test.reference_rows,
        )
        for name, test in tests.items()
    ]


def undecided(column: str, state: str) -> DriftFinding:
    """Return the finding of a column that could not even be counted, with the reason in `state`."""
    return replace(DriftFinding(column, None, None, drifted=False), state=f"undecided: {state}")


def benjamini_hochberg(p_values: list[float], alpha: float) -> list[bool]:
    """Return which hypotheses the step-up procedure of Benjamini and Hochberg (1995) rejects at rate `alpha`."""
    if not p_values:
        return []
    p = np.asarray(p_values)
    ranked = np.sort(p)
    below = np.flatnonzero(ranked <= alpha * np.arange(1, len(p) + 1) / len(p))
    threshold = ranked[below[-1]] if len(below) else -1.0
    return [bool(value <= threshold) for value in p]


def _complaint(before: FloatArray, now: FloatArray) -> str:
    if before.ndim != 1 or before.shape != now.shape:
        return f"undecided: the reference has {before.size} cells, the window {now.size}"
    both = np.concatenate([before, now])
    if not (np.isfinite(both) & (both >= 0) & (both <= MOST_ROWS)).all():
        return "undecided: a count is not a finite number of at least 0"
    fewest = int(min(before.sum(), now.sum()))
    if fewest < FEWEST_ROWS:
        return f"undecided: {fewest} rows on one side, fewer than {FEWEST_ROWS}"
    return ""


def _rows(counts: FloatArray) -> int:
    return int(counts[np.isfinite(counts) & (np.abs(counts) <= MOST_ROWS)].sum())


def _pool_rare(before: FloatArray, now: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the counts with cells expected below 5 on the smaller side merged into one that is expected as often."""
    occupied = (before + now) > 0
    before, now = before[occupied], now[occupied]
    total = before + now
    smaller = min(before.sum(), now.sum()) / total.sum()
    order = np.argsort(total, kind="stable")
    rare = int(np.count_nonzero(total[order] * smaller < FEWEST_EXPECTED))
    if rare:
        # The merged cell takes in further cells, rarest first, until it is expected often enough itself.
        reached = np.flatnonzero(np.cumsum(total[order]) * smaller >= FEWEST_EXPECTED)
        rare = max(rare, int(reached[0]) + 1) if len(reached) else len(order)
    merged, kept = order[:rare], order[rare:]
    if not rare:
        return before, now
    return (
        np.append(before[kept], before[merged].sum()),
        np.append(now[kept], now[merged].sum()),
    )
