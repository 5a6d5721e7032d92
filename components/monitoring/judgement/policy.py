"""The trigger: from the estimates of a window and the reference to a decision. Pure; judges a window exactly twice.

First judgement, when the draw is answered: a class that breaches at `alpha_suspect` is a suspect and is given more
labels. Second judgement, on the merged labels: a class that breaches at the alarm level, shared over the classes, is an
alarm and asks for a retraining. Judging every day instead would raise false alarms several times as often.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.monitoring.comparison.mix import MixChange, expected_levels, find_mix_change
from components.monitoring.estimation.accuracy import MOST_UNANSWERED, Estimates
from components.monitoring.estimation.rates import Rates
from components.monitoring.judgement.measured import Held, Measured
from components.monitoring.judgement.reference import (
    Level,
    ReferenceLevel,
    bettered,
    extended,
    next_level,
    reference_from,
    reference_obstacle,
    significantly_better,
)
from components.monitoring.judgement.trigger import Rule, Suspicion, breach, plan_top_up, suspicions
from components.monitoring.judgement.verdict import JUDGED, Stage, decide, evidence_of
from components.monitoring.retraining import schedule_due, should_retrain
from components.params import Monitor
from components.records import ClassAccuracy, ClassState, Decision, StratumCounts

__all__ = [
    "Judgement",
    "ReferenceLevel",
    "Stage",
    "bettered",
    "extended",
    "judge",
    "next_level",
    "reference_from",
    "reference_obstacle",
    "schedule_due",
    "should_retrain",
    "significantly_better",
]

BoolArray = NDArray[np.bool_]
Plan = Callable[[Sequence[Suspicion]], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What one judgement of one segment of one window found.

    classes: one entry a class, in the order of the class list. suspects: breaches at `alpha_suspect`, worst first.
    alarms: breaches at the alarm level; empty at the first judgement unless it is final. top_up: (K, B) further tasks,
    all zero unless the decision asks for labels. final: no further judgement of this window follows.
    """

    classes: tuple[ClassAccuracy, ...]
    suspects: tuple[Suspicion, ...]
    alarms: tuple[Suspicion, ...]
    mix_change: MixChange | None
    top_up: NDArray[np.int64]
    final: bool
    decision: Decision

    @property
    def alarmed(self) -> dict[str, tuple[Rule, ...]]:
        """Return the alarmed classes by name, each with the rules that condemned it."""
        rules: dict[str, tuple[Rule, ...]] = {}
        for alarm in self.alarms:
            rules[alarm.name] = (*rules.get(alarm.name, ()), alarm.rule)
        return rules


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """One rule's two sides and its verdicts, per class (K,)."""

    rule: Rule
    now: Rates
    before: Level
    suspect: BoolArray
    condemned: BoolArray
    sufficient: BoolArray
    alpha_suspect: float
    alpha_alarm: float


def judge(
    estimates: Estimates, counts: StratumCounts, reference: ReferenceLevel | None, rules: Monitor, stage: Stage
) -> Judgement:
    """Return the judgement of `estimates`, made from `counts`, against `reference`.

    `stage` is "first" when the draw is answered and "topped-up" when its top-up is. A first judgement whose suspects
    have nothing left to draw is final at once. Without a reference nothing is decided, and the reason says so.
    """
    if reference is None or estimates.labelled == 0:
        return undecided(estimates, reference, counts.population)
    known = reference.for_classes(estimates.classes)
    mix_change = find_mix_change(estimates, known, rules)
    expected = expected_levels(estimates, known) if mix_change else (known.precision, known.recall)
    return conclude(
        estimates, known, expected, mix_change,
        plan=lambda suspects: plan_top_up(counts, suspects, rules), rules=rules, stage=stage,
    )  # fmt: skip


def conclude(
    estimates: Measured,
    known: Held,
    expected: tuple[Level, Level],
    mix_change: MixChange | None,
    *,
    plan: Plan,
    rules: Monitor,
    stage: Stage,
) -> Judgement:
    """Return the judgement of `estimates` against `expected` precision and recall, what `known` is under today's mix.

    plan: given the suspects, worst first, returns further tasks by stratum, the first axis being the classes.
    """
    comparisons = _compare(estimates, expected, rules)
    suspects = _ranked(estimates, comparisons, alarm=False)
    top_up = plan(suspects if stage == "first" else ())
    final = stage == "topped-up" or not top_up.any()
    alarms = _ranked(estimates, comparisons, alarm=True) if final else ()
    classes = _class_results(estimates, known, comparisons, suspects=suspects, alarms=alarms, mix_change=mix_change)
    return Judgement(
        classes=classes,
        suspects=suspects,
        alarms=alarms,
        mix_change=mix_change,
        top_up=top_up,
        final=final,
        decision=decide(
            suspects,
            alarms,
            classes,
            further=int(top_up.sum()),
            final=final,
            mix_change=mix_change,
            evidence=evidence_of(estimates, known, stage, rules),
        ),
    )


