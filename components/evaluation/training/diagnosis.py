"""Stuck, collapsed, overfitted, cut short or fine: what a training's curves show, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.training.curve import Epoch
from components.model.average_precision import mean_average_precision

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

NO_FALL = 0.05  # of a loss: less is none
RISE = 0.10  # of the validation loss above its lowest, from which the network learns by heart
FURTHER_FALL = 0.05  # of the training loss meanwhile
DROP = 0.03  # of the validation accuracy (mAP, of several labels) below its best, which says the same
ONE_CLASS = 0.90  # of the answers
CHANCE = 0.02  # of accuracy above the commonest class's share: nothing was learnt
GAIN = 0.01  # of validation accuracy in the last quarter: there was more to come
FEWEST_EPOCHS = 3
RANDOM_RANKINGS = 20


class State(StrEnum):
    """What became of a training."""

    STUCK = "stuck"
    COLLAPSED = "collapsed"
    OVERFITTED = "overfitted"
    CUT_SHORT = "still improving"
    FINE = "fine"
    UNKNOWN = "not known"


REMEDIES = {
    State.STUCK: "Change train.learning_rate tenfold, down first; then look at a few training images and labels, and "
    "at preprocess.mean and std: a network learns nothing from labels or pixels that mean nothing.",
    State.COLLAPSED: "Lower train.learning_rate, and set train.imbalance.remedy to class-weights if one class has most "
    "of the images; check in the audit that the other classes' labels are right.",
    State.OVERFITTED: "Strengthen train.augment (shift, rotate, brightness, mixup), raise train.dropout or "
    "train.weight_decay, start from pre-trained weights, or ingest more images.",
    State.CUT_SHORT: "Raise train.epochs by half; it was still learning when it ended.",
    State.FINE: "",
    State.UNKNOWN: "",
}


@dataclass(frozen=True, slots=True)
class Guess:
    """What answers without a look reach on the validation images.

    reached: the accuracy of the commonest class; of several labels the mAP of images in random order, about the
    labels' mean share of the images. error: one standard error of it. loss: the entropy of the labels' shares; of
    several, the mean of each label's. measure, way: what is reached and how, in words.
    """

    reached: float
    loss: float
    error: float
    measure: str = "accuracy"
    way: str = "always answering the commonest class"

    @classmethod
    def of(cls, labels: IntArray) -> Guess:
        """Return it of class indices (N,), N > 0, or, where images carry several labels, of 0 and 1 (N, K)."""
        if labels.ndim == 2:
            return cls._of_sets(labels)
        shares = np.bincount(labels) / len(labels)
        shares = shares[shares > 0]
        commonest = float(shares.max())
        error = float(np.sqrt(commonest * (1 - commonest) / len(labels)))
        return cls(commonest, float(-(shares * np.log(shares)).sum()), error)

    @classmethod
    def _of_sets(cls, labels: IntArray) -> Guess:
        generator = np.random.default_rng(0)
        ranked = [mean_average_precision(labels, generator.random(labels.shape)) for _ in range(RANDOM_RANKINGS)]
        shares = np.clip(labels.mean(axis=0), 1e-12, 1 - 1e-12)
        loss = float(-(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean())
        return cls(float(np.mean(ranked)), loss, float(np.std(ranked)), "mAP", "ranking at random")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the curves show, in words, and the remedy ("" where none is needed)."""

    state: State
    words: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """Return it for metrics.json."""
        return {"state": str(self.state), "words": self.words, "remedy": self.remedy}


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """train, loss, reached: (E,) by epoch. of_one: share of the answers that are the commonest one; truly: its own."""

    train: FloatArray
    loss: FloatArray
    reached: FloatArray
    guess: Guess
    of_one: float
    truly: float

    @property
    def margin(self) -> float:
        """Return how far above a guess chance may lift what is reached."""
        return max(CHANCE, 2 * self.guess.error)

    @property
    def by_chance(self) -> bool:
        """Return whether no epoch was better than a guess."""
        return bool(self.reached.max() <= self.guess.reached + self.margin)


