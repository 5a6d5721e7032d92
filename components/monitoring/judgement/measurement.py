"""One segment as a judgement meets it, whether its images are of one class each or carry several labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from components.monitoring.estimation.accuracy import Estimates
from components.monitoring.judgement.evidence import judgement_inputs
from components.monitoring.judgement.label_reference import (
    LabelReference,
    label_reference_from,
    label_reference_obstacle,
    next_label_level,
)
from components.monitoring.judgement.measured import Held, Measured
from components.monitoring.judgement.policy import Judgement, judge
from components.monitoring.judgement.reference import ReferenceLevel, next_level, reference_from, reference_obstacle
from components.monitoring.judgement.several_labels import LabelEstimates, judge_labels, label_judgement_inputs
from components.monitoring.judgement.verdict import Stage
from components.params import Monitor
from components.records import LabelCounts, StratumCounts

L = TypeVar("L", bound=Held)
Next = tuple[str, L, tuple[str, ...]]


class Measurement(ABC, Generic[L]):
    """Counts and estimates of a segment, with the level (L) that such estimates are held to."""

    estimates: Measured

    @abstractmethod
    def read(self, stored: Mapping[str, Any]) -> L:
        """Return a stored level."""

    @abstractmethod
    def judge(self, level: L | None, rules: Monitor, stage: Stage) -> Judgement:
        """Return the judgement of the estimates against `level`."""

    @abstractmethod
    def inputs(self, level: L | None) -> dict[str, Any]:
        """Return what the judgement was made from, for the ledger."""

    @abstractmethod
    def obstacle(self) -> str | None:
        """Return why the segment cannot be what a service is held to, or None when it can."""

    @abstractmethod
    def reference(self, window: str) -> L:
        """Return the level that the segment of `window` sets."""

    @abstractmethod
    def next_level(self, level: L, window: str, *, suspected: bool, rules: Monitor) -> Next[L]:
        """Return what a final judgement makes of `level`: kept, replaced or extended, and who is new to it."""


@dataclass(frozen=True, eq=False)
class OfClasses(Measurement[ReferenceLevel]):
    """A segment whose images are of one class each."""

    counts: StratumCounts
    estimates: Estimates

    def read(self, stored: Mapping[str, Any]) -> ReferenceLevel:
        """Return a stored level. Raises DataError if it is not one."""
        return ReferenceLevel.from_json(stored)

    def judge(self, level: ReferenceLevel | None, rules: Monitor, stage: Stage) -> Judgement:
        """Return the judgement of the classes."""
        return judge(self.estimates, self.counts, level, rules, stage)

    def inputs(self, level: ReferenceLevel | None) -> dict[str, Any]:
        """Return counts and level as JSON."""
        return judgement_inputs(self.counts, level)

    def obstacle(self) -> str | None:
        """Return what keeps the segment from being a reference."""
        return reference_obstacle(self.estimates)

    def reference(self, window: str) -> ReferenceLevel:
        """Return the classes' level."""
        return reference_from(self.estimates, window)

    def next_level(
        self, level: ReferenceLevel, window: str, *, suspected: bool, rules: Monitor
    ) -> Next[ReferenceLevel]:
        """Return the classes' level from now on."""
        return next_level(level, self.estimates, window, suspected=suspected, rules=rules)


@dataclass(frozen=True, eq=False)
class OfLabels(Measurement[LabelReference]):
    """A segment whose images carry several labels."""

    counts: LabelCounts
    estimates: LabelEstimates

    def read(self, stored: Mapping[str, Any]) -> LabelReference:
        """Return a stored level. Raises DataError if it is not one."""
        return LabelReference.from_json(stored)

    def judge(self, level: LabelReference | None, rules: Monitor, stage: Stage) -> Judgement:
        """Return the judgement of the labels."""
        return judge_labels(self.estimates, self.counts, level, rules, stage)

    def inputs(self, level: LabelReference | None) -> dict[str, Any]:
        """Return counts and level as JSON."""
        return label_judgement_inputs(self.counts, level)

    def obstacle(self) -> str | None:
        """Return what keeps the segment from being a reference."""
        return label_reference_obstacle(self.estimates)

    def reference(self, window: str) -> LabelReference:
        """Return the labels' level."""
        return label_reference_from(self.estimates, window)

    def next_level(
        self, level: LabelReference, window: str, *, suspected: bool, rules: Monitor
    ) -> Next[LabelReference]:
        """Return the labels' level from now on."""
        return next_label_level(level, self.estimates, window, suspected=suspected, rules=rules)
