"""A retraining, step by step: collect labels, prepare and follow the stages, commit, promote or keep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from typing import Any

from components.alerts.message import failure_alert, kept_champion_alert, recovered_alert
from components.data.code_lock import write_code_lock
from components.data.ingestion.ingest import ingest
from components.data.manifest import Manifest
from components.data.quarantine.register import Register
from components.data.sources.opening import SourceItem
from components.data.versioning.versions import WorkspaceClone, latest_dataset
from components.errors import RefusedError
from components.evaluation.gates.checks import EVERY_CLASS
from components.model.artifact import reject_index
from components.operations.alerting import recover, send
from components.operations.doubted_labels import as_corrections
from components.operations.ingestion import (
    code_lock_sources,
    commit_data,
    dataset_paths,
    forget_bytes,
    register_target,
)
from components.operations.promotion import promote
from components.operations.retraining.attempt import REQUEST_TAG, RETRAINING, Attempt, require_claim
from components.operations.retraining.class_mix import production_mix
from components.operations.retraining.start import choose_start
from components.operations.retraining.todays_names import todays_answers, todays_shares
from components.operations.retraining.written_params import note_change, note_mix, set_restart
from components.operations.services import Services
from components.params import Params, load_params
from components.records import GateVerdict
from components.registry.tensorboard import tail_events
from components.store import champions, labelling, ledger, requests
from components.store.queues.audit_queue import settled_doubts

MOST_HELD_NAMED = 1000
METRIC_FILES = ("audit", "model", "evaluation", "export")


def collect_labels(services: Services, clone: WorkspaceClone, attempt: Attempt, *, now: datetime) -> str:
    """Bring settled labels into the dataset and return the dataset version to train on.

    Groups that the hash puts into the golden set never train; in alarmed classes that is a larger share.
    """
    params = load_params(clone.root / "params.yaml")
    clone.pull(*dataset_paths(params), register_target(params))
    manifest = clone.root / params.paths.manifest
    settled, doubts = labelling.settled_labels(services.database), settled_doubts(services.database)
    usable, of_doubts, held = todays_answers(services, clone, settled, doubts)
    if usable or of_doubts:
        before = Register.read(manifest)
        report = ingest(
            chain(_as_items(services, usable), as_corrections(of_doubts)),
            root=clone.root, params=params, source="production",
            alarmed_classes=tuple(attempt.alarmed), production=True, kept=services.quarantine, at=now,
        )  # fmt: skip
        message = f"Add {report.added} labelled predictions, correct {report.corrected}"
        commit_data(clone, params, message, changed=report.changed, noted=report.noted, now=now)
        forget_bytes(services, before, Register.read(manifest))
    version = latest_dataset(clone.root)
    if version is None:
        raise RefusedError("there is no data yet; bring images in with `perennial ingest SOURCE`")
    # After the push: a crash before it exports them again, and what is in the dataset already changes nothing.
    with services.database.transaction() as connection:
        labelling.mark_exported(connection, [v.task_id for v in settled] + [v.task_id for v in doubts], version)
        if held:
            ledger.record(
                connection, kind="classes", actor="retrain", action="held", now=now,
                reason=f"{len(held)} answers could not be learnt and were held: {held[0]['why']}",
                evidence={"held": len(held), "dataset_version": version, "answers": held[:MOST_HELD_NAMED]},
            )  # fmt: skip
    return version


def _as_items(services: Services, settled: Sequence[labelling.SettledLabel]) -> Iterator[SourceItem]:
    store = services.images
    for label in settled:
        yield SourceItem(
            name=f"{label.window}/{label.image_id}",
            content=store.get(label.shard, label.row, label.image_id),
            label=label.answer,
            captured_at=label.captured_at,
            label_origin="consensus",
            labelled_by=",".join(label.annotators),
            window=label.window,
            model_version=label.model_version,
        )


def prepare_stages(services: Services, clone: WorkspaceClone, attempt: Attempt) -> None:
    """Write what makes stages run: code.lock after an upgrade of the code, params.yaml for a second candidate.

    After an alarm params.yaml also says since when which classes fell: labels from before may be out of date. Where
    training is to be weighted by production, it says how often every class came there; where it is to start from the
    champion, which version that was, whose weights are brought. Raises ConfigurationError, before any stage runs, where
    params.yaml asks for what this data or this champion cannot give.
    """
    package, constraints = code_lock_sources()
    write_code_lock(clone.root / "code.lock", package, constraints)
    set_restart(clone.root / "params.yaml", attempt.candidate)
    params = load_params(clone.root / "params.yaml")
    reject_index(params.evaluate.reject_class, Manifest.classes_at(clone.root / params.paths.manifest))
    several = params.data.several  # what a set came to mean is not asked
    if attempt.alarmed and attempt.window is not None and not several:
        note_change(clone.root / "params.yaml", attempt.window, attempt.alarmed)
    if params.train.class_mix == "production":
        measured = production_mix(services)
        if measured is not None:
            shares = todays_shares(services, clone, measured[1])
            note_mix(clone.root / "params.yaml", measured[0] if shares else "", shares)
    else:
        note_mix(clone.root / "params.yaml", "", {})
    choose_start(services, clone.root)


def another_candidate(
    services: Services, attempt: Attempt, version: int, verdict: dict[str, Any], *, now: datetime
) -> bool:
    """Return whether to train once more on the same data, from other initial weights, and note why.

    So it is where a candidate passed every check but that of all classes: overall it holds, and where an alarm was
    raised it is better, but some class was shown to be worse.
    Initial weights and the order of the images move single classes by a point or two, enough to tip that check.
    """
    failed = {check["name"] for check in verdict["checks"] if not check["passed"]}
    last = attempt.candidate + 1 >= services.workspace.params.retrain.candidates
    if failed != {EVERY_CLASS} or last:
        return False
    ledger.record(
        services.database, kind="gate", actor="retrain", action="another", now=now, model_version=version,
        reason=f"{verdict['reason']}; trained once more from other initial weights",
        classes=tuple(attempt.alarmed), evidence=verdict,
    )  # fmt: skip
    return True


def start_run(services: Services, attempt: Attempt, dataset_version: str, clone: WorkspaceClone) -> str:
    """Return the MLflow run of what is trained on these inputs; a repeated step finds the same one."""
    inputs = [(clone.root / name).read_bytes() for name in ("params.yaml", "code.lock")]
    key = attempt.run_key(dataset_version.encode(), *inputs)
    run = services.registry.start_run(
        {
            "dataset_version": dataset_version,
            "cause": attempt.cause,
            "reason": attempt.reason,
            REQUEST_TAG: str(attempt.request),
        },
        key=key, run_name=key,
    )  # fmt: skip
    services.registry.log_params(run, load_params(clone.root / "params.yaml").model_dump(mode="json"))
    return run


@contextmanager
def following_metrics(services: Services, run_id: str, clone_root: Path) -> Iterator[None]:
    """Pass the metrics that training writes on to MLflow while the block runs, and to TensorBoard where it is asked."""
    file = clone_root / load_params(clone_root / "params.yaml").paths.model / "metrics.jsonl"
    stop, events = Event(), services.workspace.settings.tensorboard_folder
    followers = [Thread(target=services.registry.tail_metrics, args=(run_id, file, stop), name="metrics", daemon=True)]
    if events is not None:
        arguments = (Path(events).expanduser() / run_id, file, stop)
        followers.append(Thread(target=tail_events, args=arguments, name="events", daemon=True))
    for follower in followers:
        follower.start()
    try:
        yield
    finally:
        stop.set()
        for follower in followers:
            follower.join(timeout=60)


def commit_run(clone: WorkspaceClone, dataset_version: str) -> str:
    """Commit dvc.lock and publish the model's files; return the commit that the registry version will name."""
    commit = clone.commit(f"Train on {dataset_version}")
    clone.publish()
    return commit


