"""How many labels a window's draw asks for: what the judgements before it left open, and what newly drifted in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from components.errors import DataError
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.evidence import counts_of, judge_again
from components.monitoring.sampling.asking import (
    Judged,
    NextDraw,
    OpenQuestions,
    latest,
    left_open,
    newly_drifted,
    next_draw,
)
from components.monitoring.sampling.one_class import budget
from components.operations.monitoring.drift_watch import drift_findings
from components.operations.services import Services
from components.params import Labelling, Monitor
from components.records import StratumCounts, Window, require_utc
from components.store import champions, labelling, ledger, monitoring

logger = logging.getLogger(__name__)

RAISED = "raised"
LOOKED_BACK = 60
"""Judgements: those of a month of daily windows, each judged twice. Older ones no longer raise a draw."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What decides the size of one segment's draw, fixed when it was first drawn.

    budget: without open questions. rules: labelling's and monitor's then. before: counts of the judged window.
    """

    budget: int
    questions: OpenQuestions
    rules: Labelling
    topup_labels: int
    before: StratumCounts | None

    def draw(self, counts: StratumCounts) -> NextDraw:
        """Return the draw of a segment with `counts`; the same for the same population, whatever is drawn of it."""
        return next_draw(
            counts, self.budget, self.questions,
            labelling=self.rules, topup_labels=self.topup_labels, before=self.before,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Return the ledger's evidence; the counts of the judged window are in the row of its judgement."""
        return {
            "budget": self.budget,
            "questions": self.questions.as_json(),
            "most_factor": self.rules.most_factor,
            "max_labels": self.rules.max_labels,
            "topup_labels": self.topup_labels,
        }


def decide(
    services: Services, window: Window, version: int, *, predictions: int, reference: bool, now: datetime
) -> Asked:
    """Return what the segment's draw is made from, and record it before anything is drawn; drawn again, the same.

    A reference window, large already, is not raised.
    """
    known = _recorded(services, window, version)
    if known is not None:
        return known
    rules = services.workspace.params
    plain = budget(predictions, rules.labelling, reference=reference)
    drawn = labelling.draw_kind(services.database, window, version) is not None
    if reference or drawn:
        return Asked(plain, OpenQuestions(), rules.labelling, 0, None)
    asked = _wanted(services, window, version, plain, now)
    if asked.questions:
        ledger.record(
            services.database, kind="draw", actor="label", action=RAISED, now=now, window=window.name,
            model_version=version, classes=[name for name, _ in asked.questions.suspects], evidence=asked.as_json(),
            reason=f"asked for more than {plain} labels, at most {rules.labelling.most_factor:g} times as many: "
            + asked.questions.describe(),
        )  # fmt: skip
    return asked


def for_drift(services: Services, window: Window, version: int, *, now: datetime) -> tuple[int, bool]:
    """Return how many further labels a segment's drift brings, and whether they are drawn already.

    None where images carry several labels: their draws are not raised.
    """
    if champions.model(services.database, version).several:
        return 0, labelling.draw_kind(services.database, window, version) is not None
    counts = labelling.counts(services.database, window, version)
    kind = labelling.draw_kind(services.database, window, version)
    if kind is not None:
        known = _recorded(services, window, version)
        return (known.draw(counts).drift if known else 0), True
    if monitoring.reference_level(services.database) is None:  # it may become the reference, and is large already
        return 0, False
    predictions = int(counts.population.sum())
    plain = budget(predictions, services.workspace.params.labelling, reference=False)
    return _wanted(services, window, version, plain, now).draw(counts).drift, False


def drifted_newly(services: Services, window: Window, version: int) -> tuple[str, ...]:
    """Return the columns that drifted in the window, and had not in the one before it."""
    found = drift_findings(services, window, version)
    before = monitoring.findings(services.database, window.previous(), version)
    return newly_drifted([f.column for f in found or () if f.drifted], [f.column for f in before if f.drifted])


def _wanted(services: Services, window: Window, version: int, plain: int, now: datetime) -> Asked:
    rules = services.workspace.params
    last = latest(_judged(services, require_utc(now)), version, at=require_utc(now))
    questions = last.questions if last and last.window != window.name else OpenQuestions()
    drifted = drifted_newly(services, window, version)
    return Asked(
        plain, replace(questions, drifted=drifted), rules.labelling, rules.monitor.topup_labels,
        last.counts if last else None,
    )  # fmt: skip


def _recorded(services: Services, window: Window, version: int) -> Asked | None:
    rows = ledger.history(services.database, LOOKED_BACK, kind="draw", window=window.name)
    row = next((r for r in rows if r["action"] == RAISED and r["model_version"] == version), None)
    if row is None:
        return None
    evidence = row["evidence"]
    rules = services.workspace.params.labelling.model_copy(
        update={"most_factor": evidence["most_factor"], "max_labels": evidence["max_labels"]}
    )
    questions = OpenQuestions.from_json(evidence["questions"])
    last = latest(_judged(services, row["at"], questions.window), version, at=row["at"]) if questions.window else None
    return Asked(evidence["budget"], questions, rules, evidence["topup_labels"], last.counts if last else None)


def _judged(services: Services, at: datetime, window: str | None = None) -> Iterator[Judged]:
    """Yield the final judgements of `window` (default: of the newest judged one) that were made by `at`."""
    rows = [
        row
        for row in ledger.history(services.database, LOOKED_BACK, kind="judgement", window=window)
        if row["action"] != "ask-labels" and row["at"] <= at and row["model_version"] is not None
    ]
    for row in rows:
        if row["window"] != rows[0]["window"] or "label_counts" in row["evidence"]:
            continue
        try:
            judgement, counts = judge_again(row["evidence"]), counts_of(row["evidence"])
        except DataError as error:
            logger.warning("judgement %d is left out of what is asked: %s", row["id"], error)
            continue
        asked = left_open(row["window"], judgement, estimate(counts), Monitor(**row["evidence"]["rules"]))
        yield Judged(row["window"], int(row["model_version"]), row["at"], asked, counts)
