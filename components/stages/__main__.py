"""`python -m components.stages STAGE`, what dvc.yaml runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from components.data.versioning.versions import TRAINING_STATES
from components.errors import PerennialError
from components.params import load_params
from components.stages import STAGES

logger = logging.getLogger("components.stages")


def _options(stage: str) -> dict[str, Path]:
    """Return what a stage is told beside its parameters: where a training that is cut off leaves what it has."""
    states = os.environ.get(TRAINING_STATES)
    return {"states": Path(states)} if stage == "train" and states else {}


def main(arguments: Sequence[str]) -> int:
    """Run one stage in the working folder and return the exit code; a foreseen failure is one line on stderr."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        sys.stderr.write(f"usage: python -m components.stages {{{','.join(STAGES)}}}\n")
        return 2
    # Before torch loads: its idle threads would spin, and on a busy machine spinning makes training 10 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        STAGES[arguments[0]](load_params(Path("params.yaml")), **_options(arguments[0]))
    except PerennialError as error:
        sys.stderr.write(f"{arguments[0]}: {' '.join(str(error).split())}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