def stage_metrics(root: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return each stage's metrics.json by its section name."""
    found: dict[str, dict[str, Any]] = {}
    for name in METRIC_FILES:
        path = root / getattr(params.paths, name) / "metrics.json"
        found[name] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def settle(
    services: Services, attempt: Attempt, version: int, verdict: dict[str, Any], *, now: datetime, advice: str = ""
) -> bool:
    """Promote the candidate if its gate passed, else keep the champion; end the request; return whether promoted.

    advice: what would help instead, for the alert.
    Raises ConflictError, with nothing changed, where another process took the request over.
    """
    require_claim(services, attempt)
    if not verdict["passed"]:
        _keep(services, attempt, version, verdict, now, advice)
        return False
    promote(services, version, actor="retrain", reason=attempt.reason, now=now)
    requests.finish_request(
        services.database, attempt.request, outcome="done", detail=f"version {version} was promoted", now=now,
        worker=attempt.worker,
    )  # fmt: skip
    failed = failure_alert(RETRAINING, "")
    recover(services, failed.key, recovered_alert(failed.title, failed.key), now=now)
    return True


def _keep(
    services: Services, attempt: Attempt, version: int, verdict: dict[str, Any], now: datetime, advice: str
) -> None:
    ledger.record(
        services.database, kind="gate", actor="retrain", action="kept", reason=verdict["reason"], now=now,
        model_version=version, classes=tuple(attempt.alarmed), evidence=verdict,
    )  # fmt: skip
    requests.finish_request(
        services.database,
        attempt.request,
        outcome="unhelpful",
        detail=f"version {version}: {verdict['reason']}",
        now=now,
        worker=attempt.worker,
    )
    current = champions.champion(services.database)
    told = GateVerdict.from_json(verdict)
    kept = kept_champion_alert(current.version if current else None, version, told, advice=advice)
    send(services, kept, now=now)
