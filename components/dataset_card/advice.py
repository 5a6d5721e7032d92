"""Advice on volume and balance. Never a block: few images are better than none."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

FEW_SHOT, FEW, SOME, FROM_SCRATCH = 50, 100, 500, 10_000
"""Training images a class: below the first, few-shot methods; the second, a warning; the third, a note; below the last,
training from scratch is behind pre-trained weights."""

IMBALANCED = 10.0
"""How many times as often the commonest class may come as the rarest before it is told."""

MOST_NAMED = 8


def advice(training: Mapping[str, int], *, pretrained: bool) -> list[str]:
    """Return what to think of, most urgent first; nothing where the volume is good.

    training: images of each class to learn from. pretrained: whether training starts from weights that know images.
    """
    if not training:
        return []
    told = []
    missing = [name for name, images in training.items() if images == 0]
    if missing:
        told.append(f"{_named(missing)}: no training image; the model cannot answer what it has never seen")
    bounds = (
        (
            1,
            FEW_SHOT,
            f"fewer than {FEW_SHOT} training images; use pre-trained weights with a frozen backbone (few-shot)",
        ),
        (FEW_SHOT, FEW, f"fewer than {FEW} training images; expect wide intervals and errors, bring more in"),
        (FEW, SOME, f"fewer than {SOME} training images; more would help"),
    )
    for low, high, words in bounds:
        found = [name for name, images in training.items() if low <= images < high]
        if found:
            told.append(f"{_named(found)}: {words}")
    present = {name: images for name, images in training.items() if images}
    if not present:
        return told
    middle = median(present.values())
    if not pretrained and middle < FROM_SCRATCH:
        told.append(
            f"{middle:,.0f} training images in the middle class, and training starts from scratch: below "
            f"{FROM_SCRATCH:,} pre-trained weights are usually better (train.pretrained)"
        )
    most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    if present[most] > IMBALANCED * present[least]:
        told.append(
            f"{most} comes {present[most] / present[least]:,.0f} times as often as {least}, whose errors weigh little "
            "in training: look at each class's recall, not at accuracy"
        )
    return told


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more classes"
