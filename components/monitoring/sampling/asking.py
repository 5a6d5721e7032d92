"""How many labels the next draw asks for: more where a question stayed open, within a stated budget. Pure.

A class that was suspected on all labels of the last judged window, and not shown to have fallen, is asked about more in
the next one; so is a class that was worth too few labels for a verdict; and a window whose inputs drifted newly is
asked about more as a whole. What raises a draw lies outside it, earlier labels or unlabelled predictions, so its
estimates are those of any stratified sample, and its judgements keep their level. Each window is still judged twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.monitoring.estimation.accuracy import MOST_UNANSWERED, Estimates
from components.monitoring.judgement.policy import Judgement
from components.monitoring.judgement.trigger import Rule
from components.monitoring.sampling.one_class import allocate, spread_recall_top_up, spread_top_up
from components.params import Labelling, Monitor
from components.records import ClassState, StratumCounts

SHARE_WITHOUT_SUSPICION = 0.5
"""Of the room above the budget, what drift may take, and what classes with too few labels may: suspicions go first.

Drift does not say which class fell, and a class may stay rare for ever: neither is to double every draw.
"""
MARGIN = 1.25  # on the labels that would have been enough: the next window's strata differ a little

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OpenQuestions:
    """What is open about a service when a window of it is drawn.

    window: the last one judged for good, "" where there is none. suspects: class and rule, worst first, suspected there
    on all labels and not shown to have fallen. short: class to how many labels would have made a verdict possible.
    drifted: columns of the window to be drawn that have drifted, and had not in the window before.
    """

    window: str = ""
    suspects: tuple[tuple[str, Rule], ...] = ()
    short: Mapping[str, int] = field(default_factory=dict)
    drifted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.suspects or self.short or self.drifted)

    def describe(self) -> str:
        """Return what is open, in words."""
        parts = [f"{name} was suspected in {self.window} ({rule}) and not shown" for name, rule in self.suspects]
        if self.short:
            parts.append(f"too few labels for a verdict in {self.window}: {', '.join(self.short)}")
        if self.drifted:
            parts.append(f"new drift of {', '.join(self.drifted)}")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back, for the ledger."""
        return {**asdict(self), "suspects": [list(one) for one in self.suspects], "drifted": list(self.drifted)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OpenQuestions:
        """Return the questions that `as_json` wrote."""
        return cls(
            window=content["window"],
            suspects=tuple((name, rule) for name, rule in content["suspects"]),
            short=dict(content["short"]),
            drifted=tuple(content["drifted"]),
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement that was final, and what it left open; judged_at: when it was made."""

    window: str
    model_version: int
    judged_at: datetime
    questions: OpenQuestions
    counts: StratumCounts


@dataclass(frozen=True, slots=True, eq=False)
class NextDraw:
    """How a draw is made. sizes: (K, B) n_h. budget: what it would have been without an open question.

    suspects, short: class to further labels; drift: further labels for the window as a whole.
    """

    sizes: IntArray
    budget: int
    suspects: Mapping[str, int]
    short: Mapping[str, int]
    drift: int

    @property
    def more(self) -> int:
        """Return how many labels are asked for beyond the budget."""
        return sum(self.suspects.values()) + sum(self.short.values()) + self.drift

    def describe(self) -> str:
        """Return in words what the further labels are for, "" where there are none."""
        parts = [f"{many} for {name}, suspected before" for name, many in self.suspects.items()]
        parts += [f"{many} for {name}, which had too few" for name, many in self.short.items()]
        parts += [f"{self.drift} for drift"] if self.drift else []
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers and the words, for the ledger."""
        return {
            "labels": self.more,
            "suspects": dict(self.suspects),
            "short": dict(self.short),
            "drift": self.drift,
            "reason": self.describe(),
        }


def left_open(window: str, judgement: Judgement, estimates: Estimates, rules: Monitor) -> OpenQuestions:
    """Return what a final judgement of `estimates` leaves open; what drifted is not known from it."""
    state = {c.name: c.state for c in judgement.classes}
    suspects: dict[str, Rule] = {}
    for s in judgement.suspects:
        if state[s.name] is ClassState.SUSPECT:
            suspects.setdefault(s.name, s.rule)
    short = {}
    for k, name in enumerate(estimates.classes):
        worth, labels = float(estimates.precision.process_effective[k]), int(estimates.precision.labels[k])
        # More tasks are no remedy where nobody answers.
        answered = estimates.unanswered[k] <= MOST_UNANSWERED and labels > 0
        if state[name] is ClassState.INSUFFICIENT and answered:
            short[name] = math.ceil(MARGIN * labels * rules.min_effective_labels / max(worth, 1.0))
    return OpenQuestions(window, tuple(suspects.items()), short)


def latest(judged: Iterable[Judged], model_version: int, *, at: datetime) -> Judged | None:
    """Return the last window's judgement that was made by `at`: this model's where it was judged, else the newest."""
    known = sorted((one for one in judged if one.judged_at <= at), key=lambda one: one.judged_at)
    if not known:
        return None
    of_window = [one for one in known if one.window == known[-1].window]
    return next((one for one in reversed(of_window) if one.model_version == model_version), of_window[-1])


def next_draw(
    counts: StratumCounts,
    budget: int,
    questions: OpenQuestions,
    *,
    labelling: Labelling,
    topup_labels: int,
    before: StratumCounts | None = None,
) -> NextDraw:
    """Return the draw of a window with `counts` (population and confidence; what is drawn of it does not count).

    The budget is raised to at most `most_factor` times itself and to `max_labels`: by `topup_labels` for each suspect,
    then by what each class with too few labels lacks, the fewest first, then for drift; the latter two take at most
    half of the room each. before: the counts of the window the questions are from; with the same class list they say
    where a class's images are taken for others.
    """
    plain = allocate(counts, budget)
    most = min(labelling.most_factor * budget, labelling.max_labels, int(counts.population.sum()))
    room = max(0, math.floor(most) - int(plain.sum()))
    half, left = math.floor(room * SHARE_WITHOUT_SUSPICION), room
    if not questions or room == 0:
        return NextDraw(plain, budget, {}, {}, 0)
    index = {name: k for k, name in enumerate(counts.classes)}

    wanted_suspects: list[tuple[str, Rule, int]] = []
    for name, rule in questions.suspects:
        many = min(topup_labels, left)
        if name in index and many:
            wanted_suspects.append((name, rule, many))
            left -= many
    wanted_short: list[tuple[str, int]] = []
    of_short, known = min(left, half), {name for name, _, _ in wanted_suspects}
    for lack, name in sorted(_lacks(counts, plain, questions.short, index)):
        if name not in known and lack <= of_short:
            wanted_short.append((name, lack))
            of_short, left = of_short - lack, left - lack
    drift = min(left, half) if questions.drifted else 0

    sizes = allocate(counts, int(plain.sum()) + drift) if drift else plain
    drift = int(sizes.sum() - plain.sum())
    suspects, short = {}, {}
    for name, rule, many in wanted_suspects:
        sizes, suspects[name] = _further(counts, sizes, index[name], rule, many, before)
    for name, many in wanted_short:
        sizes, short[name] = _further(counts, sizes, index[name], "precision", many, before)
    return NextDraw(sizes, budget, _some(suspects), _some(short), drift)


def newly_drifted(now: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that have drifted `now` and had not in the window `before`.

    A reference is frozen, so what drifted stays drifted: asked about once, it is answered by the accuracy.
    """
    return tuple(column for column in now if column not in set(before))


def _lacks(
    counts: StratumCounts, plain: IntArray, short: Mapping[str, int], index: Mapping[str, int]
) -> list[tuple[int, str]]:
    """Return each class with too few labels and how many the plain draw lacks; all of a rare class are enough."""
    found = []
    for name, enough in short.items():
        if name in index:
            k = index[name]
            lack = min(enough, int(counts.population[k].sum())) - int(plain[k].sum())
            found += [(lack, name)] if lack > 0 else []
    return found


def _further(
    counts: StratumCounts, sizes: IntArray, k: int, rule: Rule, many: int, before: StratumCounts | None
) -> tuple[IntArray, int]:
    """Return sizes (K, B) with `many` more labels about class `k`, and how many that made."""
    more = np.zeros_like(sizes)
    if rule == "recall" and before is not None and before.classes == counts.classes:
        # The last window's answers tell where the class's images are taken for others; the room is this one's.
        told = StratumCounts(
            counts.classes, counts.population, before.labelled, before.answers, sizes, counts.confidence
        )
        more = spread_recall_top_up(told, k, many)
    else:
        drawn = StratumCounts(
            counts.classes, counts.population, counts.labelled, counts.answers, sizes, counts.confidence
        )
        more[k] = spread_top_up(drawn, k, many)
    return sizes + more, int(more.sum())


def _some(labels: Mapping[str, int]) -> dict[str, int]:
    return {name: many for name, many in labels.items() if many}
