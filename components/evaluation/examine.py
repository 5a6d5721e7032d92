"""The report's further questions about the judged set, each on as many images as params allow."""

from __future__ import annotations

from typing import Any

from components.data.manifest import without
from components.evaluation.baseline import linear_baseline
from components.evaluation.judged import Judged, drawn
from components.evaluation.slices import slice_rows
from components.params import Evaluate

MOST_JUDGED = 2_000  # images that the linear baseline answers


def examine(judged: Judged, outdated: frozenset[str], rules: Evaluate) -> dict[str, Any]:
    """Return what metrics.json says beside the metrics of the sets. outdated: images whose labels no longer count."""
    return {
        "baselines": {"linear": _linear(judged, outdated, rules.report.linear_images)},
        "slices": slice_rows(judged.answers.right, judged.properties()),
    }


def _linear(judged: Judged, outdated: frozenset[str], most: int) -> dict[str, Any] | None:
    stored, preprocess = judged.stored, judged.spec.preprocess
    learnt = without(stored.manifest.select("train"), outdated)
    if not most or not len(learnt):
        return None
    rows = learnt.take(drawn(len(learnt), most))
    asked = judged.drawn(MOST_JUDGED)
    return linear_baseline(
        stored.pixels(rows, preprocess),
        stored.labels(rows),
        judged.pixels(asked),
        judged.labels[asked],
        len(judged.spec.classes),
    )
