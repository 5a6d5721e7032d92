"""What a person reads of an evaluation: report.md, the confusion matrix and the reliability plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics.confusion import Confusion
from components.evaluation.page.further_sections import PARTS
from components.evaluation.page.section import escaped as _cell
from components.evaluation.page.section import percents as _interval
from components.evaluation.page.sections import headline
from components.model.calibration import reliability

SHOWN_CLASSES = 50
WORST_CLASSES = 20  # shown where there are more than that,
FOLDED_CLASSES = 500  # and so many more folded
FEW_IMAGES = 100


def markdown(metrics: Mapping[str, Any]) -> str:
    """Return the report of an evaluation's metrics, as the evaluate stage makes them, in Markdown."""
    calibration = metrics["calibration"]
    lines = [
        "# Evaluation",
        "",
        f"Backbone `{_cell(metrics['backbone'])}`, {len(metrics['class_names'])} classes. "
        f"Temperature {calibration['temperature']:.3f}, fitted on {calibration['fitted_on']} validation images, "
        f"of whose labels about {100 * calibration['label_noise']:.1f} % look wrong at random: "
        f"calibration error on the {calibration['measured_on']} set {calibration['ece_before']:.3f} before, "
        f"{calibration['ece_after']:.3f} after. Wrong labels make that error look larger, by up to their share.",
        *headline(metrics).markdown(),
    ]
    for name, part in metrics["parts"].items():
        lines += ["", *_part(name, part)]
    for make in PARTS:
        section = make(metrics)
        lines += [] if section is None else section.markdown()
    return "\n".join(lines) + "\n"


def draw_confusion(counts: Confusion, classes: Sequence[str], path: Path) -> None:
    """Write the confusion matrix, as shares of each row, to `path` as PNG; at most the 50 largest classes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = counts.present
    shown = np.sort(np.argsort(-present, kind="stable")[:SHOWN_CLASSES])
    share = counts.table(shown) / np.maximum(present[shown, None], 1)
    side = 3 + 0.45 * len(shown)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [classes[k][:24] for k in shown]
    axes.set_xticks(range(len(shown)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(shown)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if len(shown) <= 20:
        for row, column in np.ndindex(share.shape):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8
            )
    figure.savefig(path, dpi=100, metadata={"Software": None})


def draw_reliability(
    curves: Mapping[str, tuple[NDArray[np.floating], NDArray[np.bool_]]],
    bins: int,
    path: Path,
    *,
    axes_named: tuple[str, str] = ("confidence", "accuracy"),
) -> None:
    """Write how often answers come true to `path` as PNG, one named curve for each set of answers.

    curves: how probable each answer (N,) was said to be, and whether it came true (N,).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    for name, (said, true) in curves.items():
        _, share, confidence, accuracy = reliability(said, true, bins)
        filled = share > 0
        axes.plot(confidence[filled], accuracy[filled], marker="o", label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(axes_named[0])
    axes.set_ylabel(axes_named[1])
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _part(name: str, part: Mapping[str, Any]) -> list[str]:
    rows = part["classes"]
    worst = sorted((row for row in rows if row["images"]), key=lambda row: (row["f1"]["value"], row["name"]))
    few = [row["name"] for row in rows if row["images"] < FEW_IMAGES]
    lines = [
        f"## {_cell(name)}: {part['images']} images",
        "",
        f"Accuracy {_interval(part['accuracy'])}, macro-F1 {_interval(part['macro_f1'])}, "
        f"calibration error {part['ece']:.3f}, Brier {part['brier']:.3f}. "
        f"Always answering {_cell(part['baseline']['class'])} would reach {100 * part['baseline']['accuracy']:.1f} %.",
        "",
    ]
    if few:
        names = ", ".join(_cell(n) for n in few[:10]) + (" and others" if len(few) > 10 else "")
        lines += [f"Fewer than {FEW_IMAGES} images, so wide intervals: {names}.", ""]
    many = len(worst) > SHOWN_CLASSES
    if many:
        lines += [f"The {WORST_CLASSES} worst of {len(worst)} classes:", ""]
    lines += _table(worst[:WORST_CLASSES] if many else worst)
    if many:
        folded = worst[WORST_CLASSES : WORST_CLASSES + FOLDED_CLASSES]
        left = len(worst) - WORST_CLASSES - len(folded)
        more = f"; {left} better ones are in metrics.json" if left else ""
        lines += ["", f"<details><summary>The next {len(folded)} classes{more}</summary>", "", *_table(folded)]
        lines += ["", "</details>"]
    if part["confused"]:
        lines += ["", "Most often confused:", "", "| label | predicted | images |", "|---|---|---:|"]
        lines += [f"| {_cell(e['label'])} | {_cell(e['predicted'])} | {e['images']} |" for e in part["confused"]]
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| class | images | predicted | precision | recall | F1 |", "|---|---:|---:|---|---|---|"]
    return lines + [
        f"| {_cell(row['name'])} | {row['images']} | {row['predicted']} | {_interval(row['precision'])} "
        f"| {_interval(row['recall'])} | {_interval(row['f1'])} |"
        for row in rows
    ]
