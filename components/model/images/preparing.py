"""Files from outside as the network takes them, decoded in processes of their own: no file can take the scorer down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from components.data.decoding.decode import ImageLimits, ImageRejected
from components.data.decoding.isolation import IsolatedFiles, IsolationLimits, Opener, read_refusal
from components.model.images import preparing_process
from components.model.images.preparing_process import USABLE
from components.model.images.preprocess import Prepared, PreprocessSpec
from components.records import IMAGE_STATISTICS


@dataclass(frozen=True, slots=True)
class _Usable:
    """pixels: (size, size, channels) uint8. statistics: (8,) float32."""

    pixels: NDArray[np.uint8]
    statistics: NDArray[np.float32]


class IsolatedPreparer:
    """What `prepare` does, a file's decoding bounded by time and memory. Use as a context manager, from any thread."""

    def __init__(
        self, spec: PreprocessSpec, limits: ImageLimits, isolation: IsolationLimits, processes: int = 0
    ) -> None:
        self._spec = spec
        arguments = json.dumps(asdict(spec)), json.dumps(asdict(limits))
        self._files = IsolatedFiles(
            Opener(preparing_process.__name__, arguments, self._parse, ImageRejected), isolation, processes
        )

    def __enter__(self) -> IsolatedPreparer:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def prepare(self, contents: Sequence[bytes]) -> Prepared:
        """Return the pixels and statistics of image files; one that ends its process is refused like any other.

        Its rejection's reason is then too-slow, too-much-memory or decoder-crashed.
        """
        opened = self._files.submit(contents).result()
        usable = {place: file for place, file in enumerate(opened) if isinstance(file, _Usable)}
        side, channels = self._spec.size, self._spec.channels
        pixels, statistics = [file.pixels for file in usable.values()], [file.statistics for file in usable.values()]
        return Prepared(
            accepted=list(usable),
            pixels=np.stack(pixels) if pixels else np.empty((0, side, side, channels), np.uint8),
            statistics=np.stack(statistics) if statistics else np.empty((0, len(IMAGE_STATISTICS)), np.float32),
            refused={place: file for place, file in enumerate(opened) if isinstance(file, ImageRejected)},
        )

    def _parse(self, answer: bytes, files: int) -> list[_Usable | ImageRejected]:
        shape = (self._spec.size, self._spec.size, self._spec.channels)
        size, place = int(np.prod(shape)), 0
        found: list[NDArray[np.uint8] | ImageRejected] = []
        for _ in range(files):
            if answer[place]:
                place += USABLE.size
                found.append(np.frombuffer(answer, np.uint8, size, place).reshape(shape))
                place += size
            else:
                reason, detail, place = read_refusal(answer, place)
                found.append(ImageRejected(reason, detail))
        rows = iter(np.frombuffer(answer, np.float32, offset=place).reshape(-1, len(IMAGE_STATISTICS)))
        return [file if isinstance(file, ImageRejected) else _Usable(file, next(rows)) for file in found]
