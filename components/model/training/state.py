"""What a training run keeps on disk so that a killed one goes on at its last whole epoch."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from components.model.training.batches import Examples
from components.model.training.learner import SAVED_AS

LAST = "last"
KEPT_DAYS = 7.0


@dataclass(frozen=True, slots=True)
class RunState:
    """A folder of one run: its last whole epoch, and the best epochs' weights. It outlives the process."""

    folder: Path

    @classmethod
    def of(cls, root: Path, key: str) -> RunState:
        """Return the state of the run that `key` names, in a folder of `root`; other runs' are removed after a week."""
        root.mkdir(parents=True, exist_ok=True)
        oldest = time.time() - KEPT_DAYS * 86_400
        for other in root.iterdir():
            if other.name != key and other.stat().st_mtime < oldest:
                shutil.rmtree(other, ignore_errors=True)
        folder = root / key
        folder.mkdir(exist_ok=True)
        return cls(folder)

    @property
    def last(self) -> Path:
        """Return the file with the last whole epoch."""
        return self.folder / f"{LAST}.ckpt"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the best epochs' weights."""
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        """Return the file with the metrics of the whole epochs."""
        return self.folder / "metrics.jsonl"

    def keeper(self) -> Callback:
        """Return the callback that writes every whole epoch."""
        return ModelCheckpoint(
            self.folder,
            LAST,
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def ended(self) -> bool:
        """Return whether early stopping has ended the run already."""
        return self.last.is_file() and bool(self.read()[SAVED_AS]["ended"])

    def epochs(self) -> int:
        """Return how many whole epochs are kept."""
        return int(self.read()["epoch"]) + 1 if self.last.is_file() else 0

    def read(self) -> Any:
        """Return the last whole epoch, as Lightning writes it."""
        return torch.load(self.last, map_location="cpu", weights_only=True)

    def discard(self) -> None:
        """Remove the state: the run is over, and its model is where it belongs."""
        shutil.rmtree(self.folder, ignore_errors=True)


def run_key(data: Examples, image_ids: list[str], settings: Mapping[str, Any]) -> str:
    """Return a name for the run with exactly these rows, labels, weights and settings. settings: ready for JSON."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update("\n".join(image_ids).encode())
    for column in (data.labels, data.weights, data.targets):
        digest.update(b"-" if column is None else np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:32]
