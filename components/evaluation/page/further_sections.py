"""What the report says beyond the set's own numbers: worse images, attacks, further looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from components.evaluation.page.section import Section, Table, images, number, percent, percents
from components.evaluation.page.sections import Metrics, slices, training

NOTICED_NOISE = 0.005  # share of wrong labels
LEAST_AUROC = 0.8


def robustness(metrics: Metrics) -> Section | None:
    """Return the accuracy on corrupted images."""
    found = metrics.get("robustness")
    if found is None:
        return None
    right = "have all labels right" if metrics.get("several") else "are right"
    by_kind = sorted(found["corruptions"].items(), key=lambda one: (sum(one[1]), one[0]))
    rows = tuple((kind, *(f"{100 * share:.0f} %" for share in shares)) for kind, shares in by_kind)
    means = np.mean([shares for _, shares in by_kind], axis=0)
    rows += (("all of them, mean", *(f"{100 * share:.0f} %" for share in means)),)
    words = (
        f"{images(found['images'])}, made worse in {len(by_kind)} ways at five severities. As they are, "
        f"{percents(found['clean'])} {right}; made worse, {percent(found['mean'])} on average. Worst first: "
        f"{by_kind[0][0]}."
    )
    head = ("Corruption", *(f"Severity {n}" if n == 1 else str(n) for n in range(1, 6)))
    return Section("robustness", "Worse images", (words,), table=Table(head, rows))


def attacks(metrics: Metrics) -> Section | None:
    """Return the accuracy on attacked images."""
    found = metrics.get("attacks")
    if found is None:
        return None
    words = (
        f"{images(found['images'])}, changed by somebody who knows the network, no pixel by more than "
        f"{255 * found['epsilon']:.1f} of 255 grey levels. A network that was not trained against it falls here: this "
        "says how far answers can be trusted where somebody wants them wrong."
    )
    rows = (
        ("none", percent(found["clean"])),
        ("FGSM, one step", percent(found["fgsm"])),
        (f"PGD, {found['steps']} steps", percent(found["pgd"])),
    )
    measure = "All labels right" if metrics.get("several") else "Accuracy"
    return Section("attacks", "Attacked images", (words,), table=Table(("Attack", measure), rows))


def five_looks(metrics: Metrics) -> Section | None:
    """Return what test-time augmentation would bring."""
    found = metrics.get("five_looks")
    if found is None:
        return None
    once, five = found["once"], found["averaged"]
    mirrored = ", two of them mirrored" if found["flip"] else ""
    words = (
        f"{images(found['images'])}, answered once, as the deployed model does, and as the mean of five looks, shifted "
        f"to each side{mirrored}. The gate judges one look, since one look is deployed."
    )
    told: dict[str, tuple[str, Callable[[Any], str]]] = {
        "accuracy": ("Accuracy", percents),
        "exact_match": ("All labels right", percents),
        "macro_f1": ("Macro-F1", percent),
        "brier": ("Brier score (0 is best)", "{:.3f}".format),
    }
    rows = tuple((name, show(once[key]), show(five[key])) for key, (name, show) in told.items() if key in once)
    head = ("Measure", "One look", "Five looks")
    return Section("five-looks", "Test-time augmentation", (words,), table=Table(head, rows))


def answering(metrics: Metrics) -> Section | None:
    """Return which answers a person should see, and what the others are worth."""
    found = metrics.get("answering")
    if found is None:
        return None
    review = found["review"]
    words = (
        f"Answers with a confidence of {review['threshold']:.3f} or more are accepted, the others go to a person. "
        "It is the lowest threshold whose accepted answers on validation are right to "
        f"{percent(review['stated_accuracy'])}{noise_told(review)}."
    )
    if reject := found.get("reject_class"):
        words += f" An image that is taken for {reject}, which stands for none of the others, goes to a person too."
    return reviewed(metrics, words, (("Right, of the accepted", percents(review["accuracy"])),))


def noise_told(review: Metrics) -> str:
    """Return what is to be said of wrong labels on validation."""
    if review["label_noise"] < NOTICED_NOISE:
        return ""
    return f", of whose labels about {percent(review['label_noise'])} look wrong and count as such below"


def reviewed(metrics: Metrics, words: str, rows: tuple[tuple[str, str], ...]) -> Section:
    """Return how many answers of the judged set nobody needs to see. words: when that is so. rows: their worth."""
    review, where = metrics["answering"]["review"], metrics["calibration"]["measured_on"]
    missed = "No threshold reaches the stated accuracy on validation: every answer goes to a person."
    table = Table((f"On {where}", "Share"), (("Accepted, of all", percents(review["coverage"])), *rows))
    return Section("answering", "Which answers need a person", (words,), () if review["reached"] else (missed,), table)


def unfamiliar(metrics: Metrics) -> Section | None:
    """Return how well other things are told from the classes."""
    found = metrics.get("unfamiliar")
    if found is None:
        return None
    words = (
        "Images of other things get an answer, too. Their energy should give them away: above the threshold "
        f"{found['threshold']:.2f}, which {100 * found['true_positives']:.0f} % of the validation images keep to, and "
        f"{percent(found['kept'])} of {metrics['calibration']['measured_on']}."
    )
    rows = tuple(
        (one["name"], f"{one['images']:,}", number(one["auroc"]), percent(one["caught"])) for one in found["sets"]
    )
    unseen = [one["name"] for one in found["sets"] if one["auroc"]["value"] < LEAST_AUROC]
    warnings = (f"Hardly told from the classes: {', '.join(unseen)}.",) if unseen else ()
    head = ("Other things", "Images", "AUROC", "Above the threshold")
    return Section("unfamiliar", "Images of none of the classes", (words,), warnings, Table(head, rows))


def folds(metrics: Metrics) -> Section | None:
    """Return the cross-validation."""
    found = metrics.get("folds")
    if found is None:
        return None
    measures = {"accuracy": "accuracy", "map": "mean average precision", "macro_f1": "macro-F1"}
    asked = {key: name for key, name in measures.items() if found.get(key) is not None}
    means = [
        f"{name} {percent(found[key]['mean'])} ± {100 * found[key]['deviation']:.1f}" for key, name in asked.items()
    ]
    words = (
        f"The recipe trained {len(found['folds'])} times on training and validation images, labels as they are, each "
        f"time judged on a part it left out: {', '.join(means) or 'no label met there'} (standard deviation over the "
        "folds)."
    )
    rows = tuple(
        (str(n), f"{row['images']:,}", *("n/a" if row[key] is None else percent(row[key]) for key in asked))
        for n, row in enumerate(found["folds"], start=1)
    )
    head = ("Fold", "Images", *(name[0].upper() + name[1:] for name in asked.values()))
    return Section("folds", "Cross-validation", (words,), table=Table(head, rows))


Part = Callable[[Metrics], Section | None]
PARTS: tuple[Part, ...] = (answering, training, slices, robustness, attacks, five_looks, unfamiliar, folds)
"""What follows the judged set's own numbers."""
