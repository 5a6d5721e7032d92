"""A training run's curves, from the metrics.jsonl that it wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import DataError


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images; numbers are from 0.

    train_loss: with what training adds to it (smoothed labels, mixed images, weights), so that it compares with itself
    alone. validation_loss: plain cross-entropy. accuracy and macro_f1 are of images of one class each, mean_precision
    (mAP) and exact_match (share with all labels right) of images of several labels. None where nothing was held back.
    """

    number: int
    train_loss: float
    validation_loss: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None
    mean_precision: float | None = None
    exact_match: float | None = None

    @property
    def reached(self) -> float | None:
        """Return what epochs are diagnosed by: accuracy, or the mAP of several labels."""
        return self.accuracy if self.mean_precision is None else self.mean_precision


def read_curves(path: Path) -> tuple[tuple[Epoch, ...], ...]:
    """Return the epochs in a metrics.jsonl, phase by phase in order; () where there is no such file.

    A phase begins where the epochs are counted from the start again: a head is trained before the whole network is.
    Raises DataError, naming the line, for one that is no JSON object with numbers.
    """
    if not path.exists():
        return ()
    phases: list[list[Epoch]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            epoch = _epoch(row) if "epoch_train_loss" in row else None
        except (ValueError, TypeError, KeyError) as error:
            said = f"{path}:{number}: {line[:80]!r} is no line of metrics"
            raise DataError(f"{said}; run the train stage again") from error
        if epoch is not None:
            if not phases or epoch.number <= phases[-1][-1].number:
                phases.append([])
            phases[-1].append(epoch)
    return tuple(tuple(phase) for phase in phases)


def _epoch(row: Mapping[str, Any]) -> Epoch:
    return Epoch(
        int(row["epoch"]),
        float(row["epoch_train_loss"]),
        _number(row.get("validation_loss")),
        _number(row.get("validation_accuracy")),
        _number(row.get("validation_macro_f1")),
        _number(row.get("validation_map")),
        _number(row.get("validation_exact_match")),
    )


def _number(value: Any) -> float | None:
    found = None if value is None else float(value)
    return found if found is not None and math.isfinite(found) else None
