"""The process that makes the network's input of files from outside. Run by `images.preparing` alone."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from components.data.decoding.decode import ImageLimits, decode
from components.data.decoding.decoder_process import opened, serve
from components.model.images.image_statistics import Glance, image_statistics
from components.model.images.preprocess import PreprocessSpec, resize

USABLE = struct.Struct("<B")
"""Before a usable file's pixels: 1. The statistics of all usable files end an answer."""


def main(arguments: list[str]) -> int:
    """Answer batches until stdin ends. arguments: the specification and the limits as JSON, and those of `serve`."""
    told: dict[str, Any] = json.loads(arguments[0])
    spec = PreprocessSpec(**told | {"mean": tuple(told["mean"]), "std": tuple(told["std"])})
    limits = ImageLimits(**json.loads(arguments[1]))
    serve(lambda contents: _prepared(contents, spec, limits), arguments[2:])
    return 0


def _prepared(contents: Iterator[bytes], spec: PreprocessSpec, limits: ImageLimits) -> bytes:
    glances: list[Glance] = []

    def prepare_one(content: bytes) -> bytes:
        image = decode(content, limits)
        pixels = resize(image, spec).tobytes()
        glances.append(Glance.at(image, len(content)))
        return USABLE.pack(1) + pixels

    answers = [opened(content, prepare_one) for content in contents]
    return b"".join((*answers, image_statistics(glances).astype(np.float32).tobytes()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
