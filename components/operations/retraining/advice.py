"""What would help after a retraining that did not: the learning curve of its data, and what follows from it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.versioning.versions import dvc, past_checkout
from components.errors import PerennialError, RefusedError, ServiceError
from components.evaluation.training.advice import Advice, LearningCurve, advise
from components.operations.ingestion import current_dataset, dataset_paths
from components.operations.retraining.attempt import Attempt
from components.operations.services import Services
from components.params import load_params
from components.store import ledger

logger = logging.getLogger(__name__)

KIND = "advice"


def advise_refused(services: Services, root: Path, attempt: Attempt, version: int, *, now: datetime) -> str:
    """Return in words what would help where version `version` was refused, and record it; "" where it is switched off.

    root: the clone it was trained in. Whatever goes wrong is said in the words: the refusal is settled all the same.
    """
    seconds = services.workspace.params.retrain.advice_seconds
    if not seconds or load_params(root / "params.yaml").data.several:  # there is no learning curve of sets yet
        return ""
    try:
        curve = curve_of(root, seconds)
        known = [name for name in attempt.alarmed if name in curve.classes]
        found = advise(curve, known)
    except PerennialError as error:
        logger.warning("no advice on version %d: %s", version, error)
        return f"what would help could not be found out: {error}"
    return _record(services, curve, found, version=version, classes=known, actor="retrain", now=now)


def advise_now(services: Services, classes: Sequence[str], *, seconds: float, now: datetime) -> dict[str, Any]:
    """Return what would help `classes` (or the worst three) with the newest dataset version, and record it.

    Raises RefusedError where there is no data, DataError for an unknown class or too few images.
    """
    workspace, dataset = services.workspace, current_dataset(services)
    if dataset is None:
        raise RefusedError("there is no data yet; bring images in with `perennial ingest SOURCE`")
    targets = [f"{path}.dvc" for path in dataset_paths(workspace.params)]
    with past_checkout(
        origin=workspace.origin, state=workspace.state, commit="origin/main", targets=targets
    ) as root:  # fmt: skip
        with suppress(ServiceError):  # before the first retraining there is no audit
            dvc("pull", load_params(root / "params.yaml").paths.audit, cwd=root)
        curve = curve_of(root, seconds)
    found = advise(curve, classes)
    words = _record(services, curve, found, version=None, classes=classes, actor="advise", now=now)
    return {
        "dataset_version": dataset, "advice": [one.as_json() for one in found], "reason": words,
        "curve": curve.as_json(),
    }  # fmt: skip


def curve_of(root: Path, seconds: float) -> LearningCurve:
    """Return the learning curve of the dataset in the folder `root`, from trainings in a process of their own.

    Raises RefusedError where images carry several labels; ServiceError, with its last words, where that fails before a
    training is finished.
    """
    if load_params(root / "params.yaml").data.several:
        raise RefusedError("no learning curve is made yet where images carry several labels (data.several)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "curve.json"
        command = [sys.executable, "-m", "components.curve", str(file), str(seconds)]
        said = f"no training ended within {2 * seconds + 60:.0f} s; raise retrain.advice_seconds"
        try:
            done = subprocess.run(
                command, cwd=root, capture_output=True, text=True, check=False, timeout=2 * seconds + 60
            )
            said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        except subprocess.TimeoutExpired:
            logger.warning("the learning curve was cut off after %.0f s", 2 * seconds + 60)
        try:
            return LearningCurve.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ServiceError(f"the learning curve could not be made: {said[:500]}") from error


def _record(
    services: Services,
    curve: LearningCurve,
    found: Sequence[Advice],
    *,
    version: int | None,
    classes: Sequence[str],
    actor: str,
    now: datetime,
) -> str:
    words = "; ".join(one.words for one in found)
    ledger.record(
        services.database, kind=KIND, actor=actor, action=str(found[0].remedies[0]), reason=words, now=now,
        model_version=version, classes=classes,
        evidence={"advice": [one.as_json() for one in found], "curve": curve.as_json()},
    )  # fmt: skip
    return words
