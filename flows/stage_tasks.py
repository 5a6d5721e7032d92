"""Run a DVC stage as a Prefect task: the only place that calls `dvc repro`."""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.data.versioning.versions import reproduce


@task(name="stage", task_run_name="stage-{name}", cache_policy=NO_CACHE)
def run_stage(name: str, clone: str) -> None:
    """Bring one stage of the graph up to date in `clone`; DVC skips it where nothing it depends on changed."""
    reproduce(Path(clone), name, echo=sys.stderr)
