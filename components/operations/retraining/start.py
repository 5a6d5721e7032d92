"""The champion's weights, brought to where a training starts from them."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.data.versioning.versions import past_checkout
from components.model.artifact import SPEC_FILE, START_FOLDER, WEIGHTS_FILE, NetworkKind, file_sha256, read_spec
from components.operations.retraining.written_params import note_start
from components.operations.services import Services
from components.params import CHAMPION, Start, load_params
from components.store import champions


def choose_start(services: Services, root: Path) -> None:
    """Write into the params.yaml at `root` whose weights training starts from, and bring them.

    That is the champion where `train.pretrained` says so and there is one, else nobody. Raises ServiceError where its
    weights cannot be had, and ConfigurationError, before any stage has run, where it is a network of another kind.
    """
    path = root / "params.yaml"
    params = load_params(path)
    current = champions.champion(services.database) if params.train.pretrained == CHAMPION else None
    if current is None:
        note_start(path, Start())
        return
    start = Start(version=current.version, commit=current.git_commit)
    _copy_weights(services, start, root)
    fed, folder = params.preprocess, root / START_FOLDER
    wanted = NetworkKind(params.train.backbone, params.train.head, fed.size, fed.channels, params.data.several)
    wanted.require_start_from(read_spec(folder).kind)
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    note_start(path, start.model_copy(update={"sha256": sha256}))


def bring_start(services: Services, root: Path) -> None:
    """Bring the weights that the params.yaml at `root` names, if it does. Raises ServiceError if they are gone."""
    params = load_params(root / "params.yaml")
    if params.train.pretrained == CHAMPION and params.start.version:
        _copy_weights(services, params.start, root)


def _copy_weights(services: Services, start: Start, root: Path) -> None:
    workspace, folder = services.workspace, root / START_FOLDER
    model = services.workspace.params.paths.model
    with past_checkout(
        origin=workspace.origin, state=workspace.state, commit=start.commit, targets=[model]
    ) as past:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        trained = past / load_params(past / "params.yaml").paths.model
        for name in (WEIGHTS_FILE, SPEC_FILE):
            shutil.copyfile(trained / name, folder / name)
