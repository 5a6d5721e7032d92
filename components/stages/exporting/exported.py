"""One form of the model as the export stage holds it against another: its file, its session, what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.data.decoding.turns import available_cores
from components.evaluation.again import answered
from components.evaluation.given import Given
from components.evaluation.lighter import Verdict, judge_lighter
from components.model.artifact import ONNX_FILE
from components.model.serving.predictor import Predictor
from components.params import Params

HeldBack = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Validation images (N, size, size, channels) and their labels, (N,) or, where they carry several, (N, K)."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One form of the model: its folder, its session, and what it answers on the judged validation images."""

    folder: Path
    predictor: Predictor
    answers: Given

    @property
    def size(self) -> int:
        """Return the bytes of its file."""
        return (self.folder / ONNX_FILE).stat().st_size


def open_exported(folder: Path, held_back: HeldBack) -> Exported:
    """Return the form in `folder` and what it answers."""
    predictor = Predictor(folder, threads=available_cores())
    return Exported(folder, predictor, answered(predictor, *held_back))


def judge_against(whole: Given, light: Exported, params: Params) -> Verdict:
    """Return whether the lighter form may stand in for one that gives the answers `whole`."""
    return judge_lighter(
        whole,
        light.answers,
        light.predictor.spec.classes,
        max_loss=params.export.max_loss,
        max_class_loss=params.export.max_class_loss,
        ece_bins=params.evaluate.ece_bins,
    )
