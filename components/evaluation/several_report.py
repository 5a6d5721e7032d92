"""What a person reads of an evaluation of several labels an image: report.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluation.page.section import escaped as _cell
from components.evaluation.page.section import percents as _interval

WORST_LABELS = 50


def several_markdown(metrics: Mapping[str, Any]) -> str:
    """Return the report of an evaluation's metrics, as `measure_several` makes them, in Markdown."""
    calibration = metrics["calibration"]
    untuned = [row["name"] for row in metrics["labels"] if not row["tuned"]]
    lines = [
        "# Evaluation",
        "",
        f"Backbone `{_cell(metrics['backbone'])}`, {len(metrics['class_names'])} labels, any number of them an image. "
        f"Each label's probability and threshold were fitted on {calibration['fitted_on']} validation images; mean "
        f"calibration error on the {_cell(calibration['measured_on'])} set "
        f"{_number(calibration['ece_before'])} before, {_number(calibration['ece_after'])} after.",
    ]
    if untuned:
        names = ", ".join(_cell(name) for name in untuned[:10]) + (" and others" if len(untuned) > 10 else "")
        lines += ["", f"Too rare there for a threshold of their own, which is 0.5: {names}."]
    for name, part in metrics["parts"].items():
        lines += ["", *_part(name, part, {row["name"]: row["threshold"] for row in metrics["labels"]})]
    return "\n".join(lines) + "\n"


def _part(name: str, part: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[str]:
    none = part["without_labels"]
    carried = [row for row in part["classes"] if row["images"]]
    worst = sorted(carried, key=lambda row: ((row["f1"] or {"value": 0.0})["value"], row["name"]))[:WORST_LABELS]
    lines = [
        f"## {_cell(name)}: {part['images']} images",
        "",
        f"Mean average precision {_interval(part['map'])}, macro-F1 {_interval(part['macro_f1'])} (always answering "
        f"every label: {_number(part['baseline']['macro_f1'])}), all labels of an image right in "
        f"{_interval(part['exact_match'])}.",
        "",
        f"{none['images']} images carry no label; of these the answer is none in "
        f"{_interval(none['answered_with_none'])}.",
        "",
    ]
    if len(worst) < len(carried):
        lines += [f"The {len(worst)} worst of {len(carried)} labels; the others are in metrics.json:", ""]
    lines += [
        "| label | images | predicted | threshold | precision | recall | F1 | average precision |",
        "|---|---:|---:|---:|---|---|---|---|",
    ]
    return lines + [
        f"| {_cell(row['name'])} | {row['images']} | {row['predicted']} | {thresholds[row['name']]:.2f} "
        f"| {_interval(row['precision'])} | {_interval(row['recall'])} | {_interval(row['f1'])} "
        f"| {_interval(row['average_precision'])} |"
        for row in worst
    ]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
