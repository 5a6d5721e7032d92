"""From rows of the manifest to arrays in memory, through the one preprocessing function."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from components.data.decoding.decode import ImageLimits, ImageRejected, decode
from components.data.decoding.turns import DecodingTurns, available_cores
from components.data.ingestion.opinions import UNCONFIRMED
from components.data.label_sets import indicators
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.errors import DataError
from components.model.images.inputs import ImageSet, channel_statistics
from components.model.images.preprocess import PreprocessSpec, decode_and_resize
from components.model.images.room import room_for
from components.params import CHAMPION, Params, Preprocess, Train

ROWS_AT_ONCE = 256  # a thread's turn, long enough for its cost not to matter


@dataclass(frozen=True, slots=True)
class StoredImages:
    """A dataset version on disk: what the manifest says and the shards it points into."""

    manifest: Manifest
    reader: ShardReader
    limits: ImageLimits

    @classmethod
    def of(cls, params: Params) -> StoredImages:
        """Return the dataset at `params.paths`, relative to the working folder. Raises DataError if there is none."""
        manifest = Manifest.read(Path(params.paths.manifest))
        return cls(manifest, ShardReader(Path(params.paths.images)), ImageLimits.of(params.data))

    def pixels(self, rows: pa.Table, spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Return the pixels (N, size, size, channels) uint8 of manifest rows, in their order.

        They lie where `room_for` finds room. Raises as it does, IntegrityError if stored bytes differ from their image
        id, and DataError for one that does not decode.
        """
        places = list(zip(*(rows[name].to_pylist() for name in ("shard", "row", "image_id", "name")), strict=True))
        images = room_for(len(places), spec.size, spec.channels)

        turns = DecodingTurns()

        def fill(start: int) -> None:
            some = places[start : start + ROWS_AT_ONCE]
            contents = [self.content(*place) for place in some]
            with turns.turn(contents):
                for number, (place, content) in enumerate(zip(some, contents, strict=True), start):
                    images[number] = decode_and_resize_stored(content, place[2], spec, self.limits)

        with ThreadPoolExecutor(available_cores()) as pool:
            for _ in pool.map(fill, range(0, len(places), ROWS_AT_ONCE)):
                pass
        return images

    def image(self, place: Mapping[str, Any]) -> Image.Image:
        """Return one image, decoded, of a manifest row. Raises as `content`, and DataError if it is refused now."""
        content = self.content(place["shard"], place["row"], place["image_id"], place["name"])
        with _naming(place["image_id"]):
            return decode(content, self.limits)

    def content(self, shard: str | None, row: int | None, image_id: str, name: str | None) -> bytes:
        """Return an image's bytes. Raises IntegrityError if they are not its own, DataError if none are stored."""
        if shard is None or row is None:
            raise DataError(
                f"image {image_id} ({name}) is active in the manifest without stored bytes; ingest it again"
            )
        return self.reader.read_verified(shard, row, image_id)

    def labels(self, rows: pa.Table) -> NDArray[np.int64]:
        """Return the class indices (N,) of manifest rows; where images carry several, 0 and 1 for each class, (N, K).

        Raises DataError for a label outside the class list.
        """
        if self.manifest.several:
            return indicators(rows["label"].to_pylist(), self.manifest.classes)
        index = {name: number for number, name in enumerate(self.manifest.classes)}
        labels = rows["label"].to_pylist()
        for image_id, label in zip(rows["image_id"].to_pylist(), labels, strict=True):
            if label not in index:
                raise DataError(
                    f"image {image_id}: label {label!r} is not in the class list; correct it or add the class"
                )
        return np.array([index[label] for label in labels], dtype=np.int64)


def decode_and_resize_stored(content: bytes, image_id: str, spec: PreprocessSpec, limits: ImageLimits) -> Any:
    """Return a stored image's pixels (size, size, channels) uint8. Raises DataError naming it if it is refused."""
    with _naming(image_id):
        return decode_and_resize(content, spec, limits)


