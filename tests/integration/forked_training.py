"""One training run in a process of its own, as the tests of kills and of several processes start it.

Arguments: a folder, epochs, processes. The run's state lies in FOLDER/state; every line of its log is printed; what
came out is FOLDER/fitted.json. The network has no batch normalisation: two processes are to
compute what one does.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.training.fit import fit
from components.model.training.progress import MetricsLog
from components.model.training.state import RunState
from components.params import Augment, Train

SPEC = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.3,))


class TellingLog(MetricsLog):
    """A log that another process follows through a pipe."""

    def write(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Write the line, and print it."""
        super().write(step, epoch, values)
        print(json.dumps({"step": step, "epoch": epoch, **values}), flush=True)  # noqa: T201


def now() -> datetime:
    """Return a moment."""
    return datetime(2026, 11, 20, tzinfo=UTC)


def stripes(number: int, seed: int) -> ImageSet:
    """Return noise with a bright row (class 0), a bright column (1) or neither (2)."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 120, (number, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(number) % 3
    images[labels == 0, 3, :] = 250
    images[labels == 1, :, 3] = 250
    return ImageSet(images, labels.astype(np.int64), np.linspace(0.5, 1.5, number, dtype=np.float32))


def network() -> torch.nn.Module:
    """Return a small network without batch normalisation."""
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 3)
    )


def main(folder: Path, epochs: int, processes: int) -> None:
    """Train, and write what came out."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    moved = Augment(shift=0.0) if processes > 1 or epochs == 1 else Augment(shift=0.1)
    params = Train(
        epochs=epochs, batch_size=6, precision="fp32", augment=moved, processes=processes, patience=50, dropout=0.0,
        learning_rate=0.002, label_smoothing=0.0,
    )  # fmt: skip
    fitted = fit(
        network(),
        stripes(903, 0),
        stripes(90, 1),
        spec=SPEC,
        params=params,
        log=TellingLog(folder / "metrics.jsonl", now),
        checkpoints=folder / "checkpoints",
        state=RunState.of(folder / "state", "one"),
    )
    said = {name: value for name, value in asdict(fitted).items() if name != "network"}
    (folder / "fitted.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
