"""A judgement can be made again from what the ledger keeps of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.errors import DataError
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.evidence import judge_again, judgement_inputs
from components.monitoring.judgement.policy import ReferenceLevel, Stage, judge, reference_from
from components.params import Monitor
from components.records import CONFIDENCE_BINS, StratumCounts

CLASSES = ("cat", "dog", "owl")
K = len(CLASSES)


def window(seed: int, right: float, labels: int) -> StratumCounts:
    """A month of random answers; one stratum is empty, and its confidence is unknown."""
    rng = np.random.default_rng(seed)
    population = rng.integers(200, 2_000, (K, CONFIDENCE_BINS))
    population[1, 0] = 0
    drawn = np.minimum(population, labels)
    labelled = rng.binomial(drawn, 0.9)
    answers = np.zeros((K, CONFIDENCE_BINS, K + 1), dtype=np.int64)
    for k, b in np.ndindex(K, CONFIDENCE_BINS):
        chances = np.full(K + 1, (1 - right) / K)
        chances[k] = right
        answers[k, b] = rng.multinomial(labelled[k, b], chances)
    confidence = np.where(population > 0, rng.uniform(0.3, 1.0, population.shape), np.nan)
    return StratumCounts(CLASSES, population, labelled, answers, drawn, confidence)


@pytest.mark.parametrize("stage", ["first", "topped-up"])
@pytest.mark.parametrize("right", [0.95, 0.75, 0.4])
def test_the_ledgers_evidence_leads_to_the_same_judgement(right: float, stage: Stage) -> None:
    reference = reference_from(estimate(window(1, 0.95, 300)), "2026-01")
    counts, rules = window(2, right, 80), Monitor(tolerance=0.07)
    made = judge(estimate(counts), counts, reference, rules, stage)
    kept = json.loads(json.dumps({**made.decision.evidence, **judgement_inputs(counts, reference)}, allow_nan=False))
    again = judge_again(kept)
    assert again.decision.as_json() == made.decision.as_json()
    assert again.classes == made.classes
    assert (again.final, again.alarmed) == (made.final, made.alarmed)
    np.testing.assert_array_equal(again.top_up, made.top_up)


def test_other_rules_may_lead_to_another_judgement() -> None:
    reference: ReferenceLevel = reference_from(estimate(window(1, 0.95, 300)), "2026-01")
    counts = window(2, 0.75, 80)
    made = judge(estimate(counts), counts, reference, Monitor(), "topped-up")
    kept = {**made.decision.evidence, **judgement_inputs(counts, reference)}
    assert made.decision.action == "retrain"
    lenient = {**kept, "rules": {**kept["rules"], "tolerance": 0.5, "floor": 0.0}}
    assert judge_again(lenient).decision.action == "none"


@pytest.mark.parametrize("evidence", [{}, {"counts": {}}, {"counts": 3, "reference": None}])
def test_what_is_no_judgement_is_refused(evidence: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not a judgement's evidence"):
        judge_again(evidence)
