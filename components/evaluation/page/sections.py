"""What the report says of an evaluation's metrics, part by part. A part whose metrics are not there is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.evaluation.metrics.slices import FEW_IMAGES
from components.evaluation.page.section import Section, Table, images, number, percent, percents

MOST_CLASS_ROWS = 60
Metrics = Mapping[str, Any]


def judged_part(metrics: Metrics) -> Metrics:
    """Return the metrics of the set that the model is judged on."""
    part: Metrics = metrics["parts"][metrics["calibration"]["measured_on"]]
    return part


def headline(metrics: Metrics) -> Section:
    """Return how good the model is on the judged set, beside what needs no network."""
    part, calibration = judged_part(metrics), metrics["calibration"]
    more, ranked = part.get("intervals", {}), part.get("roc_auc")
    rows = [("Accuracy", percents(part["accuracy"])), ("Macro-F1", percents(part["macro_f1"]))]
    if part["top5"] is not None:
        rows.append(("Top-5 accuracy", percents(more["top5"]) if more else percent(part["top5"])))
    if ranked is not None:
        rows.append(("ROC-AUC, one class against the rest, mean over classes", number(ranked)))
    rows += [
        ("Brier score (0 is best)", number(more["brier"]) if more else f"{part['brier']:.3f}"),
        ("Calibration error before temperature scaling", f"{calibration['ece_before']:.3f}"),
        ("Calibration error after", number(more["ece"]) if more else f"{part['ece']:.3f}"),
    ]
    majority = part["baseline"]
    rows.append((f"Baseline: always answering {majority['class']}, accuracy", percent(majority["accuracy"])))
    linear, warnings = metrics.get("baselines", {}).get("linear"), []
    if linear is not None:
        rows.append(
            (
                f"Baseline: linear, on small pixels of {images(linear['learnt_from'])}, accuracy",
                percents(linear["accuracy"]),
            )
        )
        rows.append(("Baseline: linear, macro-F1", percent(linear["macro_f1"])))
        if part["accuracy"]["value"] <= linear["accuracy"]["high"]:
            warnings.append(
                "The network is not surely better than a linear classifier of small pixels. Look at the training below "
                "and at the labels before trusting it."
            )
    where = metrics["calibration"]["measured_on"]
    words = f"{images(part['images'])} of {where}, never learnt from. In brackets: 95 % intervals."
    return Section("headline", "How good it is", (words,), tuple(warnings), Table(("Measure", "Value"), tuple(rows)))


def other_sets(metrics: Metrics) -> Section | None:
    """Return the other sets of images in one line each."""
    judged = metrics["calibration"]["measured_on"]
    rows = tuple(
        (name, f"{part['images']:,}", percents(part["accuracy"]), percents(part["macro_f1"]), f"{part['ece']:.3f}")
        for name, part in metrics["parts"].items()
        if name != judged
    )
    head = ("Set", "Images", "Accuracy", "Macro-F1", "Calibration error")
    return Section("sets", "Other sets of images", table=Table(head, rows)) if rows else None


def classes(metrics: Metrics) -> Section:
    """Return every class of the judged set, worst F1 first."""
    rows = worst_first(judged_part(metrics))
    table = tuple(
        (r["name"], f"{r['images']:,}", percents(r["f1"]), percents(r["precision"]), percents(r["recall"]))
        for r in rows[:MOST_CLASS_ROWS]
    )
    head = ("Class", "Images", "F1", "Precision", "Recall")
    warnings, notes = few_images(rows), rows_left(rows, "classes")
    return Section("classes", "Class by class, worst first", (), warnings, Table(head, table), notes)


def worst_first(part: Metrics) -> list[Metrics]:
    """Return the rows of the classes that a set has images of, worst F1 first."""
    rows = [row for row in part["classes"] if row["images"]]
    return sorted(rows, key=lambda row: (row["f1"]["value"] if row["f1"] else 0.0, row["name"]))


def few_images(rows: Sequence[Metrics]) -> tuple[str, ...]:
    """Return a warning that names the classes with few images, if there are any."""
    told = names_told([row["name"] for row in rows if row["images"] < FEW_IMAGES])
    return (f"Fewer than {FEW_IMAGES} images, so wide intervals: {told}.",) if told else ()


def rows_left(rows: Sequence[Metrics], what: str) -> tuple[str, ...]:
    """Return a note of the rows that the table of classes does not show, if there are any."""
    left = len(rows) - MOST_CLASS_ROWS
    return (f"{left:,} better {what} are in metrics.json.",) if left > 0 else ()


def names_told(names: Sequence[str]) -> str:
    """Return the first names, and how many there are beside them."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def confused(metrics: Metrics) -> Section | None:
    """Return the commonest errors."""
    rows = tuple((e["label"], e["predicted"], f"{e['images']:,}") for e in judged_part(metrics)["confused"])
    head = ("Label", "Taken for", "Images")
    return Section("confused", "Most often confused", table=Table(head, rows)) if rows else None


def slices(metrics: Metrics) -> Section | None:
    """Return the slices, worst first."""
    found = metrics.get("slices")
    if not found:
        return None
    rows = tuple(
        (
            f"{row['by']}: {row['value']}", f"{row['images']:,}", percents(row["accuracy"]),
            "few images" if row["images"] < FEW_IMAGES else "",
        )
        for row in found
    )  # fmt: skip
    where, what, right = metrics["calibration"]["measured_on"], "class", "Accuracy"
    if metrics.get("several"):
        what, right = "labels", "All labels right"
    words = (
        f"Images of {where} that have something in common beside their {what}. Worst first: by where the interval ends."
    )
    return Section("slices", "Slices", (words,), table=Table(("Slice", "Images", right, ""), rows))


def training(metrics: Metrics) -> Section | None:
    """Return what the training's curves show."""
    found = metrics.get("training")
    if found is None:
        return None
    words = [f"{found['state'].capitalize()}. {found['words']}"]
    if found["learnt"] is not None:
        measure, what = ("exact_match", "labels and no other") if metrics.get("several") else ("accuracy", "label")
        learnt, held = percent(found["learnt"]), percent(metrics["parts"]["validation"][measure]["value"])
        many = images(found["learnt_images"])
        words.append(
            f"{learnt} of {many} it learnt from are answered with their {what}; {held} of the validation images."
        )
    warnings = (f"What to do: {found['remedy']}",) if found["remedy"] else ()
    return Section("training", "Training", tuple(words), warnings)
