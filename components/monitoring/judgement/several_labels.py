"""Accuracy and judgement where an image carries several labels: each label is a problem of two classes, and judged so.

For label k every image is predicted to carry it or not to, with a confidence, and `accuracy.estimate` takes that as it
takes two classes: the precision and recall of the first class are the label's. The alarm level is shared over the K
labels as it is over K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.comparison.mix import NAMED_AT_MOST, MixChange, expected_levels, find_mix_change
from components.monitoring.estimation.accuracy import Estimates, estimate
from components.monitoring.estimation.error_rates import ErrorRates, error_rates
from components.monitoring.estimation.rates import Rates
from components.monitoring.judgement.label_reference import LabelReference, first_of
from components.monitoring.judgement.policy import Judgement, conclude, undecided
from components.monitoring.judgement.reference import Level
from components.monitoring.judgement.verdict import Stage
from components.monitoring.sampling.several_labels import of_label, plan_label_top_up
from components.params import Monitor
from components.records import LabelCounts

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NO_OVERALL = (
    "no single figure is honest for several labels: most images lack most labels, and a share of right decisions would "
    "be near 1 whatever the model does; each label has its own precision and recall"
)


@dataclass(frozen=True, slots=True, eq=False)
class LabelEstimates:
    """What one draw says of K labels in one segment of one window. Arrays are (K,).

    each: the label's own problem, of two classes, the label first. predicted: images predicted to carry it. precision,
    recall: of the label. unanswered: share of those images in strata without an answer; unanswered_overall: of all
    images, in the label's own strata. complete: whether every image predicted to carry it is labelled. labelled, drawn:
    different images.
    """

    classes: tuple[str, ...]
    each: tuple[Estimates, ...]
    predicted: IntArray
    precision: Rates
    recall: Rates
    unanswered: FloatArray
    unanswered_overall: FloatArray
    complete: NDArray[np.bool_]
    labelled: int
    drawn: int


@dataclass(frozen=True, slots=True)
class LabelMixChange(MixChange):
    """Labels that come more or less often than in the reference, each shown in its own problem."""

    def describe(self) -> str:
        """Return the change in words, as in `labels come as often as before no more: rain 10.0 % to 25.0 %`."""
        most = sorted(self.moved, key=lambda one: -abs(one[2] - one[1]))[:NAMED_AT_MOST]
        more = f" and {len(self.moved) - len(most)} more" if len(self.moved) > len(most) else ""
        named = ", ".join(f"{name} {100 * before:.1f} % to {100 * now:.1f} %" for name, before, now in most)
        return f"labels no longer as common as before: {named}{more}"


def estimate_labels(counts: LabelCounts) -> LabelEstimates:
    """Return the estimates from `counts`. Raises DataError, naming the label, if its arrays contradict each other."""
    check_label_counts(counts)
    each = tuple(estimate(of_label(counts, k)) for k in range(len(counts.classes)))
    return LabelEstimates(
        classes=counts.classes,
        each=each,
        predicted=counts.population[:, 0].sum(axis=1),
        precision=_first_rates([one.precision for one in each]),
        recall=_first_rates([one.recall for one in each]),
        unanswered=np.array([one.unanswered[0] for one in each]),
        unanswered_overall=np.array([one.unanswered_overall for one in each]),
        complete=np.array([one.complete[0] for one in each]),
        labelled=counts.settled,
        drawn=counts.tasks,
    )


def check_label_counts(counts: LabelCounts) -> None:
    """Raise DataError unless the arrays of `counts` have one shape, and every label counts the same images."""
    shape = (len(counts.classes), 2, counts.population.shape[-1])
    for name in ("population", "labelled", "present", "drawn", "confidence"):
        if getattr(counts, name).shape != shape:
            raise DataError(f"counts.{name} has shape {getattr(counts, name).shape}; with these labels it is {shape}")
    images = counts.population.sum(axis=(1, 2))
    if len(set(images.tolist())) > 1:
        k = int(np.argmax(images != images[0]))
        raise DataError(
            f"label {counts.classes[k]!r} counts {images[k]} images and {counts.classes[0]!r} {images[0]}; every image "
            "is predicted to carry a label or not to: count the window again"
        )


def label_error_rates(counts: LabelCounts, estimates: LabelEstimates) -> ErrorRates:
    """Return how often each label is named where it is not, and missed where it is."""
    found = [error_rates(of_label(counts, k), one) for k, one in enumerate(estimates.each)]
    return ErrorRates(
        tuple(rates.false_positive[0] for rates in found), tuple(rates.false_negative[0] for rates in found)
    )


def judge_labels(
    estimates: LabelEstimates, counts: LabelCounts, reference: LabelReference | None, rules: Monitor, stage: Stage
) -> Judgement:
    """Return the judgement of `estimates`, made from `counts`, against `reference`, as `judge` does for classes.

    Its top-up is (K, 2, B). A label that is no longer as common as in the reference is held to what the reference's
    model would show of it now.
    """
    if reference is None or estimates.labelled == 0:
        return undecided(estimates, reference, counts.population)
    known = reference.for_classes(estimates.classes)
    expected, mix_change = _expected(estimates, known, rules)
    return conclude(
        estimates, known, expected, mix_change,
        plan=lambda suspects: plan_label_top_up(counts, suspects, rules), rules=rules, stage=stage,
    )  # fmt: skip


def label_judgement_inputs(counts: LabelCounts, reference: LabelReference | None) -> dict[str, Any]:
    """Return what `judge_labels` was given beside rules and stage, as JSON, for the ledger."""
    return {
        "label_counts": {
            "classes": list(counts.classes),
            **{name: getattr(counts, name).tolist() for name in ("population", "labelled", "present", "drawn")},
            "confidence": np.where(np.isnan(counts.confidence), None, counts.confidence).tolist(),  # type: ignore[call-overload]
            "tasks": counts.tasks,
            "settled": counts.settled,
        },
        "reference": None if reference is None else reference.as_json(),
    }


def judge_labels_again(evidence: Mapping[str, Any]) -> Judgement:
    """Return the judgement that a ledger's evidence leads to. Raises DataError if it is not a judgement's evidence."""
    try:
        content = evidence["label_counts"]
        whole = {
            name: np.array(content[name], dtype=np.int64) for name in ("population", "labelled", "present", "drawn")
        }
        counts = LabelCounts(
            classes=tuple(str(name) for name in content["classes"]),
            confidence=np.array(content["confidence"], dtype=np.float64),
            tasks=int(content["tasks"]),
            settled=int(content["settled"]),
            **whole,
        )
        reference = evidence["reference"]
        level = None if reference is None else LabelReference.from_json(reference)
        return judge_labels(estimate_labels(counts), counts, level, Monitor(**evidence["rules"]), evidence["stage"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"not a judgement's evidence ({error!r}); take that of a ledger's row of this kind") from error


def _expected(
    estimates: LabelEstimates, known: LabelReference, rules: Monitor
) -> tuple[tuple[Level, Level], LabelMixChange | None]:
    """Return the levels (K,) the labels are held to now, and which of them became more or less common."""
    precision, recall, moved, p_values = [], [], [], []
    for name, one, level in zip(estimates.classes, estimates.each, known.each, strict=True):
        change = find_mix_change(one, level, rules)
        levels = expected_levels(one, level) if change else (level.precision, level.recall)
        precision.append(levels[0])
        recall.append(levels[1])
        if change:
            moved.append((name, float(level.mix[0]), float(one.mix[0])))
            p_values.append(change.p_value)
    mix_change = LabelMixChange(tuple(moved), min(p_values)) if moved else None
    return (first_of(precision), first_of(recall)), mix_change


def _first_rates(rates: list[Rates]) -> Rates:
    """Return the rates (K,) of the first class of each of K problems."""

    def stacked(name: str) -> FloatArray:
        return np.array([getattr(one, name)[0] for one in rates], dtype=np.float64)

    labels = np.array([one.labels[0] for one in rates], dtype=np.int64)
    names = ("value", "smoothed", "effective", "process_effective", "low", "high")
    return Rates(**{name: stacked(name) for name in names}, labels=labels)
