"""Production against offline accuracy of the same model, and what a gap is due to. Pure.

A gap has two causes that call for opposite remedies. Skew: the serving path does not do what training did, and no
retraining repairs it. Drift: the images, or what people call right, are others than the model learnt from. Replaying
stored images through the training path tells them apart: where it answers as was logged, serving does as training did.

Recall is compared, since it does not depend on the class mix; overall, each class weighs what it does in production.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from components.errors import DataError
from components.monitoring.estimation.accuracy import MOST_UNANSWERED, Estimates
from components.monitoring.judgement.reference import Level
from components.params import Monitor

NOTICEABLE = 0.01
"""Of a probability: other hardware moves answers by less, and so little explains no gap."""
FLOAT16_ROUNDING = 2.0**-11  # of a logged probability, relative: they are kept as float16
FEWEST_REPLAYED = 20  # images, below which agreement proves little
FEWEST_LABELS = 100  # of a window, below which the overall gap is not judged
NAMED_AT_MOST = 10

FloatArray = NDArray[np.float64]


class SkewState(StrEnum):
    """What is known of production against offline accuracy.

    UNKNOWN: nothing to compare with, or too few labels. NO_GAP: no gap beyond the tolerance is shown. SKEW: a gap, and
    serving answers otherwise than training. DRIFT: a gap, and serving does what training did. UNTESTED: a gap, and the
    replay could not be made.
    """

    UNKNOWN = "unknown"
    NO_GAP = "no-gap"
    SKEW = "skew"
    DRIFT = "drift"
    UNTESTED = "untested"


@dataclass(frozen=True, slots=True)
class OfflineRecall:
    """What evaluation found on images held out: of each class, how many there were and how many were found (K,)."""

    part: str
    classes: tuple[str, ...]
    images: tuple[int, ...]
    found: tuple[int, ...]

    @classmethod
    def of_report(cls, evaluation: Mapping[str, Any]) -> OfflineRecall:
        """Return the recalls of an evaluation's metrics.json, on the part that calibration was judged on."""
        part = evaluation["calibration"]["measured_on"]
        rows = evaluation["parts"][part]["classes"]
        found = [round((row["recall"] or {"value": 0})["value"] * row["images"]) for row in rows]
        return cls(part, tuple(row["name"] for row in rows), tuple(row["images"] for row in rows), tuple(found))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OfflineRecall:
        """Return what `as_json` wrote. Raises DataError if it is not that."""
        try:
            return cls(
                str(content["part"]), tuple(content["classes"]), tuple(content["images"]), tuple(content["found"])
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"these are no offline recalls ({error!r}); take those of a registered model") from error

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "part": self.part, "classes": list(self.classes), "images": list(self.images), "found": list(self.found),
        }  # fmt: skip

    def level(self, classes: Sequence[str]) -> Level:
        """Return the recalls as a level in the order of `classes`, NaN where nothing was held out."""
        place = {name: k for k, name in enumerate(self.classes)}
        rows = [place.get(name) for name in classes]
        images = np.array([0 if k is None else self.images[k] for k in rows], np.float64)
        found = np.array([0 if k is None else self.found[k] for k in rows], np.float64)
        known = images > 0
        value = np.where(known, found / np.maximum(images, 1), np.nan)
        return Level(value, np.where(known, (found + 1) / (images + 2), np.nan), np.where(known, images, np.nan))


@dataclass(frozen=True, slots=True)
class Gap:
    """How much worse production is than offline. offline, production: overall, weighted by production's mix.

    shown: whether the overall gap is beyond the tolerance and shown; classes: name, offline and production recall of
    each class whose gap is. reason: in words, why nothing is shown where nothing is. measured: whether there was enough
    to judge by.
    """

    measured: bool
    shown: bool
    offline: float | None
    production: float | None
    classes: tuple[tuple[str, float, float], ...]
    reason: str

    def __bool__(self) -> bool:
        return self.shown or bool(self.classes)

    def describe(self) -> str:
        """Return the gap in words."""
        if not self:
            return self.reason
        parts = []
        if self.shown and self.offline is not None and self.production is not None:
            parts.append(f"overall {100 * self.production:.1f} % in production, {100 * self.offline:.1f} % offline")
        parts += [f"recall of {n} {100 * p:.1f} %, {100 * o:.1f} % offline" for n, o, p in self.classes[:NAMED_AT_MOST]]
        more = len(self.classes) - NAMED_AT_MOST
        return "; ".join(parts) + (f"; and {more} classes more" if more > 0 else "")

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, for the ledger and `monitor --json`."""
        named = [{"name": n, "offline": o, "production": p} for n, o, p in self.classes]
        return {
            "shown": bool(self), "offline": self.offline, "production": self.production, "classes": named,
            "reason": self.describe(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """The same images answered twice. image_ids: N of them. logged, replayed: (N, K) probabilities."""

    image_ids: tuple[str, ...]
    logged: FloatArray
    replayed: FloatArray


@dataclass(frozen=True, slots=True)
class SkewVerdict:
    """What the gap is due to, as far as is known, with what was compared.

    images: replayed. differing: answers beyond the tolerance; changed: other classes among them; largest: difference
    of a probability, worst: the image it was found in. Numbers are 0 and `worst` is "" where nothing was replayed.
    """

    state: SkewState
    reason: str
    gap: Gap | None = None
    images: int = 0
    differing: int = 0
    changed: int = 0
    largest: float = 0.0
    worst: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the shape `monitor --json` prints under `skew`."""
        return {
            "state": str(self.state),
            "reason": self.reason,
            "gap": self.gap.as_json() if self.gap else None,
            "replay": {
                "images": self.images,
                "differing": self.differing,
                "changed": self.changed,
                "largest_difference": self.largest,
                "worst_image": self.worst or None,
            },
        }