@contextmanager
def _naming(image_id: str) -> Iterator[None]:
    try:
        yield
    except ImageRejected as error:
        raise DataError(
            f"image {image_id} was accepted once and is refused now, {error}; "
            "recall it, or undo the change of the limits in params.yaml"
        ) from error


class DecodedImages(Sequence[Image.Image]):
    """The images of manifest rows, each decoded when it is asked for."""

    def __init__(self, stored: StoredImages, rows: pa.Table) -> None:
        self._stored = stored
        self._rows = rows.select(["shard", "row", "image_id", "name"]).to_pylist()

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Image.Image: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Image.Image]: ...

    def __getitem__(self, row: int | slice) -> Image.Image | Sequence[Image.Image]:
        if isinstance(row, slice):
            return [self._stored.image(place) for place in self._rows[row]]
        return self._stored.image(self._rows[row])


@dataclass(frozen=True, slots=True)
class LearningSet:
    """All that audit and training read: the training and validation rows of one dataset version, N in all.

    rows: the manifest's, by image id. data: weights are those of production rows, audit aside. training: (N,) bool, in
    the training split rather than validation. production: (N,) bool, labelled from production. given: (N,) bool, the
    label is as it came, of one or several annotators, and confirmed by nobody since.
    """

    rows: pa.Table
    classes: tuple[str, ...]
    spec: PreprocessSpec
    data: ImageSet
    training: NDArray[np.bool_]
    production: NDArray[np.bool_]
    given: NDArray[np.bool_]

    def prepared_for(self, backbone: str, params: Params) -> PreprocessSpec:
        """Return how images are prepared for a backbone: normalised as its pre-trained weights want it."""
        recorded = _recorded_statistics(params.preprocess, params.train.model_copy(update={"backbone": backbone}))
        mean, std = recorded or (self.spec.mean, self.spec.std)
        return replace(self.spec, mean=params.preprocess.mean or mean, std=params.preprocess.std or std)

    def named(self, image_ids: Collection[str]) -> NDArray[np.bool_]:
        """Return (N,), which rows are among `image_ids`."""
        wanted = set(image_ids)
        return np.array([image_id in wanted for image_id in self.rows["image_id"].to_pylist()], dtype=bool)


def _recorded_statistics(preprocess: Preprocess, train: Train) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if train.pretrained in ("none", CHAMPION):
        return None
    from components.model.networks.backbones import recorded_statistics

    return recorded_statistics(train.named().backbone, preprocess.channels)


def load_learning(stored: StoredImages, preprocess: Preprocess, train: Train) -> LearningSet:
    """Return the training and validation images of a dataset version.

    Raises DataError if there are no training images, or fewer than two classes.
    """
    rows = stored.manifest.select("train", "validation")
    training = np.array([split == "train" for split in rows["split"].to_pylist()], dtype=bool)
    if not training.any() or len(stored.manifest.classes) < 2:
        raise DataError(
            f"{int(training.sum())} training images of {len(stored.manifest.classes)} classes; "
            "a classifier needs images of two classes, ingest more"
        )
    plain = PreprocessSpec.of(preprocess, (0.0,) * preprocess.channels, (1.0,) * preprocess.channels)
    images = stored.pixels(rows, plain)
    mean, std = _recorded_statistics(preprocess, train) or channel_statistics(images, training)
    production = np.array([window is not None for window in rows["window"].to_pylist()], dtype=bool)
    weights = np.where(production, train.production_weight, 1.0).astype(np.float32)
    return LearningSet(
        rows=rows,
        classes=stored.manifest.classes,
        spec=replace(plain, mean=preprocess.mean or mean, std=preprocess.std or std),
        data=ImageSet(images, stored.labels(rows), weights),
        training=training,
        production=production,
        given=np.array([origin in UNCONFIRMED for origin in rows["label_origin"].to_pylist()], dtype=bool),
    )
