"""A registered version made again from its own record: the commit it names, with its images, parameters and stages."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from components.data.code_lock import code_digest
from components.data.label_sets import indicators
from components.data.manifest import Manifest
from components.data.versioning.versions import dvc_environment, past_checkout
from components.errors import DataError, RefusedError, ServiceError
from components.evaluation.metrics.paired import overall_difference
from components.model.serving.predictor import Predictor, decisions
from components.operations.ingestion import code_lock_sources
from components.operations.models import load_predictor
from components.operations.retraining.comparison import clone_reader, probabilities
from components.operations.retraining.start import bring_start
from components.operations.services import Services
from components.params import Params, load_params
from components.registry.artifacts import artifact_sha256
from components.store import champions

logger = logging.getLogger(__name__)

JUDGED_ON = ("frozen_test", "test", "validation", "golden")
ALPHA = 0.01  # two-sided: chance alone calls one reproduction in a hundred different

Outcome = Literal["identical", "within noise", "different"]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How a version and what was made again from its record compare on the same `images`.

    difference: of the accuracies, made again minus registered; low, high: its 99 % interval. agreement: share of images
    with the same answer. same_code: the code is the one the version was made with.
    """

    version: int
    outcome: Outcome
    images: int
    registered: float
    rebuilt: float
    difference: float
    low: float
    high: float
    agreement: float
    same_code: bool
    git_commit: str
    dataset_version: str

    def as_json(self) -> dict[str, Any]:
        """Return the comparison, ready for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Return the comparison in a sentence or two."""
        found = (
            f"version {self.version} made again from {self.dataset_version}: {self.outcome}; accuracy "
            f"{self.rebuilt:.4f} against {self.registered:.4f} on {self.images} images "
            f"(difference {self.difference:+.4f}, 99 % interval {self.low:+.4f} to {self.high:+.4f}), "
            f"the same answer to {100 * self.agreement:.1f} %"
        )
        return found if self.same_code else found + ". The code has changed since it was made"


def rebuild_and_compare(services: Services, version: int) -> Reproduction:
    """Return how a version made again from its record compares with the registered one, on images it never learnt.

    Everything happens in a checkout of its own; nothing is published or registered. Images erased since are missing.
    Raises DataError for an unknown version or no images to compare on, ServiceError where a stage fails.
    """
    model = champions.model(services.database, version)
    workspace = services.workspace
    targets = [f"{path}.dvc" for path in (workspace.params.paths.images, workspace.params.paths.manifest)]
    with past_checkout(
        origin=workspace.origin, state=workspace.state, commit=model.git_commit, targets=targets
    ) as root:  # fmt: skip
        params = load_params(root / "params.yaml")
        bring_start(services, root)
        for stage in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]:
            _run_stage(stage, root)
        registered, rebuilt = load_predictor(services, model), Predictor(root / params.paths.export)
        labels, theirs, ours = _answers(services, root, params, registered, rebuilt)
        same_bytes = artifact_sha256(root / params.paths.export) == model.artifact_sha256
        made_with = (root / params.paths.code_lock).read_text(encoding="utf-8").strip()
    difference = overall_difference(labels, ours, theirs)
    low, high = difference.lower(ALPHA / 2), difference.upper(ALPHA / 2)
    outcome: Outcome = "identical" if same_bytes else "within noise" if low <= 0 <= high else "different"
    return Reproduction(
        version=version,
        outcome=outcome,
        images=len(labels),
        registered=round(float((theirs == labels).mean()), 5),
        rebuilt=round(float((ours == labels).mean()), 5),
        difference=round(difference.value, 5),
        low=round(low, 5),
        high=round(high, 5),
        agreement=round(float((ours == theirs).mean()), 5),
        same_code=made_with == code_digest(*code_lock_sources()),
        git_commit=model.git_commit,
        dataset_version=model.dataset_version,
    )


def _run_stage(stage: str, root: Path) -> None:
    """Run a stage as DVC would, without asking its cache: what was made before is not to be found there again."""
    done = subprocess.run(
        [sys.executable, "-m", "components.stages", stage],
        cwd=root, env=dvc_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = (done.stderr.strip().splitlines() or ["no word"])[-1][:500]
    if done.returncode != 0:
        kind = RefusedError if done.returncode == RefusedError.exit_code else ServiceError
        raise kind(f"stage {stage!r} failed while the version was made again: {said}")
    logger.info("%s", said)


def _answers(
    services: Services, root: Path, params: Params, registered: Predictor, rebuilt: Predictor
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return labels, registered and rebuilt answers (N,) as class indices, of the first held-out split with images.

    Where images carry several labels, each different set of them has an index: answers agree where all labels do.
    """
    manifest = Manifest.read(root / params.paths.manifest)
    if registered.spec.classes != rebuilt.spec.classes:
        raise DataError("the record's class list is not the registered model's; nothing can be compared")
    index = {name: k for k, name in enumerate(rebuilt.spec.classes)}
    for split in JUDGED_ON:
        rows = manifest.select(split)
        if len(rows):
            reader, batch = clone_reader(root, params), params.evaluate.batch_size
            names = rows["label"].to_pylist()
            theirs, ours = (
                probabilities(one, rows, reader, services.limits, batch) for one in (registered, rebuilt)
            )  # fmt: skip
            if rebuilt.spec.several:
                said = [decisions(theirs, registered.spec)[0], decisions(ours, rebuilt.spec)[0]]
                sets = np.concatenate([indicators(names, rebuilt.spec.classes) > 0, *said])
                found = np.split(np.unique(sets, axis=0, return_inverse=True)[1].astype(np.int64), 3)
                return found[0], found[1], found[2]
            labels = np.array([index[name] for name in names], np.int64)
            return labels, theirs.argmax(axis=1).astype(np.int64), ours.argmax(axis=1).astype(np.int64)
    raise DataError("no held-out images to compare on; they were all erased or recalled")
