"""Scoring, labelling, monitoring, retraining, and when they happen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from components.params.section import OpenShare, Positive, Section, Share


class Score(Section):
    """Batch scoring."""

    batch_size: Positive = 256
    chunk_rows: Positive = 4096
    review_below: Share | Literal["auto"] = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    keep_images_days: Positive = 90


class Labelling(Section):
    """What people are asked, and how many times."""

    share: OpenShare = 0.05
    reference_factor: Annotated[float, Field(ge=1)] = 5.0
    most_factor: Annotated[float, Field(ge=1)] = 2.0
    max_labels: Positive = 20_000
    training_queue: Annotated[int, Field(ge=0)] = 200
    audit_queue: Annotated[int, Field(ge=0)] = 200
    answers_per_task: Positive = 1
    check_share: Share = 0.1
    judge_at_response: OpenShare = 0.9
    judge_after_days: Annotated[float, Field(gt=0)] = 7.0
    lease_minutes: Annotated[float, Field(gt=0)] = 20.0


class Monitor(Section):
    """The trigger and the drift tests; see the design of the statistics in the documentation."""

    window: Literal["month", "week", "day"] = "month"
    close_after_hours: Annotated[float, Field(ge=0)] = 48.0
    floor: Share = 0.90
    tolerance: OpenShare = 0.05
    alpha_suspect: OpenShare = 0.10
    alpha_precision: OpenShare = 0.01
    alpha_recall: OpenShare = 0.005
    topup_labels: Annotated[int, Field(ge=0)] = 200
    topup_classes: Annotated[int, Field(ge=0)] = 3
    min_effective_labels: Annotated[float, Field(ge=1)] = 15.0
    pooled_windows: Annotated[int, Field(ge=1, le=60)] = 3
    drift_alpha: OpenShare = 0.01
    drift_v: OpenShare = 0.05
    drift_bins: Annotated[int, Field(ge=2)] = 20
    report_rows: Annotated[int, Field(ge=100, le=50_000)] = 20_000
    report_days: Positive = 90


class Retrain(Section):
    """When a retraining is worth it."""

    retrain_on: Literal["accuracy", "drift"] = "accuracy"
    cooldown_days: Annotated[float, Field(ge=0)] = 20.0
    minimum_new_labels: Annotated[int, Field(ge=0)] = 50
    most_per_month: Positive = 2
    candidates: Annotated[int, Field(ge=1, le=5)] = 2
    max_age_days: Positive = 183
    advice_seconds: Annotated[float, Field(ge=0)] = 300.0
    new_labels: Annotated[int, Field(ge=0)] = 2000


def _cron(line: str) -> str:
    from cronsim import CronSim, CronSimError

    if not line:  # on demand only
        return line
    try:
        CronSim(line, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"not a cron line ({error}); write minute, hour, day, month, weekday: 0 3 1 * *") from error
    return line


Cron = Annotated[str, AfterValidator(_cron)]


class Schedule(Section):
    """Cron lines, UTC, of the deployments that `perennial serve` runs."""

    retrain: Cron = "0 3 1 * *"
    monitor: Cron = "0 6 * * *"
    score: Cron = "0 * * * *"
    inbox: str = "inbox"


class Alerts(Section):
    """Where alerts go besides the channels in PERENNIAL_ALERT_URLS."""

    file: str = "alerts.jsonl"
    links_base: str = ""
