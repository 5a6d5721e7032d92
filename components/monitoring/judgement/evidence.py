"""What a judgement was made from, as a JSON object that makes the same judgement again: for the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.errors import DataError
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import Judgement, judge
from components.monitoring.judgement.reference import ReferenceLevel
from components.params import Monitor
from components.records import StratumCounts


def judgement_inputs(counts: StratumCounts, reference: ReferenceLevel | None) -> dict[str, Any]:
    """Return what `judge` was given beside rules and stage; answers are sparse: [class, bin, answer, number]."""
    where = np.argwhere(counts.answers)
    return {
        "counts": {
            "classes": list(counts.classes),
            "population": counts.population.tolist(),
            "drawn": counts.drawn.tolist(),
            "answers": [[*map(int, at), int(counts.answers[tuple(at)])] for at in where],
            "confidence": [[None if np.isnan(c) else float(c) for c in row] for row in counts.confidence],
        },
        "reference": None if reference is None else reference.as_json(),
    }


def judge_again(evidence: Mapping[str, Any]) -> Judgement:
    """Return the judgement that a ledger's evidence leads to. Raises DataError if it is not a judgement's evidence."""
    try:
        counts = counts_of(evidence)
        reference = evidence["reference"]
        level = None if reference is None else ReferenceLevel.from_json(reference)
        return judge(estimate(counts), counts, level, Monitor(**evidence["rules"]), evidence["stage"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"not a judgement's evidence ({error!r}); take that of a ledger's row of this kind") from error


def counts_of(evidence: Mapping[str, Any]) -> StratumCounts:
    """Return the counts that a judgement's evidence holds. Raises KeyError, TypeError or ValueError without any."""
    content = evidence["counts"]
    classes = tuple(str(name) for name in content["classes"])
    population = np.array(content["population"], dtype=np.int64)
    answers = np.zeros((*population.shape, len(classes) + 1), dtype=np.int64)
    for k, b, y, number in content["answers"]:
        answers[k, b, y] = number
    confidence = [[np.nan if c is None else c for c in row] for row in content["confidence"]]
    return StratumCounts(
        classes=classes,
        population=population,
        labelled=answers.sum(axis=2),
        answers=answers,
        drawn=np.array(content["drawn"], dtype=np.int64),
        confidence=np.array(confidence, dtype=np.float64),
    )
