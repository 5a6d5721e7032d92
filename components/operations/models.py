"""Registered models on this machine: fetched from the registry once, verified by hash, loaded as predictors."""

from __future__ import annotations

from components.errors import RefusedError
from components.model.serving.predictor import Predictor
from components.operations.services import Services
from components.records import ModelVersion
from components.registry.artifacts import artifact_sha256
from components.store.champions import champion


def require_champion(services: Services) -> ModelVersion:
    """Return the champion. Raises RefusedError where there is none yet."""
    current = champion(services.database)
    if current is None:
        raise RefusedError(
            "there is no champion yet; bring images in with `perennial ingest`, then `perennial retrain`"
        )
    return current


def load_predictor(services: Services, model: ModelVersion, threads: int | None = None) -> Predictor:
    """Return the predictor of a registered model, downloaded into `.perennial/models` once, with `threads` a call.

    Raises IntegrityError where the file is not the one whose hash the database holds: it is not loaded.
    """
    folder = services.workspace.state / "models" / f"{model.version}-{model.artifact_sha256[:16]}"
    if not folder.is_dir() or artifact_sha256(folder) != model.artifact_sha256:
        services.registry.download(model.version, folder, sha256=model.artifact_sha256)
    return Predictor(folder, threads)