def find_gap(estimates: Estimates, offline: OfflineRecall, rules: Monitor) -> Gap:
    """Return how far production's recall lies below offline's, as far as that is shown.

    A gap counts that is larger than `tolerance` and shown on one side: half of `alpha_precision` for all classes
    together, half shared over them. The offline set is another sample, labelled by another process, so small gaps are
    expected; both sides' errors count.
    """
    now, before = estimates.recall, offline.level(estimates.classes)
    known = np.isfinite(now.value) & np.isfinite(before.value) & (estimates.mix > 0)
    if not known.any():
        return Gap(False, False, None, None, (), "no class was both held out and labelled in production")
    if estimates.labelled < FEWEST_LABELS or estimates.unanswered_overall > MOST_UNANSWERED:
        return Gap(False, False, None, None, (), f"too few answers to compare with offline ({estimates.labelled})")
    alpha = rules.alpha_precision / 2
    weight = np.where(known, estimates.mix, 0.0)
    weight /= weight.sum()
    value_now, value_before = np.where(known, now.value, 0), np.where(known, before.value, 0)
    difference = float(weight @ (value_now - value_before))
    variance = np.where(known, now.variance() + before.variance(), 0)
    upper = difference - float(special.ndtri(alpha)) * float(np.sqrt(weight**2 @ variance))
    shown = difference < -rules.tolerance and upper < 0

    of_class = alpha / len(estimates.classes)
    apart = now.value - before.value
    bound = apart + np.hypot(now.upper(of_class) - now.value, before.value - before.lower(of_class))
    enough = (now.process_effective >= rules.min_effective_labels) & (now.labels >= rules.min_effective_labels)
    fell = np.flatnonzero(known & enough & (apart < -rules.tolerance) & (bound < 0))
    order = sorted(map(int, fell), key=lambda k: apart[k])
    classes = tuple((estimates.classes[k], float(before.value[k]), float(now.value[k])) for k in order)
    return Gap(
        True, bool(shown), float(weight @ value_before), float(weight @ value_now), classes,
        f"no gap of more than {100 * rules.tolerance:g} points between production and offline "
        f"({offline.part}) is shown",
    )  # fmt: skip


def without_replay(gap: Gap, obstacle: str = "") -> SkewVerdict:
    """Return the verdict where nothing was replayed: no gap asks for it, or the `obstacle` forbids it."""
    if not gap.measured:
        return SkewVerdict(SkewState.UNKNOWN, gap.reason, gap)
    if not gap:
        return SkewVerdict(SkewState.NO_GAP, gap.reason, gap)
    return SkewVerdict(
        SkewState.UNTESTED,
        f"{gap.describe()}; whether serving does what training did could not be tested: {obstacle}",
        gap,
    )


def judge_replay(gap: Gap, replay: Replayed, *, parity_tolerance: float) -> SkewVerdict:
    """Return what a shown gap is due to. parity_tolerance: of the export, that serving was held to.

    An answer differs where any probability does by more than that and than the rounding of the log. It is skew where a
    difference is noticeable (0.01): less explains no gap. Raises DataError if the arrays do not fit.
    """
    images, logged, replayed = len(replay.image_ids), replay.logged, replay.replayed
    if logged.shape != replayed.shape or len(logged) != images:
        raise DataError(f"{images} images, logged {logged.shape}, replayed {replayed.shape}: nothing to compare")
    if images < FEWEST_REPLAYED:
        return without_replay(gap, f"only {images} of the model's stored images are left")
    distance = np.abs(logged - replayed)
    allowed = parity_tolerance + FLOAT16_ROUNDING * np.maximum(logged, replayed)
    differs = (distance > allowed).any(axis=1) | ~np.isfinite(distance).all(axis=1)
    changed = differs & (logged.argmax(axis=1) != replayed.argmax(axis=1))
    of_image = np.where(np.isfinite(distance), distance, 1.0).max(axis=1)
    worst = int(of_image.argmax())
    largest = float(of_image[worst])
    differing, other = int(differs.sum()), int(changed.sum())
    told = (
        f"{differing} of {images} stored images are answered otherwise by the training path, {other} of them with "
        f"another class; the largest difference of a probability is {largest:.2g}"
    )
    if differing and largest > NOTICEABLE:
        state = SkewState.SKEW
        reason = f"serving does not do what training did: {told}, image {replay.image_ids[worst]}; {gap.describe()}"
    else:
        state = SkewState.DRIFT
        agreed = told + ", too little to explain it" if differing else f"{images} stored images are answered alike"
        reason = (
            f"{gap.describe()}; serving does what training did ({agreed}), so production's images, or what people call "
            "right, are others than the held-out ones"
        )
    return SkewVerdict(state, reason, gap, images, differing, other, largest, replay.image_ids[worst])
