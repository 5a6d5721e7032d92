"""Draw a segment whose images carry several labels: one sample of images for all labels."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, Literal

from components.monitoring.sampling.one_class import budget
from components.monitoring.sampling.several_labels import allocate_labels
from components.operations.services import Services
from components.records import Window
from components.store.draws.coverage import Coverage
from components.store.draws.label_drawing import freeze_and_draw_labels
from components.store.predictions import Segment


def draw_labels(
    services: Services, window: Window, segment: Segment, left: Coverage, *, reference: bool, now: datetime
) -> dict[str, Any]:
    """Draw about the budget of different images and return what `draw_window` tells of a segment."""
    wanted = budget(left.left, services.workspace.params.labelling, reference=reference)
    kind: Literal["reference", "regular"] = "reference" if reference else "regular"
    tasks = freeze_and_draw_labels(
        services.database, window, segment.model_version,
        allocate=partial(allocate_labels, n=wanted), kind=kind, budget=wanted, now=now,
    )  # fmt: skip
    return {
        "model_version": segment.model_version,
        "kind": kind,
        "predictions": left.left,
        "elsewhere": left.elsewhere,
        "late": left.late,
        "tasks": tasks,
        "checks": 0,
        "raised": None,
    }
