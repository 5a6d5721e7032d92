"""Two models' answers on the gate's images, put before the gate: one class an image, or several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.ingestion.class_changes import Translation
from components.data.label_sets import indicators
from components.errors import RefusedError
from components.evaluation.gates.one_class import CandidateResults, judge_candidate
from components.evaluation.gates.several import SetResults, judge_several
from components.evaluation.metrics.set_answers import label_calibration_error
from components.model.artifact import ModelSpec
from components.model.calibration import expected_calibration_error
from components.model.serving.predictor import decisions
from components.params import Params
from components.records import GateVerdict


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What a model says of the gate's images. probabilities: (N, K)."""

    spec: ModelSpec
    probabilities: NDArray[np.floating[Any]]


def put_before_gate(
    labels: Sequence[str],
    candidate: Answered,
    champion: Answered | None,
    translation: Translation | None,
    *,
    alarmed: Mapping[str, Sequence[str]],
    parity_ok: bool,
    params: Params,
) -> GateVerdict:
    """Return the gate's verdict. labels: (N,) as the manifest has them. translation: of the champion's class list.

    Raises RefusedError where only one of the models answers several labels an image: their answers do not compare.
    """
    if champion is not None and champion.spec.several != candidate.spec.several:
        raise RefusedError(
            "one of candidate and champion answers several labels an image, the other one class; a service keeps to one"
        )
    judge = _sets if candidate.spec.several else _classes
    return judge(labels, candidate, champion, translation, alarmed=alarmed, parity_ok=parity_ok, params=params)


def _classes(
    names: Sequence[str], candidate: Answered, champion: Answered | None, translation: Translation | None, *,
    alarmed: Mapping[str, Sequence[str]], parity_ok: bool, params: Params,
) -> GateVerdict:  # fmt: skip
    classes, found = candidate.spec.classes, candidate.probabilities
    index = {name: k for k, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], np.int64)
    results = CandidateResults(
        classes=classes,
        labels=labels,
        predicted=found.argmax(axis=1).astype(np.int64),
        ece=float(expected_calibration_error(found, labels, params.evaluate.ece_bins)),
        parity_ok=parity_ok,
    )
    theirs = None
    if champion is not None and translation is not None:
        # What it answers in production, in the words of today: its own answer, then the name of that.
        said = np.array(translation.places(), np.int64)[champion.probabilities.argmax(axis=1)]
        theirs = CandidateResults(tuple(translation.whole), labels, said, note=translation.describe())
    return judge_candidate(
        results, theirs, alarmed=alarmed, rules=params.gate, champion_expected=champion is not None
    )  # fmt: skip


def _sets(
    names: Sequence[str], candidate: Answered, champion: Answered | None, translation: Translation | None, *,
    alarmed: Mapping[str, Sequence[str]], parity_ok: bool, params: Params,
) -> GateVerdict:  # fmt: skip
    truth = indicators(names, candidate.spec.classes) > 0
    results = SetResults(
        classes=candidate.spec.classes,
        truth=truth,
        said=decisions(candidate.probabilities, candidate.spec)[0],
        ece=label_calibration_error(truth, candidate.probabilities, params.evaluate.ece_bins),
        parity_ok=parity_ok,
    )
    theirs = None
    if champion is not None and translation is not None:
        own = decisions(champion.probabilities, champion.spec)[0]
        said = np.zeros(truth.shape, bool)
        for before, now in enumerate(translation.places()):
            if now >= 0:  # labels that were merged since are there where one of them is
                said[:, now] |= own[:, before]
        theirs = SetResults(tuple(translation.whole), truth, said, note=translation.describe())
    return judge_several(results, theirs, alarmed=alarmed, rules=params.gate, champion_expected=champion is not None)
