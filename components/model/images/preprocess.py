"""How every image becomes the network's input. Training, evaluation and scoring all call `prepare` or its half."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.data.decoding.decode import DECODER_RULES, ImageRejected, decode
from components.errors import ConfigurationError
from components.model.images.image_statistics import Glance, image_statistics

if TYPE_CHECKING:
    from components.data.decoding.decode import ImageLimits
    from components.params import Preprocess

# Part of every digest, as the decoder's: raise it whenever `resize` would give other pixels; older models are refused.
RESIZER_RULES = 1

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """From a decoded image to the network's normalised input; mean and std are per channel, of pixels scaled to 0..1.

    size: pixels a side. crop_fraction: the share of the shorter side that the centre crop keeps (resize "crop" only).
    Raises ConfigurationError for an unknown rule or when mean or std do not fit the channels.
    """

    size: int
    channels: int
    resize: str
    crop_fraction: float
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.size < 1 or self.channels not in (1, 3):
            raise ConfigurationError(
                f"preprocess: size {self.size}, channels {self.channels}; size must be positive and channels 1 or 3"
            )
        if self.resize not in ("stretch", "crop") or self.filter not in FILTERS:
            raise ConfigurationError(f"preprocess: resize {self.resize!r} with filter {self.filter!r} is not known")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigurationError(f"preprocess.crop_fraction {self.crop_fraction} is not in (0, 1]")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ConfigurationError(
                f"preprocess: mean {self.mean} and std {self.std} must have one number for each of the "
                f"{self.channels} channels; leave both empty to take the training set's own"
            )
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise ConfigurationError(f"preprocess: mean {self.mean}, std {self.std}; std must be above 0, both finite")

    @classmethod
    def of(cls, params: Preprocess, mean: tuple[float, ...], std: tuple[float, ...]) -> PreprocessSpec:
        """Return the specification of `params`; its own mean and std win over those handed in."""
        return cls(
            size=params.size,
            channels=params.channels,
            resize=params.resize,
            crop_fraction=params.crop_fraction,
            filter=params.filter,
            mean=params.mean or mean,
            std=params.std or std,
        )

    def digest(self) -> str:
        """Return the sha256 of every rule between the file's bytes and the network's input."""
        content = json.dumps(
            {"decoder": DECODER_RULES, "resizer": RESIZER_RULES, **asdict(self)}, sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(content.encode()).hexdigest()


def decode_and_resize(content: bytes, spec: PreprocessSpec, limits: ImageLimits) -> UInt8Array:
    """Return an image file's pixels (size, size, channels) uint8. Raises ImageRejected if it cannot be used."""
    return resize(decode(content, limits), spec)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Some files as the network takes them: those that are images, column by column, and why the others are not.

    accepted: the places of the n images among the files. pixels: (n, size, size, channels) uint8. statistics: (n, 8)
    float32, in the order of IMAGE_STATISTICS. refused: the rejections of the other files, by their places.
    """

    accepted: list[int]
    pixels: UInt8Array
    statistics: NDArray[np.float32]
    refused: dict[int, ImageRejected]


def prepare(contents: Sequence[bytes], spec: PreprocessSpec, limits: ImageLimits) -> Prepared:
    """Return the pixels and statistics of image files, each decoded once."""
    pixels, glances, accepted = [], [], []
    refused: dict[int, ImageRejected] = {}
    for place, content in enumerate(contents):
        try:
            image = decode(content, limits)
        except ImageRejected as error:
            refused[place] = error
            continue
        accepted.append(place)
        pixels.append(resize(image, spec))
        glances.append(Glance.at(image, len(content)))
    shape = (len(pixels), spec.size, spec.size, spec.channels)
    stacked = np.stack(pixels) if pixels else np.empty(shape, np.uint8)
    return Prepared(accepted, stacked, image_statistics(glances), refused)


def resize(image: Image.Image, spec: PreprocessSpec) -> UInt8Array:
    """Return a decoded image as pixels (size, size, channels) uint8."""
    mode = "L" if spec.channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    if spec.resize == "crop":
        # One resampling of the centre square: the same pixels as resize-then-crop, and bounded memory at any aspect.
        side = min(width, height) * spec.crop_fraction
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if image.size != (spec.size, spec.size) or box != (0.0, 0.0, float(width), float(height)):
        image = image.resize((spec.size, spec.size), FILTERS[spec.filter], box=box)
    return np.array(image, dtype=np.uint8).reshape(spec.size, spec.size, spec.channels)
