"""How long exported files take to answer on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.model.serving.predictor import Predictor

BATCHES = (1, 8, 32)
FEWEST_RUNS = 5
SECONDS_A_BATCH = 0.5  # for each file, after which no further run is begun


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds that a batch takes, over so many runs: half of them no more than p50, 95 % no more than p95."""

    batch: int
    runs: int
    p50_ms: float
    p95_ms: float

    @property
    def images_per_second(self) -> float:
        """Return what the median run answers a second."""
        return 1000 * self.batch / self.p50_ms


def measure_latency(
    predictors: Mapping[str, Predictor], images: NDArray[np.uint8], runs: int
) -> dict[str, list[Latency]]:
    """Return each predictor's latency at batches of 1, 8 and 32 images, from memory to probabilities.

    images: (N, size, size, channels) uint8, N > 0, repeated where a batch is larger. runs: at most, and fewer where
    they take longer than half a second a file and batch, but five. Runs of the files alternate, so that a machine that
    slows down slows all of them; the first of each is not counted.
    """
    measured: dict[str, list[Latency]] = {name: [] for name in predictors}
    for batch in BATCHES:
        some = images[np.arange(batch) % len(images)]
        for predictor in predictors.values():
            predictor.predict(some)
        seconds = _alternate(list(predictors.values()), some, max(runs, FEWEST_RUNS))
        for name, of_file in zip(predictors, seconds, strict=True):
            p50, p95 = np.percentile(np.array(of_file) * 1000, (50, 95))
            measured[name].append(Latency(batch, len(of_file), round(float(p50), 4), round(float(p95), 4)))
    return measured


def _alternate(predictors: list[Predictor], images: NDArray[np.uint8], runs: int) -> list[list[float]]:
    """Return the seconds of every run, by predictor."""
    seconds: list[list[float]] = [[] for _ in predictors]
    began = time.perf_counter()
    for done in range(runs):
        if done >= FEWEST_RUNS and time.perf_counter() - began > SECONDS_A_BATCH * len(predictors):
            break
        for predictor, of_file in zip(predictors, seconds, strict=True):
            before = time.perf_counter()
            predictor.predict(images)
            of_file.append(time.perf_counter() - before)
    return seconds