def diagnose(epochs: Sequence[Epoch], labels: IntArray, predicted: IntArray | None = None) -> Diagnosis:
    """Return what is wrong with a training, if anything.

    labels, predicted: class indices (N,) of the validation images, as the network that was kept answers them. Losses
    are compared with themselves: the training loss over the epochs, the validation loss, which is plain cross-entropy,
    also with the entropy of the validation labels, what the best answer without a look gives.
    Where images carry several labels, labels are (N, K) of 0 and 1, and answers are not asked for: nearly all may
    rightly be "none". What is said of all images alike ranks no better than chance, which the mAP shows.
    """
    judged = [e for e in epochs if e.validation_loss is not None and e.reached is not None]
    if len(judged) < FEWEST_EPOCHS or not len(labels):
        many = f"{len(judged)} epochs were judged on validation images"
        return _told(State.UNKNOWN, f"{many}; {FEWEST_EPOCHS} or more would tell.")
    said = np.zeros(1, np.int64) if predicted is None else np.bincount(predicted)
    seen = _Seen(
        np.array([e.train_loss for e in judged]),
        np.array([e.validation_loss for e in judged], np.float64),
        np.array([e.reached for e in judged], np.float64),
        Guess.of(labels),
        float(said.max()) / len(labels),
        float((labels == int(said.argmax())).mean()),
    )
    found = (check(seen) for check in (_stuck, _one_class, _overfitted, _no_better, _cut_short))
    first = next((one for one in found if one is not None), None)
    if first is not None:
        return first
    return _told(
        State.FINE,
        f"Validation {seen.guess.measure} rose from {_percent(seen.reached[0])} to {_percent(seen.reached.max())} in "
        f"{len(judged)} epochs and has levelled off.",
    )


def _stuck(seen: _Seen) -> Diagnosis | None:
    still = seen.loss.min() > (1 - NO_FALL) * seen.guess.loss and seen.train.min() > (1 - NO_FALL) * seen.train[0]
    if not (seen.by_chance and still):
        return None
    return _told(
        State.STUCK,
        f"The validation loss never fell clearly below {seen.guess.loss:.2f}, what guessing gives (lowest "
        f"{seen.loss.min():.2f}), and the training loss stayed near {seen.train[0]:.2f}: it learnt nothing.",
    )


def _one_class(seen: _Seen) -> Diagnosis | None:
    if seen.of_one < ONE_CLASS or seen.truly >= seen.of_one - seen.margin:
        return None
    told = (
        f"{100 * seen.of_one:.0f} % of the answers are one class, which {100 * seen.truly:.0f} % of the images are of."
    )
    return _told(State.COLLAPSED, told)


def _overfitted(seen: _Seen) -> Diagnosis | None:
    """Return the diagnosis where validation became worse while training became better."""
    lowest, best = int(seen.loss.argmin()), int(seen.reached.argmax())
    rise = float(seen.loss[-1] / seen.loss[lowest] - 1)
    fall = float(1 - seen.train[-1] / seen.train[lowest])
    if rise >= RISE and fall >= FURTHER_FALL:
        return _told(
            State.OVERFITTED,
            f"From epoch {lowest + 1} on the validation loss rose by {100 * rise:.0f} % while the training loss fell "
            f"by {100 * fall:.0f} %: it learnt its images by heart. The best epoch's weights are kept, not the last's.",
        )
    if seen.reached[best] - seen.reached[-1] >= DROP and seen.train[-1] < (1 - FURTHER_FALL) * seen.train[best]:
        return _told(
            State.OVERFITTED,
            f"Validation {seen.guess.measure} fell from {_percent(seen.reached[best])} (epoch {best + 1}) to "
            f"{_percent(seen.reached[-1])} while the training loss went on falling: it learnt its images by heart.",
        )
    return None


def _no_better(seen: _Seen) -> Diagnosis | None:
    if not seen.by_chance:
        return None
    return _told(
        State.COLLAPSED,
        f"Validation {seen.guess.measure} never rose above {_percent(seen.reached.max())}; {seen.guess.way} gives "
        f"{_percent(seen.guess.reached)}.",
    )


def _cut_short(seen: _Seen) -> Diagnosis | None:
    last = max(1, len(seen.reached) // 4)
    gain = float(seen.reached[-last:].max() - seen.reached[:-last].max())
    if gain < GAIN or seen.loss[-last:].min() >= seen.loss[:-last].min():
        return None
    return _told(
        State.CUT_SHORT,
        f"Validation {seen.guess.measure} rose by {100 * gain:.1f} points in the last {last} of {len(seen.reached)} "
        f"epochs, to {_percent(seen.reached.max())}.",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _told(state: State, words: str) -> Diagnosis:
    return Diagnosis(state, words, REMEDIES[state])
