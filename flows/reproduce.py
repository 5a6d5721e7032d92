"""Make a registered version again from its own record, and compare."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.operations.reproduction import rebuild_and_compare
from flows.session import opened


@task(name="make again and compare", cache_policy=NO_CACHE)
def reproduce_task(workspace: str, version: int) -> dict[str, Any]:
    """Run the version's stages in a checkout of its commit, and compare the answers."""
    with opened(workspace) as services:
        found = rebuild_and_compare(services, version)
    return {**found.as_json(), "words": found.describe()}


@flow(name="reproduce", log_prints=False)
def reproduce(workspace: str, version: int) -> dict[str, Any]:
    """Return how the version made again compares with the registered one."""
    return reproduce_task(workspace, version)
