"""Where things lie, what comes in, and how an image becomes what a network sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.params.section import OpenShare, Positive, Section, Share


class Paths(Section):
    """Where the stages read and write, relative to the workspace's root."""

    images: str = "data/images"
    manifest: str = "data/manifest.parquet"
    code_lock: str = "code.lock"
    audit: str = "artifacts/audit"
    model: str = "artifacts/model"
    evaluation: str = "artifacts/evaluation"
    export: str = "artifacts/export"

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for key, value in self:
            if Path(value).is_absolute() or ".." in Path(value).parts:
                raise ValueError(f"paths.{key} = {value!r} must lie inside the workspace")
        return self


class Split(Section):
    """Shares of the first ingest's groups; they sum to 1."""

    train: OpenShare = 0.75
    validation: OpenShare = 0.125
    test: OpenShare = 0.125

    @model_validator(mode="after")
    def _sum(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"data.split sums to {total:g}, not 1")
        return self


class Data(Section):
    """What may come in, and how it is split."""

    classes: tuple[str, ...] = ()
    several: bool = False
    split: Split = Split()
    seed: int = 7
    golden_share: Share = 0.2
    golden_share_alarmed: Share = 0.5
    golden_windows: Positive = 6
    max_file_bytes: Positive = 50_000_000
    max_pixels: Positive = 50_000_000
    min_side: Positive = 4
    decode_seconds: Positive = 10
    decode_bytes: Annotated[int, Field(ge=512 * 1024**2)] = 2_560 * 1024**2
    near_distance: Annotated[float, Field(ge=0, le=200)] = 20.0
    shard_bytes: Annotated[int, Field(ge=65_536)] = 67_108_864
    quarantine_bytes: Annotated[int, Field(ge=0)] = 1_073_741_824
    licence: Annotated[str, Field(max_length=500)] = ""


class Preprocess(Section):
    """How every image becomes the network's input; its hash travels with the model."""

    size: Annotated[int, Field(ge=8, le=1024)] = 28
    channels: Literal[1, 3] = 1
    resize: Literal["stretch", "crop"] = "stretch"
    crop_fraction: Annotated[float, Field(gt=0.3, le=1)] = 1.0
    filter: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
