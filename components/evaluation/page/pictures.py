"""Which images the report shows, decoded when they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.evaluation.examination.judged import Judged, JudgedImages
from components.evaluation.examination.saliency import glowing, saliency
from components.evaluation.metrics.confusion import Confusion
from components.evaluation.page.chart import Chart, line_chart
from components.evaluation.page.page import Fault, Pair, Shown
from components.evaluation.training.curve import Epoch
from components.evaluation.training.diagnosis import Guess
from components.pages.page import data_uri

MOST_PAIRS = 8
MOST_OF_A_PAIR = 6


def confused_pairs(judged: Judged) -> list[Pair]:
    """Return the commonest errors with pictures, the surest wrong answers first."""
    answers, names = judged.answers, judged.spec.classes
    pairs = []
    for label, said, many in Confusion.of(answers.labels, answers.predicted, len(names)).worst(MOST_PAIRS):
        wrong = np.flatnonzero((answers.labels == label) & (answers.predicted == said))
        surest = wrong[np.argsort(-answers.confidence[wrong], kind="stable")[:MOST_OF_A_PAIR]]
        typical = np.flatnonzero((answers.labels == said) & (answers.predicted == said))
        best = typical[np.argsort(-answers.confidence[typical], kind="stable")[:1]]
        shown = tuple(_answered(judged, int(place)) for place in surest)
        one_right = _answered(judged, int(best[0])) if len(best) else None
        pairs.append(Pair(names[label], names[said], many, shown, one_right))
    return pairs


def training_charts(epochs: Sequence[Epoch], guess: Guess) -> list[Chart]:
    """Return the training's losses and what it reached on validation, epoch by epoch."""
    losses = line_chart(
        "Loss",
        {
            "training, with smoothing, mixing and weights": [epoch.train_loss for epoch in epochs],
            "validation": [epoch.validation_loss for epoch in epochs],
        },
        level=(guess.loss, "guessing"),
    )
    measured = {
        "accuracy": [epoch.accuracy for epoch in epochs],
        "macro-F1": [epoch.macro_f1 for epoch in epochs],
        "mAP": [epoch.mean_precision for epoch in epochs],
        "all labels right": [epoch.exact_match for epoch in epochs],
    }
    known = {name: values for name, values in measured.items() if any(value is not None for value in values)}
    reached = line_chart("On validation images", known, level=(guess.reached, guess.way), shares=True)
    return [chart for chart in (losses, reached) if chart is not None]


def show(judged: JudgedImages, place: int, words: str) -> Shown:
    """Return one image with words of ours on what the model said of it."""
    row: dict[str, Any] = judged.rows.slice(place, 1).to_pylist()[0]
    return Shown(data_uri(judged.stored.image(row)), row["name"] or "", words)


def _answered(judged: Judged, place: int) -> Shown:
    return show(judged, place, f"{100 * judged.answers.confidence[place]:.0f} % sure")


def explained_errors(judged: Judged, most: int) -> list[Fault]:
    """Return at most `most` wrong answers, the surest first, with what the network looked at."""
    answers, names = judged.answers, judged.spec.classes
    wrong = np.flatnonzero(~answers.right)
    places = wrong[np.argsort(-answers.confidence[wrong], kind="stable")[:most]]
    if not len(places):
        return []
    pixels = judged.pixels(places)
    heat = saliency(judged.network, judged.spec.preprocess, pixels, answers.predicted[places])
    return [
        Fault(
            _answered(judged, int(place)),
            data_uri(glowing(image, of_image)),
            names[answers.labels[place]],
            names[answers.predicted[place]],
        )
        for place, image, of_image in zip(places, pixels, heat, strict=True)
    ]
