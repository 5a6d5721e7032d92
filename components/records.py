"""Frozen records that cross module borders. No behaviour beyond parsing and plain arithmetic."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from components.errors import ConfigurationError

if TYPE_CHECKING:  # numpy is not needed to hold arrays, and the command line must start without it
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE_EDGES = (0.60, 0.85, 0.97)
CONFIDENCE_BINS = len(CONFIDENCE_EDGES) + 1

JsonObject = Mapping[str, Any]

WindowLength = Literal["month", "week", "day"]


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A half-open span of UTC time, [start, end), named `2026-10`, `2026-W41` or `2026-10-05`."""

    start: datetime
    end: datetime
    name: str

    @classmethod
    def parse(cls, name: str) -> Window:
        """Return the window called `name`. Raises ConfigurationError if it is not a month, ISO week or day."""
        try:
            if re.fullmatch(r"\d{4}-\d{2}", name, re.ASCII):
                start = datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC)
                days = calendar.monthrange(start.year, start.month)[1]
                return cls(start, start + timedelta(days=days), name)
            if re.fullmatch(r"\d{4}-W\d{2}", name, re.ASCII):
                # Not strptime: it takes 2027-W53 for the next year's first week, which then had two names.
                monday = date.fromisocalendar(int(name[:4]), int(name[-2:]), 1)
                start = datetime(monday.year, monday.month, monday.day, tzinfo=UTC)
                return cls(start, start + timedelta(days=7), name)
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", name, re.ASCII):
                start = datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=UTC)
                return cls(start, start + timedelta(days=1), name)
        except (ValueError, OverflowError):
            pass
        raise ConfigurationError(
            f"window {name!r} is not a month (2026-10), an ISO week (2026-W41) or a day (2026-10-05)"
        )

    @classmethod
    def containing(cls, moment: datetime, length: WindowLength = "month") -> Window:
        """Return the window of that length which holds `moment`, an aware time."""
        moment = require_utc(moment)
        pattern = {"month": "%Y-%m", "week": "%G-W%V", "day": "%Y-%m-%d"}[length]
        return cls.parse(moment.strftime(pattern))

    def previous(self) -> Window:
        """Return the window of the same length just before this one."""
        return Window.containing(self.start - timedelta(seconds=1), self.length)

    def following(self) -> Window:
        """Return the window of the same length just after this one."""
        return Window.containing(self.end, self.length)

    @property
    def length(self) -> WindowLength:
        """Return "month", "week" or "day"."""
        if "W" in self.name:
            return "week"
        return "month" if len(self.name) == 7 else "day"

    def overlaps(self, other: Window) -> bool:
        """Return whether some moment lies in both windows."""
        return self.start < other.end and other.start < self.end

    def closes_at(self, close_after_hours: float) -> datetime:
        """Return the first moment at which the window may be closed."""
        return self.end + timedelta(hours=close_after_hours)


def require_utc(moment: datetime) -> datetime:
    """Return `moment` in UTC. Raises ConfigurationError for a naive time: guessing its zone would move windows."""
    if moment.tzinfo is None:
        raise ConfigurationError(
            f"time {moment.isoformat()} has no zone; write it with one, as in {moment.isoformat()}Z"
        )
    return moment.astimezone(UTC)


def parse_time(text: str) -> datetime:
    """Return an ISO 8601 time with a zone, in UTC; a bare date is its midnight UTC."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"time {text!r} is not ISO 8601; write 2026-10-05T12:00:00Z") from error
    return require_utc(moment)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; all three in 0..1."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Return the three numbers, rounded to five digits for reading."""
        return {"value": round(self.value, 5), "low": round(self.low, 5), "high": round(self.high, 5)}


