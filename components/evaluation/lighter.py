"""Whether a lighter form of a model (8 bits, pruned) still answers well enough to stand in for it. Pure.

Both answer the same images, so only those count where one is right and the other wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.given import Given
from components.evaluation.metrics.one_class import Answers
from components.evaluation.metrics.paired import mid_p_value
from components.evaluation.metrics.set_answers import SetAnswers

BoolArray = NDArray[np.bool_]

ENOUGH_IMAGES = 100
"""Of a class, for its loss to be read off in points: one image is then at most a point."""
SHOWN_P = 0.10  # one-sided: of fewer images a loss must be shown, not seen
MOST_ADDED_ECE = 0.02


@dataclass(frozen=True, slots=True)
class Loss:
    """What a set of images lost, in -1..1 of its accuracy: `lost` answers right before and wrong now, less `gained`."""

    name: str
    images: int
    lost: int
    gained: int

    @property
    def share(self) -> float:
        """Return the loss of accuracy; negative where the lighter form is better."""
        return (self.lost - self.gained) / max(1, self.images)

    @property
    def p_value(self) -> float:
        """Return the one-sided p-value of "nothing is lost" (McNemar's exact test, mid-p)."""
        return mid_p_value(self.lost, self.gained)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the lighter form may be used. reasons: why not, empty if it may. worst: the class that lost most."""

    overall: Loss
    worst: Loss
    ece_full: float
    ece_light: float
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Return whether there is no reason against it."""
        return not self.reasons


def judge_lighter(
    full: Given, light: Given, classes: Sequence[str], *, max_loss: float, max_class_loss: float, ece_bins: int
) -> Verdict:
    """Return whether `light` may stand in for `full`, both the answers of the same images.

    Refused if the accuracy is lower by more than max_loss, that of the images of a class (its recall) by more than
    max_class_loss, or the calibration error is higher by more than 0.02. A class with fewer than 100 images is refused
    only where a loss is also shown at p < 0.10, as one image may be more than the bound; fewer than 100 images in all
    prove nothing, and are refused. Raises DataError if the answers are not of the same images.

    Of several labels, the accuracy is the share of images with all labels right: one answer an image, to be compared in
    pairs, the one that the review threshold promises, and a loss spread thinly over many labels shows in it. A mean F1
    has no pairs and is as noisy as its rarest label; the share of single decisions is near 1 whatever a rare label
    does. A label's images are those that carry it or that either form says to: of all others both are right, and they
    would hide its loss. The thresholds of both forms were fitted on validation, the lighter one's on these very images.
    """
    if isinstance(full, SetAnswers) and isinstance(light, SetAnswers):
        words = ("the share of images with all labels right", "label")
        overall, of_classes = _label_losses(full, light, classes)
    elif isinstance(full, Answers) and isinstance(light, Answers):
        words = ("accuracy", "class")
        overall, of_classes = _class_losses(full, light, classes)
    else:
        raise DataError("a model of one class an image and one of several labels are not compared")
    worst = max(of_classes, key=lambda loss: (loss.share, loss.lost))
    ece_full, ece_light = full.calibration_error(ece_bins), light.calibration_error(ece_bins)
    reasons = []
    if overall.images < ENOUGH_IMAGES:
        reasons.append(f"{overall.images} validation images cannot show it; {ENOUGH_IMAGES} are needed")
    elif overall.share > max_loss:
        reasons.append(f"{_told(overall, words[0])}, more than export.max_loss {max_loss:g}")
    reasons += [
        f"{_told(loss, f'{words[1]} {loss.name!r}')}, more than export.max_class_loss {max_class_loss:g}"
        for loss in sorted(of_classes, key=lambda loss: -loss.share)
        if loss.share > max_class_loss and (loss.images >= ENOUGH_IMAGES or loss.p_value < SHOWN_P)
    ]
    if ece_light > ece_full + MOST_ADDED_ECE:
        reasons.append(f"its calibration error is {ece_light:.3f}, {ece_full:.3f} before")
    return Verdict(overall, worst, ece_full, ece_light, tuple(reasons))


def _class_losses(full: Answers, light: Answers, classes: Sequence[str]) -> tuple[Loss, list[Loss]]:
    if not np.array_equal(full.labels, light.labels) or not full.classes == light.classes == len(classes):
        raise DataError(f"{len(full.labels)} and {len(light.labels)} answers are not of the same images")
    before, after = full.right, light.right
    overall = _loss("", before, after, np.ones(len(before), bool))
    return overall, [_loss(name, before, after, full.labels == k) for k, name in enumerate(classes)]


def _label_losses(full: SetAnswers, light: SetAnswers, classes: Sequence[str]) -> tuple[Loss, list[Loss]]:
    if not np.array_equal(full.truth, light.truth) or full.truth.shape[1] != len(classes):
        raise DataError(f"{len(full.truth)} and {len(light.truth)} answers are not of the same images")
    truth, before, after = full.truth, full.said, light.said
    about = truth | before | after
    overall = _loss("", full.right, light.right, np.ones(len(truth), bool))
    return overall, [
        _loss(name, before[:, k] == truth[:, k], after[:, k] == truth[:, k], about[:, k])
        for k, name in enumerate(classes)
    ]


def _loss(name: str, before: BoolArray, after: BoolArray, chosen: BoolArray) -> Loss:
    """Return it of which images (N,) are answered right, of those that are chosen (N,)."""
    lost, gained = chosen & before & ~after, chosen & ~before & after
    return Loss(name, int(chosen.sum()), int(lost.sum()), int(gained.sum()))


def _told(loss: Loss, what: str) -> str:
    return f"{what} falls by {100 * loss.share:.1f} points ({loss.lost} of {loss.images} lost, {loss.gained} gained)"
