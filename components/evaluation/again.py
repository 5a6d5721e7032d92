"""An exported file measured, here or in a process of its own that knows the export folder and the images alone.

What the stage has in memory (a network, a session, decoded pixels) cannot hide there what a scorer would meet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.data.decoding.decode import ImageLimits
from components.data.label_sets import indicators
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.errors import DataError, PerennialError, RefusedError, ServiceError
from components.evaluation.given import Given, given
from components.model.artifact import ModelSpec
from components.model.images.preprocess import prepare
from components.model.serving.predictor import Predictor
from components.params import Section, parse_strictly

PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
IMAGES_AT_ONCE = 256
MOST_SECONDS = 1800.0
# Measured: on a CPU, ONNX Runtime gives the same bits whatever the threads are, its own or OpenMP's. A GPU's library
# may choose another algorithm in another process.
SAME, SAME_ON_A_GPU = 1e-6, 1e-4


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model gets right: accuracy, mean negative log-probability of the label, calibration error, not rounded.

    Of several labels, accuracy is the share of images with all of them right, the other two are means over labels.
    """

    images: int
    accuracy: float
    log_loss: float
    ece: float

    @classmethod
    def of(cls, answers: Given, ece_bins: int) -> Figures:
        """Return the figures of some answers, one at least. Labels that no image carries have no calibration error."""
        right, error = answers.right, float(answers.calibration_error(ece_bins))
        return cls(len(right), float(right.mean()), answers.log_loss, 0.0 if np.isnan(error) else error)

    def difference(self, other: Figures) -> float:
        """Return the largest difference of a figure; infinite where the number of images differs."""
        if self.images != other.images:
            return float("inf")
        return max(abs(self.accuracy - other.accuracy), abs(self.log_loss - other.log_loss), abs(self.ece - other.ece))


class Job(Section):
    """What is measured: an export folder on the first `images` validation images of a dataset version.

    threads: of ONNX Runtime.
    """

    export: str
    shards: str
    manifest: str
    images: int
    max_bytes: int
    max_pixels: int
    min_side: int
    threads: int
    ece_bins: int


def answered(predictor: Predictor, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Given:
    """Return what an exported file answers, in its own calibrated probabilities.

    labels: class indices (N,), or, where images carry several labels, 0 and 1 of each (N, K).
    """
    starts = range(0, len(images), IMAGES_AT_ONCE)
    found = np.concatenate([predictor.predict(images[s : s + IMAGES_AT_ONCE])[1] for s in starts])
    return given(found, labels, predictor.spec)


def figures_elsewhere(job: Job) -> Figures:
    """Return what a new process measures. Raises ServiceError, with what it said, if it fails or never ends."""
    command = [sys.executable, "-m", __name__, job.model_dump_json()]
    try:
        done = subprocess.run(
            command, cwd=PACKAGE_FOLDER, capture_output=True, text=True, check=False, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{job.export}: measuring it again took more than {MOST_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise ServiceError(f"{job.export}: measuring it again failed: {' '.join(done.stderr.split())[-500:]}")
    return Figures(**json.loads(done.stdout))


def refuse_unless_same(here: Figures, elsewhere: Figures, *, on_gpu: bool) -> None:
    """Raise RefusedError if a new process measured something else than this one, by more than 1e-6 (GPU: 1e-4)."""
    if here.difference(elsewhere) > (SAME_ON_A_GPU if on_gpu else SAME):
        raise RefusedError(
            f"in a new process the exported file measures {elsewhere}, here {here}, of the same images; it is not "
            "used. Export again; if it stays so, compare what is installed with constraints.txt"
        )


def refuse_unless_near(here: Figures, trained: Figures, logit_tolerance: float) -> None:
    """Raise RefusedError if the exported file measures something else than the trained network's own logits give.

    logit_tolerance: how much a calibrated logit may differ. A log-probability differs by twice that at most, and one
    image in a thousand may have two classes, or a label and its threshold, so close that its answer turns.
    """
    turned = abs(here.accuracy - trained.accuracy) * here.images
    if abs(here.log_loss - trained.log_loss) > 2 * logit_tolerance or turned > 1 + here.images / 1000:
        raise RefusedError(
            f"the exported file measures {here}, the trained network {trained}, of the same images; it is not used"
        )


def measure_again(job: Job) -> Figures:
    """Return the figures of an export folder, everything read anew. Raises DataError for an image that is refused."""
    predictor = Predictor(Path(job.export), threads=job.threads)
    rows = Manifest.read(Path(job.manifest)).select("validation").slice(0, job.images).to_pylist()
    reader = ShardReader(Path(job.shards))
    contents = [reader.read_verified(row["shard"], row["row"], row["image_id"]) for row in rows]
    limits = ImageLimits(job.max_bytes, job.max_pixels, job.min_side)
    prepared = prepare(contents, predictor.spec.preprocess, limits)
    for place, error in prepared.refused.items():
        raise DataError(f"image {rows[place]['image_id']} was accepted once and is refused now, {error}")
    labels = _labels([row["label"] for row in rows], predictor.spec)
    return Figures.of(answered(predictor, prepared.pixels, labels), job.ece_bins)


def _labels(told: Sequence[str], spec: ModelSpec) -> NDArray[np.int64]:
    if spec.several:
        return indicators(told, spec.classes)
    index = {name: number for number, name in enumerate(spec.classes)}
    return np.array([index[label] for label in told], np.int64)


def main(arguments: Sequence[str]) -> int:
    """Print the figures of the one job in `arguments` as JSON, and return the exit code."""
    try:
        figures = measure_again(parse_strictly(Job, json.loads(arguments[0]), "the job"))
    except PerennialError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(asdict(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