class ClassState(StrEnum):
    """What the trigger says of one class in one window."""

    OK = "ok"
    SUSPECT = "suspect"
    ALARM = "alarm"
    INSUFFICIENT = "insufficient"
    NO_REFERENCE = "no-reference"
    NOT_MEASURABLE = "not-measurable"


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """One class in one segment of one window. Rates are None where nothing can be said.

    false_positive: of what is not of the class, the share predicted as it; false_negative: 1 - recall.
    """

    name: str
    predicted: int
    labels: int
    precision: Interval | None
    recall: Interval | None
    state: ClassState = ClassState.NO_REFERENCE
    reasons: tuple[str, ...] = ()
    false_positive: Interval | None = None
    false_negative: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the shape `monitor --json` prints."""
        rates = {
            "precision": self.precision,
            "recall": self.recall,
            "false_positive": self.false_positive,
            "false_negative": self.false_negative,
        }
        return {
            "name": self.name,
            "predicted": self.predicted,
            "labels": self.labels,
            **{name: rate.as_json() if rate else None for name, rate in rates.items()},
            "state": str(self.state),
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """One column of one segment against the frozen reference. `state` says in words why p and V may be None."""

    column: str
    p_value: float | None
    v: float | None
    drifted: bool
    plain_p_value: float | None = None
    state: str = "ok"
    rows: int = 0
    reference_rows: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the shape `monitor --json` prints."""
        return {
            "column": self.column,
            "p_value": self.p_value,
            "v": self.v,
            "drifted": self.drifted,
            "plain_p_value": self.plain_p_value,
            "state": self.state,
        }


