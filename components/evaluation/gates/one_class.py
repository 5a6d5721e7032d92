"""Promote a candidate or keep the champion? A pure judgement of both models' answers on the same images.

Overall the candidate must be shown not to be worse by more than a margin. No class may be shown to be worse by more
than its margin. In a class that raised an alarm the candidate must be better, by the point estimate and at a lenient p:
the few labels of one month cannot prove more, and a gate that asks for more would never let a repaired model through.
The first model, and a class the champion does not know, meet a floor and the trivial baseline instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.gates.checks import (
    METRICS,
    MOST_NAMED,
    alarmed_check,
    new_class_check,
    none_worse_check,
    points,
    verdict,
)
from components.evaluation.metrics.paired import Difference, class_difference, overall_difference
from components.params import Gate
from components.records import GateCheck, GateVerdict

ALPHA = 0.05
# With many classes the level is shared, so that chance alone is not expected to refuse even half a class.
EXPECTED_FALSE_REFUSALS = 0.5

MOST_NUMBERED = 200  # classes whose numbers a verdict keeps, the worst
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class CandidateResults:
    """One model's answers on the gate's images: golden and validation, never trained on.

    classes: the class list this model knows; a champion's, by the candidate's names. labels, predicted: (N,) indices
    into the candidate's class list; -1 where the champion answers a class the candidate does not have. ece: expected
    calibration error on these images. parity_ok: whether the exported file agrees with the trained model. The
    champion's last two are not looked at.
    note: in words, what its answers were carried over from, where it answers an older class list.
    """

    classes: tuple[str, ...]
    labels: IntArray
    predicted: IntArray
    ece: float = float("nan")
    parity_ok: bool = False
    note: str = ""


def judge_candidate(
    candidate: CandidateResults,
    champion: CandidateResults | None,
    *,
    alarmed: Mapping[str, Sequence[str]],
    rules: Gate,
    champion_expected: bool,
) -> GateVerdict:
    """Return every check of `candidate` with its numbers; it may be promoted only if all passed.

    alarmed: the classes that raised an alarm, each with the rules that did ("precision", "recall"). champion_expected:
    whether this service has a champion; if it has and `champion` is None, the gate refuses. Raises DataError if the
    arrays do not belong together.
    """
    _check_arrays(candidate, champion)
    return verdict(
        candidate,
        rules,
        measure="expected calibration error",
        nothing="" if len(candidate.labels) else "there is no labelled image to judge on",
        missing=champion is None and champion_expected,
        comparison=lambda: (
            [_first_model(candidate, rules)]
            if champion is None
            else _against_champion(candidate, champion, alarmed, rules)
        ),
    )


def _against_champion(
    candidate: CandidateResults, champion: CandidateResults, alarmed: Mapping[str, Sequence[str]], rules: Gate
) -> list[GateCheck]:
    old = set(champion.classes)
    known = [k for k, name in enumerate(candidate.classes) if name in old]
    new = [k for k, name in enumerate(candidate.classes) if name not in old]
    paired = np.isin(candidate.labels, known)
    checks = [_overall(candidate.labels[paired], candidate.predicted[paired], champion.predicted[paired], rules)]
    checks.append(_classes_not_worse(candidate, champion, known, paired, rules))
    for name, metrics in sorted(alarmed.items()):
        if name in old:
            checks.append(_alarmed_class(candidate, champion, name, metrics, rules))
    if champion.note:
        checks.append(GateCheck("class list", True, f"the champion answers an older one: {champion.note}"))
    return checks + _folded(
        [new_class_check(candidate.classes[k], candidate.labels == k, candidate.predicted == k, rules) for k in new]
    )


def _folded(checks: list[GateCheck]) -> list[GateCheck]:
    """Return the checks of new classes: one each where they are few, else one of them all that names the worst."""
    if len(checks) <= MOST_NAMED:
        return checks
    worst = sorted(checks, key=lambda c: (c.passed, min(c.numbers.get("recall", 0), c.numbers.get("precision", 0))))
    failed = [check for check in worst if not check.passed]
    said = [f"{check.name.removeprefix('new class ')}: {check.detail}" for check in failed[:MOST_NAMED]]
    more = [f"and {len(failed) - MOST_NAMED} more"] if len(failed) > MOST_NAMED else []
    detail = "; ".join([f"{len(failed)} of {len(checks)} do not reach the floor", *said, *more])
    numbers = {check.name: dict(check.numbers) for check in worst[:MOST_NUMBERED]}
    return [GateCheck("new classes", not failed, detail, numbers)]


def _first_model(candidate: CandidateResults, rules: Gate) -> GateCheck:
    """Return the check of a service's first model: the floor, and more than always answering the commonest class."""
    labels = candidate.labels
    right = candidate.predicted == labels
    accuracy = float(right.mean())
    majority = int(np.bincount(labels, minlength=len(candidate.classes)).argmax())
    trivial = float((labels == majority).mean())
    gain = overall_difference(labels, candidate.predicted, np.full(len(labels), majority))
    bound = gain.lower(ALPHA)
    passed = accuracy >= rules.floor and bound > 0
    detail = (
        f"accuracy {100 * accuracy:.1f} %, floor {100 * rules.floor:.1f} %; always answering "
        f"{candidate.classes[majority]!r} gives {100 * trivial:.1f} %"
    )
    numbers = {
        "accuracy": accuracy,
        "floor": rules.floor,
        "majority": trivial,
        "gain_lower": bound,
        "images": len(labels),
    }
    return GateCheck("first model", passed, detail, numbers)


