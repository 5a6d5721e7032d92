"""The evaluation of several labels an image as a page, with the images that are answered wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluation.examination.judged import JudgedImages
from components.evaluation.metrics.set_answers import SetAnswers
from components.evaluation.page.chart import Chart
from components.evaluation.page.page import Shown
from components.evaluation.page.pictures import show
from components.evaluation.page.section import images, percent
from components.evaluation.page.sections import judged_part
from components.evaluation.page.several_sections import further, headline, labels

MOST_OF_A_KIND = 6


@dataclass(frozen=True, slots=True)
class Slips:
    """What goes wrong with a label: images that carry it unseen, and that are said to carry it. The surest of each."""

    label: str
    missed: int
    alarms: int
    missed_shown: tuple[Shown, ...]
    alarms_shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class LabelPictures:
    """What the page shows beside words and numbers. reliability: a PNG as data URI."""

    reliability: str
    slips: Sequence[Slips] = ()
    curves: Sequence[Chart] = ()


def write_labels_page(metrics: Mapping[str, Any], pictures: LabelPictures, path: Path) -> None:
    """Write the page of an evaluation to `path`, in the place of an older one. metrics: its metrics.json."""
    from components.pages.page import page_environment, write_page

    part = judged_part(metrics)
    context = {
        "metrics": metrics,
        "right": percent(part["exact_match"]["value"]),
        "images": images(part["images"]),
        "headline": headline(metrics),
        "labels": labels(metrics),
        "further": further(metrics),
        "pictures": pictures,
    }
    write_page(page_environment("components.evaluation.page").get_template("labels.html").render(context), path)


def label_slips(judged: JudgedImages, answers: SetAnswers, names: Sequence[str]) -> list[Slips]:
    """Return the surest wrong answers about each label of `names` that has any, in their order."""
    return [
        slips
        for name in names
        if (slips := _slips(judged, answers, name)).missed or slips.alarms
    ]  # fmt: skip


def _slips(judged: JudgedImages, answers: SetAnswers, name: str) -> Slips:
    k = judged.spec.classes.index(name)
    likely, truth, said = answers.probabilities[:, k], answers.truth[:, k], answers.said[:, k]
    missed, alarms = np.flatnonzero(truth & ~said), np.flatnonzero(~truth & said)
    surest = (
        missed[np.argsort(likely[missed], kind="stable")[:MOST_OF_A_KIND]],
        alarms[np.argsort(-likely[alarms], kind="stable")[:MOST_OF_A_KIND]],
    )
    unseen, wrongly = (
        tuple(show(judged, int(place), f"{100 * likely[place]:.0f} % likely") for place in places) for places in surest
    )
    return Slips(name, len(missed), len(alarms), unseen, wrongly)