Action = Literal["none", "ask-labels", "retrain", "refused"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule decided, for which classes, why, and the numbers it decided on (enough to decide again)."""

    action: Action
    classes: tuple[str, ...] = ()
    reason: str = ""
    evidence: JsonObject = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the shape `monitor --json` prints."""
        return {"action": self.action, "classes": list(self.classes), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One question the gate asked of a candidate, with the numbers it was answered from."""

    name: str
    passed: bool
    detail: str
    numbers: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Every check of a candidate; it may be promoted only if all passed."""

    checks: tuple[GateCheck, ...]

    @classmethod
    def from_json(cls, content: JsonObject) -> GateVerdict:
        """Return the verdict that `as_json` wrote; an empty object is a verdict without checks."""
        checks = content.get("checks", ())
        return cls(tuple(GateCheck(c["name"], c["passed"], c["detail"], c.get("numbers", {})) for c in checks))

    @property
    def passed(self) -> bool:
        """Return whether every check passed; a verdict without checks refuses."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Return one sentence: the failed checks, or that all passed."""
        failed = [f"{check.name}: {check.detail}" for check in self.checks if not check.passed]
        return "; ".join(failed) if failed else f"all {len(self.checks)} checks passed"

    def as_json(self) -> dict[str, Any]:
        """Return verdict and checks for the ledger, the registry and the model card."""
        return {
            "passed": self.passed,
            "reason": self.reason,
            "checks": [
                {"name": c.name, "passed": c.passed, "detail": c.detail, "numbers": dict(c.numbers)}
                for c in self.checks
            ],
        }


class Answer(StrEnum):
    """Answers that are not classes. A label's answer is one of these or a class name of the task's class list."""

    OTHER = "other"
    UNSURE = "unsure"
    BAD_IMAGE = "bad-image"


@dataclass(frozen=True, slots=True)
class LabelAnswer:
    """One person's answer to one task, as imported or posted. `key` makes a repeated delivery harmless."""

    task_id: int
    answer: str
    annotator: str
    answered_at: datetime
    seconds: float | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class LabelTask:
    """What an annotator is shown: never the model's answer."""

    task_id: int
    queue: str
    image_id: str
    classes: tuple[str, ...]
    window: str

    @property
    def several(self) -> bool:
        """Return whether the answer is a set of the classes, as labels, instead of one of them."""
        return False


@dataclass(frozen=True, slots=True)
class LabelSetTask(LabelTask):
    """A task about an image that carries any number of the classes."""

    @property
    def several(self) -> bool:
        """Return that the answer is a set."""
        return True


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered model, as our own table knows it."""

    version: int
    run_id: str
    dataset_version: str
    git_commit: str
    classes: tuple[str, ...]
    artifact_sha256: str
    preprocess_sha256: str
    state: str
    created_at: datetime
    metrics: JsonObject = field(default_factory=dict)
    several: bool = False  # an image carries any number of the classes, as labels, instead of exactly one


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """Predictions of one chunk of one batch, column by column; every array has the same first dimension N.

    item_no: (N,) int64 positions in the batch. predicted: (N,) int16 class indices. probabilities: (N, K) float16,
    calibrated, rows sum to about 1. confidence: (N,) float32, calibrated, of the predicted class. ood_score: (N,)
    float32 energy, higher is stranger. statistics: one (N,) float32 column each, named in IMAGE_STATISTICS.
    shard: the image-store shard that holds this chunk's pixels; row n of the chunk is its row n.
    positive: where images carry several labels, (N, K) bool, which of them are predicted; then every column of the
    probabilities is a label's own, rows sum to anything, and `predicted` is the likeliest label.
    """

    item_no: NDArray[np.int64]
    image_id: tuple[str, ...]
    name: tuple[str, ...]
    predicted: NDArray[np.int16]
    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float16]
    ood_score: NDArray[np.float32]
    statistics: Mapping[str, NDArray[np.float32]]
    needs_review: NDArray[np.bool_]
    latency_ms: float
    shard: str
    positive: NDArray[np.bool_] | None = None


IMAGE_STATISTICS = ("brightness", "contrast", "sharpness", "saturation", "width", "height", "aspect", "bytes")


@dataclass(frozen=True, slots=True)
class SetAside:
    """One file of a batch or a source that was not used, and the stated rule that set it aside."""

    item_no: int
    name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StratumCounts:
    """All the estimators need, for one segment of one window under one class list of K classes and B confidence bins.

    population: (K, B) int64 N_h, predictions per predicted class and bin. labelled: (K, B) int64 n_h, settled answers.
    answers: (K, B, K + 1) int64 x_hy, answers per stratum and class; the last column is `other`. drawn: (K, B) int64
    tasks drawn. confidence: (K, B) float64 mean calibrated confidence of the stratum (NaN where it is empty).
    least_missed: how many answers that tell of a miss a stratum without any is taken to stand for, in variances alone.
    """

    classes: tuple[str, ...]
    population: NDArray[np.int64]
    labelled: NDArray[np.int64]
    answers: NDArray[np.int64]
    drawn: NDArray[np.int64]
    confidence: NDArray[np.float64]
    least_missed: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """All the estimators need where images carry several labels: for each of K labels a problem of its own.

    All arrays are (K, 2, B): of label k the images predicted to carry it, [k, 0], and not to, [k, 1], by confidence
    bin. population: N_h. drawn: n_h, the images of the stratum whose `u` is within its limit, for whichever label they
    were asked about. labelled: those of them with a settled answer; present: those of them whose answer names the
    label. confidence: mean confidence in "carries it" or "does not" (NaN where the stratum is empty). tasks, settled:
    different images drawn, and answered.
    """

    classes: tuple[str, ...]
    population: NDArray[np.int64]
    labelled: NDArray[np.int64]
    present: NDArray[np.int64]
    drawn: NDArray[np.int64]
    confidence: NDArray[np.float64]
    tasks: int
    settled: int


@dataclass(frozen=True, slots=True)
class LabelOverlap:
    """How the strata of several labels meet in one image: a uniform sample of `images` of a window's images.

    image, stratum: (M,) int64, the sampled images, numbered from 0, and the strata they lie in, as flat indices into
    (K, 2, B). Where an image is surely without a label, in the last bin of [k, 1], there is no row.
    """

    images: float
    image: NDArray[np.int64]
    stratum: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelSizes:
    """What is drawn of a window with several labels: the `base` images of smallest `u`, and the `sizes` (K, 2, B)
    images of smallest `u` of every stratum, where the base does not hold as many.
    """

    base: int
    sizes: NDArray[np.int64]
