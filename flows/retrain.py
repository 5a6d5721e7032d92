"""Renew the model: labels → dataset version → audit → train → evaluate → export → register → gate → promote or keep."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.data.versioning.versions import WorkspaceClone
from components.errors import RefusedError
from components.monitoring.retraining import Cause
from components.operations.doubted_labels import ask_people
from components.operations.ingestion import exclusive_clone
from components.operations.retraining import attempt as attempts
from components.operations.retraining import candidates, renewal
from components.operations.retraining.advice import advise_refused
from components.operations.retraining.attempt import Attempt
from components.operations.retraining.causes import require_schedule_due
from components.operations.retraining.todays_names import todays_alarms
from components.stages import STAGES
from flows.session import moment, opened
from flows.stage_tasks import run_stage


@task(name="schedule due", cache_policy=NO_CACHE)
def schedule_due_task(workspace: str, at: datetime) -> None:
    """Refuse where the schedule has asked since its latest time."""
    with opened(workspace) as services:
        require_schedule_due(services, now=at)


@task(name="begin", cache_policy=NO_CACHE)
def begin_task(workspace: str, cause: Cause, reason: str, force: bool, actor: str, at: datetime) -> dict[str, Any]:
    """Claim the open retrain request, if it is worth it."""
    with opened(workspace) as services:
        return attempts.begin(services, cause=cause, reason=reason, force=force, actor=actor, now=at).as_json()


@task(name="collect labels", cache_policy=NO_CACHE)
def collect_task(workspace: str, clone: str, attempt: dict[str, Any], at: datetime) -> str:
    """Bring settled labels into a new dataset version."""
    with opened(workspace) as services:
        return renewal.collect_labels(services, WorkspaceClone(Path(clone)), Attempt.from_json(attempt), now=at)


@task(name="start run", retries=2, retry_delay_seconds=5, cache_policy=NO_CACHE)
def start_task(workspace: str, clone: str, attempt: dict[str, Any], dataset: str) -> str:
    """Open the MLflow run that everything of this attempt is logged to."""
    with opened(workspace) as services:
        return renewal.start_run(services, Attempt.from_json(attempt), dataset, WorkspaceClone(Path(clone)))


@task(name="commit run", cache_policy=NO_CACHE)
def commit_task(clone: str, dataset: str) -> str:
    """Commit and publish the stages' results, before the registry is touched."""
    return renewal.commit_run(WorkspaceClone(Path(clone)), dataset)


@task(name="ask about doubted labels", cache_policy=NO_CACHE)
def ask_task(workspace: str, clone: str, at: datetime) -> int:
    """Put the labels that the audit doubts most before people; return how many they are asked about."""
    with opened(workspace) as services:
        return ask_people(services, WorkspaceClone(Path(clone)), now=at).open


@task(name="register", retries=2, retry_delay_seconds=5, cache_policy=NO_CACHE)
def register_task(
    workspace: str, clone: str, attempt: dict[str, Any], run: str, dataset: str, commit: str, at: datetime
) -> int:
    """Register the candidate; a repeated registration finds the version made before."""
    with opened(workspace) as services:
        return candidates.register(
            services, Path(clone), Attempt.from_json(attempt), run_id=run, dataset=dataset, commit=commit, now=at
        )


@task(name="gate", cache_policy=NO_CACHE)
def gate_task(workspace: str, clone: str, attempt: dict[str, Any], version: int) -> dict[str, Any]:
    """Judge the candidate against the champion on the same images."""
    with opened(workspace) as services:
        return candidates.judge(services, Path(clone), Attempt.from_json(attempt), version)


@task(name="advise", cache_policy=NO_CACHE)
def advise_task(workspace: str, clone: str, attempt: dict[str, Any], version: int, at: datetime) -> str:
    """Say what would help where the candidate was refused."""
    with opened(workspace) as services:
        return advise_refused(services, Path(clone), Attempt.from_json(attempt), version, now=at)


@task(name="settle", cache_policy=NO_CACHE)
def settle_task(
    workspace: str, attempt: dict[str, Any], version: int, verdict: dict[str, Any], at: datetime, advice: str = ""
) -> bool:
    """Promote the candidate or keep the champion, and end the request."""
    with opened(workspace) as services:
        return renewal.settle(services, Attempt.from_json(attempt), version, verdict, now=at, advice=advice)


@flow(name="retrain", log_prints=False)
def retrain(
    workspace: str,
    reason: str = "schedule",
    actor: str = "schedule",
    force: bool = False,
    at: datetime | None = None,
    cause: Cause = "schedule",
) -> dict[str, Any]:
    """Return the candidate's version, its verdict and whether it was promoted.

    Raises RefusedError where it is not worth it. Whatever else goes wrong, the champion stays and the request is ended
    as failed. One whose process is killed goes on when next it is asked for.
    """
    now = moment(at)
    attempt = begin_task(workspace, cause, reason, force, actor, now)
    begun = Attempt.from_json(attempt)
    with (
        opened(workspace) as services,
        attempts.finishing(services, begun, now=now),
        attempts.holding(services, begun),
    ):
        with exclusive_clone(services, f"retrain-{attempt['request']}") as clone:
            folder = str(clone.root)
            attempt |= {"alarmed": todays_alarms(services, clone, begun)}
            dataset = collect_task(workspace, folder, attempt, now)
            for number in count():
                attempt |= {"candidate": number}
                renewal.prepare_stages(services, clone, Attempt.from_json(attempt))
                run = start_task(workspace, folder, attempt, dataset)
                with renewal.following_metrics(services, run, clone.root):
                    for stage in STAGES:
                        run_stage(stage, folder)
                commit = commit_task(folder, dataset)
                if number == 0:
                    ask_task(workspace, folder, now)
                version = register_task(workspace, folder, attempt, run, dataset, commit, now)
                verdict = gate_task(workspace, folder, attempt, version)
                if not renewal.another_candidate(services, Attempt.from_json(attempt), version, verdict, now=now):
                    break
            advice = "" if verdict["passed"] else advise_task(workspace, folder, attempt, version, now)
        promoted = settle_task(workspace, attempt, version, verdict, now, advice)
    return {"version": version, "dataset_version": dataset, "verdict": verdict, "promoted": promoted}


@flow(name="monthly", log_prints=False)
def monthly(workspace: str) -> dict[str, Any]:
    """Renew the model on schedule; return the renewal, or why it was not worth it (recorded, and no failure).

    Of many runs that were missed and come late, one asks.
    """
    now = moment(None)
    try:
        schedule_due_task(workspace, now)
        return retrain(workspace, at=now)
    except RefusedError as error:
        return {"refused": str(error)}
