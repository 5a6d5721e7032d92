"""How a trained model is measured, exported, and let through."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.params.section import OpenShare, Positive, Section, Share


class Report(Section):
    """How many images each further question of the report is asked of; 0 leaves the question out."""

    linear_images: Annotated[int, Field(ge=0, le=5000)] = 2000
    corrupted_images: Annotated[int, Field(ge=0)] = 100
    attacked_images: Annotated[int, Field(ge=0)] = 64
    attack_epsilon: Annotated[float, Field(gt=0, le=0.5)] = 0.0157
    attack_steps: Annotated[int, Field(ge=1, le=100)] = 5
    five_looks_images: Annotated[int, Field(ge=0)] = 500
    ood_images: Annotated[int, Field(ge=0)] = 300
    saliency_images: Annotated[int, Field(ge=0, le=60)] = 8


class Evaluate(Section):
    """How a trained model is measured."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    ece_bins: Annotated[int, Field(ge=2)] = 15
    batch_size: Positive = 512
    accepted_accuracy: OpenShare = 0.98
    familiar_share: OpenShare = 0.95
    ood: str = ""
    reject_class: str = ""
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    report: Report = Report()

    @model_validator(mode="after")
    def _folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("evaluate.folds: 1 leaves nothing to learn from; write 0 for none, or 2 or more")
        return self


class Export(Section):
    """How the exported file must agree with the trained one, and whether it is in 8 bits."""

    parity_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    parity_images: Positive = 64
    precision: Literal["fp32", "int8", "auto"] = "fp32"
    max_loss: Share = 0.01
    max_class_loss: Share = 0.02
    calibration_images: Annotated[int, Field(ge=16)] = 256
    judged_images: Positive = 1000
    latency_runs: Annotated[int, Field(ge=0)] = 20
    prune: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    prune_epochs: Positive = 3


class Gate(Section):
    """What a candidate must show before it is promoted."""

    floor: Share = 0.60
    margin: Share = 0.02
    class_margin: Share = 0.05
    alarmed_p: OpenShare = 0.20
    max_ece: Share = 0.10
