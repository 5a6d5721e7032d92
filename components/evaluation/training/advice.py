"""What would help a class after a retraining that did not: from its learning curve, training error and labels. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from components.errors import DataError
from components.evaluation.training.learning_curve import Forecast, forecast

WORTH_POINTS = 0.01
WORTH_SHARE = 0.10
"""A gain is worth asking for labels from one point on, and from a tenth of the error where that is more."""
NOISY = 0.05  # share of labels that the audit doubts, from which they come first
UNDERFIT = 0.5  # of the held-out error, made on the images learnt from, from which the model does not learn them
FEWEST_HELD_OUT = 20  # images of a class, below which its curve says nothing
MOST_NAMED = 5
OVERALL = ""


class Remedy(StrEnum):
    """What would help most. NOTHING: hardly an error is left. UNCLEAR: the images held out are too few to tell."""

    CHECK_LABELS = "check-labels"
    MORE_LABELS = "more-labels"
    OTHER_DATA = "other-data"
    OTHER_MODEL = "other-model"
    NOTHING = "nothing"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Advice:
    """For one class, or for all together (`name` is OVERALL): what would help, best first, in words and numbers."""

    name: str
    remedies: tuple[Remedy, ...]
    words: str
    numbers: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the ledger's evidence."""
        remedies = [str(one) for one in self.remedies]
        return {"class": self.name or None, "remedies": remedies, "words": self.words, **self.numbers}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One short training on a `share` of the training images.

    wrong: errors on the images held out, by class (K,). wrong_learnt: errors among `learnt` images learnt from (K,).
    """

    share: float
    images: int
    wrong: tuple[int, ...]
    wrong_learnt: tuple[int, ...]
    learnt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Short trainings of one recipe. held_out: images (K,) by class. doubted: share of labels (K,) the audit doubts.

    doubted: None where there is no audit. seconds: all of it took.
    """

    classes: tuple[str, ...]
    held_out: tuple[int, ...]
    points: tuple[CurvePoint, ...]
    doubted: tuple[float, ...] | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        points = [
            {
                "share": p.share, "images": p.images, "wrong": list(p.wrong), "wrong_learnt": list(p.wrong_learnt),
                "learnt": list(p.learnt),
            }
            for p in self.points
        ]  # fmt: skip
        return {
            "classes": list(self.classes), "held_out": list(self.held_out), "points": points,
            "doubted": None if self.doubted is None else list(self.doubted), "seconds": self.seconds,
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LearningCurve:
        """Return the curve that `as_json` wrote. Raises DataError if it is not one."""
        try:
            points = tuple(
                CurvePoint(p["share"], p["images"], tuple(p["wrong"]), tuple(p["wrong_learnt"]), tuple(p["learnt"]))
                for p in content["points"]
            )
            doubted = content["doubted"]
            return cls(
                tuple(content["classes"]), tuple(content["held_out"]), points,
                None if doubted is None else tuple(doubted), float(content["seconds"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no learning curve ({error!r}); run `perennial advise` again") from error


def advise(curve: LearningCurve, wanted: Sequence[str] = ()) -> list[Advice]:
    """Return advice for all classes together, then for each class `wanted`, or for the worst three.

    Raises DataError for a class the curve does not know, or a curve without a point.
    """
    if not curve.points:
        raise DataError("no training of the learning curve was finished; raise retrain.advice_seconds")
    unknown = [name for name in wanted if name not in curve.classes]
    if unknown:
        raise DataError(f"the curve knows no class {', '.join(unknown)}; it knows {', '.join(curve.classes)}")
    whole = max(curve.points, key=lambda p: p.share)
    rates = [wrong / many if many else 0.0 for wrong, many in zip(whole.wrong, curve.held_out, strict=True)]
    worst = sorted(range(len(curve.classes)), key=lambda k: (-rates[k], k))[:3]
    chosen = [curve.classes.index(name) for name in wanted] or worst
    every = list(range(len(curve.classes)))
    found = [_of(curve, whole, OVERALL, every)]
    return found + [_of(curve, whole, curve.classes[k], [k]) for k in chosen[:MOST_NAMED]]


def _of(curve: LearningCurve, whole: CurvePoint, name: str, rows: list[int]) -> Advice:
    """Return the advice for the classes `rows` taken together."""
    held_out = sum(curve.held_out[k] for k in rows)
    learnt = sum(whole.learnt[k] for k in rows)
    wrong = [sum(p.wrong[k] for k in rows) for p in curve.points]
    now = sum(whole.wrong[k] for k in rows) / held_out if held_out else 0.0
    on_learnt = sum(whole.wrong_learnt[k] for k in rows) / learnt if learnt else 0.0
    doubted = None
    if curve.doubted is not None and learnt:
        doubted = sum(curve.doubted[k] * whole.learnt[k] for k in rows) / learnt
    found = forecast([p.share for p in curve.points], wrong, held_out) if held_out >= FEWEST_HELD_OUT else None
    numbers: dict[str, Any] = {
        "held_out": held_out,
        "error": now,
        "error_on_learnt": on_learnt,
        "doubted": doubted,
        "twice": None if found is None else found.later.as_json(),
        "gain": None if found is None else found.gain.as_json(),
    }
    remedies, words = _remedies(name, found, held_out=held_out, now=now, on_learnt=on_learnt)
    if doubted is not None and doubted >= NOISY:
        remedies = (Remedy.CHECK_LABELS, *remedies)
        words = f"check its labels first, the audit doubts {100 * doubted:.0f} % of them; {words}"
    return Advice(name, remedies, f"{name or 'all classes'}: {words}", numbers)


def _remedies(
    name: str, found: Forecast | None, *, held_out: int, now: float, on_learnt: float
) -> tuple[tuple[Remedy, ...], str]:
    rate = "recall" if name else "accuracy"
    right = f"{rate} {100 * (1 - now):.0f} % on {held_out} images held out"
    if found is None:
        why = "too few" if held_out < FEWEST_HELD_OUT else "too few sizes were trained on"
        return (Remedy.UNCLEAR,), f"{right}: {why}, so what more labels would bring cannot be told"
    reach = f"{rate} about {100 * (1 - found.later.high):.0f} to {100 * (1 - found.later.low):.0f} %"
    worth = max(WORTH_POINTS, WORTH_SHARE * found.error.value)
    if found.gain.value >= worth and found.gain.low >= worth / 2:
        of = f"more labels of {name}" if name else "more labels"
        return (Remedy.MORE_LABELS,), f"{of} would help: with twice as many images, {reach} (now {right})"
    if now < WORTH_POINTS:
        return (Remedy.NOTHING,), f"hardly an error is left ({right})"
    if found.gain.value >= worth or found.gain.high >= 2 * worth:
        return (Remedy.UNCLEAR,), f"{right}: too few to tell what twice as many labels would bring ({reach})"
    flat = f"more of the same data will hardly help, the curve is flat (now {right}; with twice as many images {reach})"
    if on_learnt >= UNDERFIT * now:
        return (Remedy.OTHER_MODEL,), (
            f"{flat}. It gets {100 * on_learnt:.0f} % of the images it learns from wrong, too: another backbone, or "
            "more epochs"
        )
    return (Remedy.OTHER_DATA,), (
        f"{flat}. It knows the images it learns from ({100 * on_learnt:.0f} % wrong) and not these: other data, like "
        "the images it fails on, stronger augmentation or a pre-trained backbone"
    )
