"""Stored images read again in bounded pieces: what they look like to the model, and as small pictures for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.data.decoding.decode import ImageRejected, decode
from components.errors import IntegrityError
from components.model.images.image_statistics import Glance, image_statistics
from components.model.images.preprocess import resize
from components.model.serving.predictor import Predictor
from components.monitoring.drift.embeddings import narrowed
from components.operations.services import Services
from components.pages.page import data_uri
from components.store.reading import SampledImage

WORKING_SIDE = 256
"""Pixels of the longer side to which a large image is reduced first: trying changes of it takes bounded time then."""
LOOKED_AT = ("brightness", "contrast", "sharpness", "saturation")

UInt8Array = NDArray[np.uint8]
Change = Callable[[UInt8Array], UInt8Array]


@dataclass(frozen=True, slots=True)
class Looked:
    """The n images of a sample that could be read, with their statistics (n, 4) in the order of LOOKED_AT.

    embeddings: (n, D) float32, at most 512 wide, None where the model gives none. missing: how many could not be read.
    """

    images: tuple[SampledImage, ...]
    statistics: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None
    missing: int


class Pictures:
    """Reads images of the store, and looks at them with one model."""

    def __init__(self, services: Services, predictor: Predictor) -> None:
        self._store, self._limits = services.images, services.limits
        self._predictor = predictor
        self._at_once = services.workspace.params.score.batch_size
        self._side = max(WORKING_SIDE, predictor.spec.preprocess.size)

    def read(self, image: SampledImage) -> UInt8Array | None:
        """Return an image's pixels (H, W) or (H, W, 3), at most 256 a side, or None where it is gone or refused."""
        place = image.place
        try:
            found = decode(self._store.get(place.shard, place.row, place.image_id), self._limits)
        except (IntegrityError, ImageRejected):  # past its retention, or limits were lowered: the others stand for it
            return None
        factor = -(-max(found.size) // self._side)
        return np.asarray(found.reduce(factor) if factor > 1 else found)

    def first(self, images: Sequence[SampledImage], limit: int) -> list[UInt8Array]:
        """Return the pixels of the first `limit` of these images that can be read."""
        found: list[UInt8Array] = []
        for image in images:
            if len(found) == limit:
                break
            pixels = self.read(image)
            if pixels is not None:
                found.append(pixels)
        return found

    def look(self, pixels: Sequence[UInt8Array]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return statistics (n, 4) and embeddings (n, D), or None, of images as `read` gives them."""
        statistics, embeddings = [np.empty((0, len(LOOKED_AT)), np.float32)], []
        for start in range(0, len(pixels), self._at_once):
            images = [Image.fromarray(one) for one in pixels[start : start + self._at_once]]
            measured = image_statistics([Glance.at(image, 0) for image in images])
            statistics.append(measured[:, : len(LOOKED_AT)])
            if self._predictor.embeds:
                spec = self._predictor.spec.preprocess
                embeddings.append(narrowed(self._predictor.embed(np.stack([resize(image, spec) for image in images]))))
        return np.concatenate(statistics), np.concatenate(embeddings) if embeddings else None

    def look_at(self, images: Sequence[SampledImage], change: Change | None = None) -> Looked:
        """Return what a sample looks like, after `change` where one is given; no more than a batch is in memory."""
        kept: list[SampledImage] = []
        statistics, embeddings = [np.empty((0, len(LOOKED_AT)), np.float32)], []
        for start in range(0, len(images), self._at_once):
            some = [(i, pixels) for i in images[start : start + self._at_once] if (pixels := self.read(i)) is not None]
            if not some:
                continue
            kept += [image for image, _ in some]
            measured, embedded = self.look([pixels if change is None else change(pixels) for _, pixels in some])
            statistics.append(measured)
            if embedded is not None:
                embeddings.append(embedded)
        together = np.concatenate(embeddings) if embeddings else None
        return Looked(tuple(kept), np.concatenate(statistics), together, len(images) - len(kept))

    def thumbnails(self, images: Sequence[SampledImage], change: Change | None = None) -> Iterator[dict[str, Any]]:
        """Yield, for each image that can be read, its picture as a data URI and the class it was called."""
        for image in images:
            pixels = self.read(image)
            if pixels is not None:
                shown = pixels if change is None else change(pixels)
                yield {
                    "picture": data_uri(Image.fromarray(shown)),
                    "called": image.predicted,
                    "image_id": image.place.image_id,
                }
