"""The decision that suspects and alarms lead to, in words, with the numbers it rests on. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from components.monitoring.comparison.mix import MixChange
from components.monitoring.judgement.trigger import Suspicion
from components.params import Monitor
from components.records import ClassAccuracy, ClassState, Decision

if TYPE_CHECKING:
    from components.monitoring.judgement.measured import Held, Measured

Stage = Literal["first", "topped-up"]
JUDGED = (ClassState.OK, ClassState.SUSPECT, ClassState.ALARM)


def decide(
    suspects: Sequence[Suspicion],
    alarms: Sequence[Suspicion],
    classes: Sequence[ClassAccuracy],
    *,
    further: int,
    final: bool,
    mix_change: MixChange | None,
    evidence: Mapping[str, Any],
) -> Decision:
    """Return the decision of a judgement; `further`: the labels it asks for where it is not `final`."""
    note = f"; {mix_change.describe()}" if mix_change else ""
    found = {
        **evidence,
        "suspects": [[s.name, s.rule, s.value, s.reference, s.upper] for s in suspects],
        "alarms": [[s.name, s.rule, s.value, s.reference, s.upper] for s in alarms],
    }
    if alarms:
        reason = "accuracy fell: " + "; ".join(f"{s.name} {s.describe()}" for s in alarms) + note
        return Decision("retrain", tuple(dict.fromkeys(s.name for s in alarms)), reason, found)
    if not final:
        named = tuple(dict.fromkeys(s.name for s in suspects))
        return Decision("ask-labels", named, f"{further} more labels asked for {', '.join(named)}{note}", found)
    if suspects:
        named = tuple(dict.fromkeys(s.name for s in suspects))
        return Decision("none", (), f"suspected but not shown on all labels: {', '.join(named)}{note}", found)
    return Decision("none", (), f"{_nothing_fell(classes)}{note}", found)


def _nothing_fell(classes: Sequence[ClassAccuracy]) -> str:
    """Return that no class fell, and how many could not be judged: silence about those would read as health."""
    unjudged = Counter(str(c.state) for c in classes if c.state not in JUDGED)
    if not unjudged:
        return "no class is shown to have fallen"
    which = ", ".join(f"{count} {state}" for state, count in sorted(unjudged.items()))
    if unjudged.total() == len(classes):
        return f"no class could be judged: {which}"
    return f"no class is shown to have fallen, {unjudged.total()} of {len(classes)} could not be judged: {which}"


def evidence_of(estimates: Measured, known: Held, stage: Stage, rules: Monitor) -> dict[str, Any]:
    """Return what a judgement was made by, beside the counts and the reference."""
    return {
        "stage": stage,
        "labels": estimates.labelled,
        "drawn": estimates.drawn,
        "reference_window": known.window,
        "reference_labels": known.labels,
        "rules": rules.model_dump(),
    }