def _overall(labels: IntArray, candidate: IntArray, champion: IntArray, rules: Gate) -> GateCheck:
    if len(labels) == 0:
        return GateCheck("overall", False, "no image of a class that the champion knows")
    difference = overall_difference(labels, candidate, champion)
    bound = difference.lower(ALPHA)
    detail = (
        f"accuracy {points(difference.value)} points, with 95 % confidence at least {points(bound)}; "
        f"{points(-rules.margin)} is allowed"
    )
    numbers = {
        "candidate": float((candidate == labels).mean()),
        "champion": float((champion == labels).mean()),
        "difference": difference.value,
        "lower": bound,
        "margin": rules.margin,
        "images": len(labels),
    }
    return GateCheck("overall", bound > -rules.margin, detail, numbers)


def _classes_not_worse(
    candidate: CandidateResults,
    champion: CandidateResults,
    known: Sequence[int],
    paired: NDArray[np.bool_],
    rules: Gate,
) -> GateCheck:
    """Return one check over all classes the champion knows, in recall and precision: none is shown to be worse."""
    alpha = min(ALPHA, EXPECTED_FALSE_REFUSALS / max(len(known), 1))
    labels, new, old = candidate.labels[paired], candidate.predicted[paired], champion.predicted[paired]
    about = _images_by_class(labels, new, old)
    found: list[tuple[float, str, Difference]] = []
    for k in known:
        some = about(k)
        for metric in METRICS:
            difference = class_difference(labels[some], new[some], old[some], k, metric)
            if difference is not None:
                found.append((difference.upper(alpha), f"{candidate.classes[k]} {metric}", difference))
    worse = sorted((one for one in found if one[0] < -rules.class_margin), key=lambda one: one[0])
    kept = found if len(known) <= MOST_NUMBERED else sorted(found, key=lambda one: one[0])[:MOST_NUMBERED]
    numbers: dict[str, object] = {"alpha": alpha, "class_margin": rules.class_margin}
    numbers |= {name: [difference.value, upper, difference.images] for upper, name, difference in kept}
    said = [f"{name} {points(one.value)} points (at most {points(upper)})" for upper, name, one in worse]
    return none_worse_check(said, f"{len(known)} classes", numbers, rules)


def _images_by_class(*columns: IntArray) -> Callable[[int], IntArray]:
    """Return a function from a class to the images on which one of the columns (N,) says it, in their order.

    Sorted once: with 10,000 classes, looking at every image for each would take minutes.
    """
    orders = [np.argsort(column, kind="stable") for column in columns]
    ranked = [column[order] for column, order in zip(columns, orders, strict=True)]

    def about(k: int) -> IntArray:
        spans = [np.searchsorted(column, (k, k + 1)) for column in ranked]
        found = [order[start:end] for order, (start, end) in zip(orders, spans, strict=True)]
        return np.unique(np.concatenate(found))

    return about


def _alarmed_class(
    candidate: CandidateResults, champion: CandidateResults, name: str, metrics: Sequence[str], rules: Gate
) -> GateCheck:
    title = f"alarmed class {name}"
    if name not in candidate.classes:
        return GateCheck(title, False, "the candidate does not know this class")
    columns = candidate.labels, candidate.predicted, champion.predicted
    return alarmed_check(title, columns, candidate.classes.index(name), metrics, rules)


def _check_arrays(candidate: CandidateResults, champion: CandidateResults | None) -> None:
    size = len(candidate.classes)
    if candidate.labels.shape != candidate.predicted.shape or candidate.labels.ndim != 1:
        raise DataError(
            f"the candidate's labels have shape {candidate.labels.shape}, its answers {candidate.predicted.shape}; "
            "both must be (N,) for the same images"
        )
    for what, values in (("label", candidate.labels), ("answer", candidate.predicted)):
        if len(values) and not (values.min() >= 0 and values.max() < size):
            raise DataError(f"a {what} lies outside the candidate's {size} classes: {values.min()} to {values.max()}")
    if champion is None:
        return
    if not np.array_equal(champion.labels, candidate.labels) or champion.predicted.shape != candidate.labels.shape:
        raise DataError("candidate and champion were not judged on the same images in the same order; score both again")
