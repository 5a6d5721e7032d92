"""A training run's curves, from the metrics.jsonl that it wrote."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import DataError


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images; numbers are from 0.

    train_loss: with what training adds to it (smoothed labels, mixed images, weights), so that it compares with itself
    alone. validation_loss: plain cross-entropy. None where nothing was held back.
    """

    number: int
    train_loss: float
    validation_loss: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None


def read_curve(path: Path) -> tuple[Epoch, ...]:
    """Return the epochs in a metrics.jsonl, in order; () where there is no such file.

    An epoch that was run twice, as after a resumption, counts as it was the last time. Raises DataError, naming the
    line, for one that is no JSON object with numbers.
    """
    if not path.exists():
        return ()
    found: dict[int, Epoch] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if "epoch_train_loss" in row:
                epoch = int(row["epoch"])
                found[epoch] = Epoch(
                    epoch,
                    float(row["epoch_train_loss"]),
                    _number(row.get("validation_loss")),
                    _number(row.get("validation_accuracy")),
                    _number(row.get("validation_macro_f1")),
                )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}:{number}: {line[:80]!r} is no line of metrics; run the train stage again"
            ) from error
    return tuple(found[epoch] for epoch in sorted(found))


def _number(value: Any) -> float | None:
    found = None if value is None else float(value)
    return found if found is not None and math.isfinite(found) else None
