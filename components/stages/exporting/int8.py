"""The export stage's attempt at a file in 8 bits, and whether it may take the fp32 file's place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.decoding.turns import available_cores
from components.errors import PerennialError, RefusedError
from components.evaluation.given import Given
from components.evaluation.lighter import Verdict
from components.model.artifact import ONNX_FILE, file_sha256, write_spec
from components.model.images.dataset import StoredImages
from components.model.serving.latency import Latency
from components.model.serving.predictor import Predictor
from components.model.serving.quantise import quantise, set_calibration
from components.params import Params
from components.stages.exporting.exported import Exported, HeldBack, judge_against, open_exported
from components.stages.exporting.refitted import refitted

FASTER = 1.05
"""How many times as fast INT8 must be for `auto` to take it; less is within what a machine varies by."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An INT8 form and what judged it against the fp32 one."""

    light: Exported
    verdict: Verdict

    def refused_for(self, latency: dict[str, list[Latency]], precision: str) -> str:
        """Return why the fp32 file is kept, in our own words, "" if it is not."""
        if not self.verdict.passed:
            return "it loses too much"
        factor = speedup(latency)
        if precision == "auto" and (factor is None or factor < FASTER):
            return "it is not faster on this machine"
        return ""

    def told(self, full: Exported, latency: dict[str, list[Latency]], precision: str) -> dict[str, Any]:
        """Return what metrics.json says of the attempt."""
        verdict, refused_for = self.verdict, self.refused_for(latency, precision)
        return {
            "used": not refused_for,
            "refused_for": refused_for,
            "reasons": list(verdict.reasons),
            "bytes": self.light.size,
            "size_ratio": round(self.light.size / full.size, 4),
            "speedup": speedup(latency),
            "speedup_batch": latency["fp32"][-1].batch if "int8" in latency else None,
            "images": verdict.overall.images,
            "loss": round(verdict.overall.share, 5),
            "lost": verdict.overall.lost,
            "gained": verdict.overall.gained,
            "worst_class": verdict.worst.name,
            "worst_class_images": verdict.worst.images,
            "worst_class_loss": round(verdict.worst.share, 5),
            "ece_fp32": round(verdict.ece_full, 5),
            "ece_int8": round(verdict.ece_light, 5),
            "temperature": self.light.predictor.spec.temperature,
        }


def attempt_int8(
    full: Exported,
    whole: Given,
    folder: Path,
    calibration: NDArray[np.uint8],
    held_back: HeldBack,
    params: Params,
) -> Attempt:
    """Return the INT8 form of `full`, written to `folder`, calibration and thresholds fitted anew, and its verdict.

    whole: the answers it is held to. calibration: training images. held_back: the validation images and labels that
    both forms are judged on. Raises as `quantise`.
    """
    images, labels = held_back
    spec, path = full.predictor.spec, folder / ONNX_FILE
    quantise(full.folder / ONNX_FILE, path, calibration, spec)
    write_spec(folder, replace(spec, onnx_sha256=file_sha256(path)))
    coarse = Predictor(folder, threads=available_cores())
    logits = np.concatenate([coarse.predict(images[s : s + 256])[0] for s in range(0, len(images), 256)])
    spec_of_light = refitted(spec, logits, labels, params)
    set_calibration(path, spec_of_light)
    write_spec(folder, replace(spec_of_light, onnx_sha256=file_sha256(path)))
    light = open_exported(folder, held_back)
    return Attempt(light, judge_against(whole, light, params))


def calibration_images(stored: StoredImages, params: Params, full: Exported) -> NDArray[np.uint8]:
    """Return the training images that ranges are measured on, as many as export.calibration_images."""
    rows = stored.manifest.select("train").slice(0, params.export.calibration_images)
    return stored.pixels(rows, full.predictor.spec.preprocess)


def speedup(latency: dict[str, list[Latency]]) -> float | None:
    """Return how many times as fast INT8 is at the largest batch, by the medians; None where it was not measured."""
    if not {"fp32", "int8"} <= latency.keys():
        return None
    return round(latency["fp32"][-1].p50_ms / latency["int8"][-1].p50_ms, 3)


def not_possible(error: PerennialError) -> dict[str, Any]:
    """Return what metrics.json says where there is no INT8 form to judge."""
    return {"used": False, "refused_for": "it cannot be made", "reasons": [str(error)]}


def require_used(told: dict[str, Any]) -> None:
    """Raise RefusedError if INT8, asked for by export.precision, may not be used."""
    if not told["used"]:
        raise RefusedError(
            f"export.precision is int8, but {told['refused_for']}: {'; '.join(told['reasons'])}; "
            "set it to auto, which keeps fp32 then, or train on more images"
        )
