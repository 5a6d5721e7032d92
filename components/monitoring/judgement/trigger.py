"""Has one class fallen? The breach rule, its suspects, and where further labels would tell most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.monitoring.estimation.rates import Rates
from components.monitoring.judgement.reference import Level
from components.monitoring.sampling.one_class import spread_recall_top_up, spread_top_up
from components.params import Monitor
from components.records import StratumCounts

ALPHA_REFERENCE_FLOOR = 0.10  # one-sided, for "the reference was above the floor"
LEAST_VARIANCE = 1e-12  # of a rate known exactly, such as the recall of a class that is never predicted
TOP_UP_BUDGET_SHARE = 0.10  # with many classes, the top-ups of a window are at most this share of its draw

Rule = Literal["precision", "recall"]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One class that one rule suspects or, on the merged labels, condemns. `z` is (P1 - P0) / sqrt(V1 + V0)."""

    class_index: int
    name: str
    rule: Rule
    value: float
    reference: float
    upper: float
    z: float

    def describe(self) -> str:
        """Return what was seen in words, as in `recall 3.1 % (at most 12.0 %), reference 95.2 %`."""
        return (
            f"{self.rule} {100 * self.value:.1f} % (at most {100 * self.upper:.1f} %), "
            f"reference {100 * self.reference:.1f} %"
        )


def breach(now: Rates, before: Level, rules: Monitor, alpha: float) -> BoolArray:
    """Return (K,), which classes fell at one-sided level `alpha`: by more than the tolerance, or below the floor.

    [P1 < P0 - tolerance and U < 0] or [u1 < floor and l0(.10) > floor], with
    U = (P1 - P0) + sqrt((u1 - P1)² + (P0 - l0)²). False where either side was not measured.
    """
    upper_now, lower_before = now.upper(alpha), before.lower(alpha)
    difference = now.value - before.value
    bound = difference + np.hypot(upper_now - now.value, before.value - lower_before)
    fell = (difference < -rules.tolerance) & (bound < 0)
    below_floor = (upper_now < rules.floor) & (before.lower(ALPHA_REFERENCE_FLOOR) > rules.floor)
    return np.asarray(fell | below_floor)


def suspicions(
    names: Sequence[str], rule: Rule, now: Rates, before: Level, *, breached: BoolArray, alpha: float
) -> list[Suspicion]:
    """Return the breached classes of one rule with their numbers, worst first."""
    z = (now.value - before.value) / np.sqrt(np.maximum(now.variance() + before.variance(), LEAST_VARIANCE))
    upper = now.upper(alpha)
    found = [
        Suspicion(k, names[k], rule, float(now.value[k]), float(before.value[k]), float(upper[k]), float(z[k]))
        for k in map(int, np.flatnonzero(breached))
    ]
    return sorted(found, key=lambda s: (s.z, s.class_index, s.rule))


def plan_top_up(counts: StratumCounts, suspects: Sequence[Suspicion], rules: Monitor) -> IntArray:
    """Return (K, B) further tasks for the worst of `suspects` (worst first): `topup_labels` for each class.

    At most `topup_classes` classes; with many classes, as many as a tenth of the draw pays for. A suspected precision
    is topped up where the class is predicted, a suspected recall where its images may be predicted as something else.
    All zero where every such prediction is drawn already.
    """
    plan = np.zeros_like(np.asarray(counts.population, dtype=np.int64))
    if rules.topup_labels == 0:
        return plan
    affordable = int(TOP_UP_BUDGET_SHARE * counts.drawn.sum() / rules.topup_labels)
    remaining = max(rules.topup_classes, affordable if rules.topup_classes else 0)
    seen: set[int] = set()
    drawn = counts
    for suspect in suspects:
        if suspect.class_index in seen or remaining == 0:
            continue
        seen.add(suspect.class_index)
        remaining -= 1
        extra = np.zeros_like(plan)
        if suspect.rule == "precision":
            extra[suspect.class_index] = spread_top_up(drawn, suspect.class_index, rules.topup_labels)
        else:
            extra = spread_recall_top_up(drawn, suspect.class_index, rules.topup_labels)
        plan += extra
        drawn = replace(counts, drawn=counts.drawn + plan)
    return plan
