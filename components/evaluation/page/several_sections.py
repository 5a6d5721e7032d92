"""What the report says of an evaluation of several labels an image, part by part."""

from __future__ import annotations

from components.evaluation.page.further_sections import attacks, five_looks, folds, noise_told, reviewed, robustness
from components.evaluation.page.section import Section, Table, images, percent, percents
from components.evaluation.page.sections import (
    MOST_CLASS_ROWS,
    Metrics,
    few_images,
    judged_part,
    names_told,
    rows_left,
    slices,
    training,
    worst_first,
)


def headline(metrics: Metrics) -> Section:
    """Return how good the model is on the judged set, beside what needs no network."""
    part, calibration = judged_part(metrics), metrics["calibration"]
    macro, baseline = part["macro_f1"], part["baseline"]
    rows = [
        ("Mean average precision (mAP)", percents(part["map"])),
        ("Macro-F1, the mean over labels", percents(macro)),
        ("Micro-F1, of all decisions together", _percent(part["micro_f1"])),
        ("All labels of an image right", percents(part["exact_match"])),
        ("Single decisions right", percent(part["label_accuracy"])),
        ("Calibration error of a label before scaling", _number(calibration["ece_before"])),
        ("Calibration error of a label after", _number(calibration["ece_after"])),
        ("Labels an image", f"{part['labels_per_image']:.2f}"),
        ("Baseline: answering every label, macro-F1", _percent(baseline["macro_f1"])),
        ("Baseline: ranking at random, mAP", _percent(baseline["map"])),
    ]
    linear = metrics.get("baselines", {}).get("linear")
    if linear is not None:
        learnt = f"Baseline: linear, on small pixels of {images(linear['learnt_from'])}"
        rows += [(f"{learnt}, macro-F1", _percent(linear["macro_f1"])), (f"{learnt}, mAP", _percent(linear["map"]))]
    no_better = macro is not None and baseline["macro_f1"] is not None and macro["low"] <= baseline["macro_f1"]
    warnings = []
    if no_better:
        warnings.append(
            "The network is not surely better than answering every label. Look at the training below and at the labels."
        )
    if linear is not None and None not in (part["map"], linear["map"]) and part["map"]["low"] <= linear["map"]:
        warnings.append(
            "The network does not surely rank better than a linear classifier of small pixels. Look at the training "
            "below and at the labels before trusting it."
        )
    where = calibration["measured_on"]
    words = f"{images(part['images'])} of {where}, never learnt from. In brackets: 95 % intervals."
    return Section("headline", "How good it is", (words,), tuple(warnings), Table(("Measure", "Value"), tuple(rows)))


def labels(metrics: Metrics) -> Section:
    """Return every label of the judged set, worst F1 first, with the threshold it is answered from."""
    rows, fitted = worst_first(judged_part(metrics)), {row["name"]: row for row in metrics["labels"]}
    table = tuple(
        (
            row["name"], f"{row['images']:,}", percents(row["f1"]), percents(row["precision"]), percents(row["recall"]),
            percents(row["average_precision"]), _threshold(fitted[row["name"]]),
        )
        for row in rows[:MOST_CLASS_ROWS]
    )  # fmt: skip
    untuned = names_told([row["name"] for row in metrics["labels"] if not row["tuned"]])
    warnings = few_images(rows)
    if untuned:
        warnings += (f"Too rare on validation for a threshold of their own, which is 0.5: {untuned}.",)
    head = ("Label", "Images", "F1", "Precision", "Recall", "Average precision", "Threshold")
    words = "A label is answered from its threshold on, which is the best for its F1 on validation."
    return Section(
        "labels", "Label by label, worst first", (words,), warnings, Table(head, table), rows_left(rows, "labels")
    )


def without_labels(metrics: Metrics) -> Section:
    """Return what is answered of images that carry none of the labels."""
    none = judged_part(metrics)["without_labels"]
    words = f"{images(none['images'])} of {metrics['calibration']['measured_on']} carry none of the labels."
    if none["images"]:
        words += f" Of these the answer is none in {percents(none['answered_with_none'])}."
    return Section("none", "Images without labels", (words,))


def answering(metrics: Metrics) -> Section | None:
    """Return which images a person should see, and what the answers to the others are worth."""
    found = metrics.get("answering")
    if found is None:
        return None
    review = found["review"]
    stated = percent(review["stated_accuracy"]) + noise_told(review)
    words = (
        f"An image is accepted where the least sure of its decisions is {review['threshold']:.3f} sure or more (a "
        "label at its threshold is half-sure); the others go to a person. It is the lowest such number with which the "
        f"accepted images of validation have all labels right to {stated}."
    )
    rows = (
        ("All labels right, of the accepted", percents(review["accuracy"])),
        ("Single decisions right, of the accepted", _percent(review["label_accuracy"])),
    )
    return reviewed(metrics, words, rows)


def other_sets(metrics: Metrics) -> Section | None:
    """Return the other sets of images in one line each."""
    judged = metrics["calibration"]["measured_on"]
    rows = tuple(
        (
            name, f"{part['images']:,}", percents(part["map"]), percents(part["macro_f1"]),
            percents(part["exact_match"]), _number(part["ece"]),
        )
        for name, part in metrics["parts"].items()
        if name != judged
    )  # fmt: skip
    head = ("Set", "Images", "mAP", "Macro-F1", "All labels right", "Calibration error")
    return Section("sets", "Other sets of images", table=Table(head, rows)) if rows else None


def further(metrics: Metrics) -> list[Section]:
    """Return what follows the judged set's own numbers."""
    parts = (without_labels, answering, training, slices, robustness, attacks, five_looks, folds, other_sets)
    found = (make(metrics) for make in parts)
    return [section for section in found if section is not None]


def worst_labels(metrics: Metrics, most: int) -> list[str]:
    """Return the names of the judged set's worst labels."""
    return [row["name"] for row in worst_first(judged_part(metrics))[:most]]


def _threshold(row: Metrics) -> str:
    return f"{row['threshold']:.2f}" + ("" if row["tuned"] else ", not tuned")


def _percent(share: float | None) -> str:
    return "n/a" if share is None else percent(share)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
