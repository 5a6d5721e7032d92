"""The scheduled deployments, and one process that runs them: `perennial serve`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from components.operations.services import open_services, prefect_api_url
from components.operations.workspace import STATE, Workspace, open_workspace
from components.settings import Settings
from flows.interrupt import interrupts_of_asyncio

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

Rows = list[tuple[str, str]]


def schedules(workspace: Workspace) -> dict[str, str | None]:
    """Return each deployment's cron line (UTC); None runs on demand only."""
    rules = workspace.params.schedule
    return {
        "monthly": rules.retrain,
        "daily": rules.monitor,
        "score-inbox": rules.score,
        "retrain": None,
        "ingest": None,
        "score": None,
        "label": None,
        "monitor": None,
        "rollback": None,
    }


def serve_all(workspace: str, *, port: int, on_ready: Callable[[Rows], None]) -> None:
    """Serve every deployment until interrupted, on Prefect's server in use or one of our own on `port`.

    One run of each at a time: a second waits its turn. A week of missed runs is one catch-up: rows in PostgreSQL decide
    what is due, not the number of runs.
    """
    root, settings = Path(workspace), Settings.from_environment()
    opened = open_workspace(root, settings)
    with ExitStack() as stack:
        stack.enter_context(open_services(root, settings))
        if prefect_api_url(opened) is None:
            from flows.servers import prefect_server

            stack.enter_context(prefect_server(root / STATE, port))
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        from prefect import serve

        on_ready([(name, cron or "on demand") for name, cron in schedules(opened).items()])
        deployments = _deployments(opened)
        with interrupts_of_asyncio():
            serve(*deployments, pause_on_shutdown=False)


def _deployments(workspace: Workspace) -> list[RunnerDeployment]:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Cron

    from flows.ingest import ingest
    from flows.label import label
    from flows.monitor import daily, monitor
    from flows.retrain import monthly, retrain
    from flows.rollback import rollback
    from flows.score import score, score_watched

    flows = {f.name: f for f in (monthly, retrain, daily, score_watched, ingest, score, label, monitor, rollback)}
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    made = [
        flows[name].to_deployment(
            name=name,
            parameters={"workspace": str(workspace.root)},
            schedule=Cron(cron, timezone="UTC") if cron else None,
            concurrency_limit=one_at_a_time,
            tags=["perennial"],
        )
        for name, cron in schedules(workspace).items()
    ]
    # Outside an event loop `to_deployment` returns the deployment itself.
    return [deployment for deployment in made if isinstance(deployment, RunnerDeployment)]