def _compare(estimates: Measured, expected: tuple[Level, Level], rules: Monitor) -> tuple[_Comparison, ...]:
    precision, recall = expected
    classes = len(estimates.classes)
    sides: tuple[tuple[Rule, Rates, Level, float], ...] = (
        ("precision", estimates.precision, precision, rules.alpha_precision / classes),
        ("recall", estimates.recall, recall, rules.alpha_recall / classes),
    )
    comparisons = []
    for rule, now, before, alpha in sides:
        enough = now.process_effective >= rules.min_effective_labels
        if rule == "recall":
            # A class hardly ever predicted can look precise to the formula on a single answer.
            enough &= now.labels >= rules.min_effective_labels
            enough &= estimates.unanswered_overall <= MOST_UNANSWERED
        else:
            enough |= estimates.complete & (estimates.predicted > 0)
            enough &= estimates.unanswered <= MOST_UNANSWERED
        comparisons.append(
            _Comparison(
                rule=rule,
                now=now,
                before=before,
                suspect=breach(now, before, rules, rules.alpha_suspect),
                condemned=breach(now, before, rules, alpha) & enough,
                sufficient=enough,
                alpha_suspect=rules.alpha_suspect,
                alpha_alarm=alpha,
            )
        )
    return tuple(comparisons)


def _ranked(estimates: Measured, comparisons: Sequence[_Comparison], *, alarm: bool) -> tuple[Suspicion, ...]:
    found: list[Suspicion] = []
    for c in comparisons:
        breached, alpha = (c.condemned, c.alpha_alarm) if alarm else (c.suspect, c.alpha_suspect)
        found += suspicions(estimates.classes, c.rule, c.now, c.before, breached=breached, alpha=alpha)
    return tuple(sorted(found, key=lambda s: (s.z, s.class_index, s.rule)))


def _class_results(
    estimates: Measured,
    known: Held,
    comparisons: Sequence[_Comparison],
    *,
    suspects: Sequence[Suspicion],
    alarms: Sequence[Suspicion],
    mix_change: MixChange | None,
) -> tuple[ClassAccuracy, ...]:
    alarmed, suspected = _by_class(alarms), _by_class(suspects)
    precision = comparisons[0]
    moved = {name for name, _, _ in mix_change.moved} if mix_change else set()
    results = []
    for k, name in enumerate(estimates.classes):
        reasons = [s.describe() for s in alarmed.get(k) or suspected.get(k, [])]
        if name in moved and mix_change:
            reasons.append(mix_change.describe())
        state = _state(k, estimates, known, precision)
        if k in alarmed:
            state = ClassState.ALARM
        elif k in suspected and state is not ClassState.INSUFFICIENT:
            state = ClassState.SUSPECT
        reasons += _why_undecided(k, state, estimates, precision)
        results.append(_class_accuracy(estimates, k, state, reasons))
    return tuple(results)


def _state(k: int, estimates: Measured, known: Held, precision: _Comparison) -> ClassState:
    """Return the state of class `k` before suspects and alarms are entered."""
    if not (np.isfinite(estimates.precision.value[k]) or np.isfinite(estimates.recall.value[k])):
        return ClassState.NOT_MEASURABLE
    if not (np.isfinite(known.precision.value[k]) or np.isfinite(known.recall.value[k])):
        return ClassState.NO_REFERENCE
    return ClassState.OK if precision.sufficient[k] else ClassState.INSUFFICIENT


def _why_undecided(k: int, state: ClassState, estimates: Measured, precision: _Comparison) -> list[str]:
    """Return in words why the state of class `k` is none of ok, suspect and alarm; empty where it is one of them."""
    if state in JUDGED:
        return []
    predicted, unanswered = estimates.predicted[k], estimates.unanswered[k]
    if state is ClassState.NO_REFERENCE:
        reason = "no reference level yet: the first window that measures this class sets it"
    elif predicted == 0:
        reason = "never predicted in this window: its precision cannot be judged"
    elif estimates.precision.labels[k] == 0:
        reason = f"none of its {predicted} predictions has a settled label"
    elif unanswered > MOST_UNANSWERED:
        reason = f"{100 * unanswered:.0f} % of its predictions are in confidence bins where nobody answered: no verdict"
    else:
        reason = f"worth {precision.now.process_effective[k]:.0f} independent labels, too few for an alarm"
    return [reason]


def _by_class(found: Sequence[Suspicion]) -> Mapping[int, list[Suspicion]]:
    grouped: defaultdict[int, list[Suspicion]] = defaultdict(list)
    for suspicion in found:
        grouped[suspicion.class_index].append(suspicion)
    return grouped


def _class_accuracy(estimates: Measured, k: int, state: ClassState, reasons: Sequence[str]) -> ClassAccuracy:
    return ClassAccuracy(
        name=estimates.classes[k],
        predicted=int(estimates.predicted[k]),
        labels=int(estimates.precision.labels[k]),
        precision=estimates.precision.interval(k),
        recall=estimates.recall.interval(k),
        state=state,
        reasons=tuple(reasons),
    )


def undecided(estimates: Measured, reference: Held | None, strata: NDArray[np.int64]) -> Judgement:
    """Return the judgement that decides nothing, for want of a reference or of labels; strata: any array by stratum."""
    if estimates.labelled == 0:
        reason = "accuracy is not measurable: no settled labels for this window"
    else:
        reason = "no reference level yet: the first complete window sets it"
    results = []
    for k in range(len(estimates.classes)):
        measured = np.isfinite(estimates.precision.value[k]) or np.isfinite(estimates.recall.value[k])
        state = ClassState.NO_REFERENCE if measured and reference is None else ClassState.NOT_MEASURABLE
        results.append(_class_accuracy(estimates, k, state, (reason,)))
    nothing = np.zeros(np.shape(strata), dtype=np.int64)
    return Judgement(tuple(results), (), (), None, nothing, final=True, decision=Decision("none", reason=reason))
