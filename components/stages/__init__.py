"""The functions behind dvc.yaml: `python -m components.stages train`, in a workspace.

File in, file out: no database, no network, no clock but the one that stamps metrics.jsonl. Besides the sections
dvc.yaml names, a stage reads `paths` and the limits of `data`, which no accepted image exceeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from components.params import Params

Stage = Callable[..., None]


def _stage(name: str) -> Stage:
    def run(params: Params, **options: Path) -> None:
        import_module(f"{__name__}.{name}").run(
            params, **options
        )  # not before: who asks for the names only need not load PyTorch

    return run


STAGES: Mapping[str, Stage] = {name: _stage(name) for name in ("audit", "train", "evaluate", "export")}
