"""One attempt at one retrain request: claimed, kept while its process lives, taken over when it dies, ended."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from threading import Event, Thread
from typing import Any

from components.alerts.message import failure_alert, recovered_alert
from components.errors import ConflictError, PerennialError, RefusedError, ServiceError
from components.monitoring.retraining import Cause
from components.operations.alerting import open_alerts, recover, send
from components.operations.retraining.worth import MOST_ATTEMPTS, ask_worth_it
from components.operations.services import Services
from components.store import ledger, requests

LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0
RETRAINING = "retraining"
REFUSED = "retraining-refused/"
REQUEST_TAG = "perennial.request"

BY_PEOPLE: tuple[Cause, ...] = ("manual", "forced")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one retrain request, and which of its candidates is being made.

    number: from 1; a higher one takes over from a process that died. worker: who holds the claim. alarmed: the classes
    that raised an alarm, each with the rules that condemned it. candidate: from 0. window: in which it was raised.
    """

    request: int
    number: int
    worker: str
    cause: Cause
    reason: str
    alarmed: dict[str, list[str]]
    candidate: int = 0
    window: str | None = None

    def run_key(self, *inputs: bytes) -> str:
        """Return the name under which a repeated step finds the MLflow run that it made from the same `inputs` before.

        A process that takes over after the labels changed, or the settings, thus gets a run of its own.
        """
        digest = hashlib.sha256()
        for content in inputs:
            digest.update(hashlib.sha256(content).digest())
        name = f"request-{self.request}-{digest.hexdigest()[:12]}"
        return f"{name}-candidate-{self.candidate + 1}" if self.candidate else name

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back, for handing on between tasks."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Attempt:
        """Return the attempt that `as_json` wrote."""
        return cls(**content)


def begin(services: Services, *, cause: Cause, reason: str, force: bool, actor: str, now: datetime) -> Attempt:
    """Claim the open request, or one whose worker died, or make one of our own, and return the attempt.

    Raises RefusedError, written to the ledger, where it is not worth it.
    """
    database = services.database
    waiting = requests.current_request(database)
    if waiting is not None and waiting.interrupted and waiting.attempts >= MOST_ATTEMPTS:
        _give_up(services, waiting, now)
    if waiting is not None and cause not in BY_PEOPLE:
        cause = waiting.evidence.get("cause", cause)
    try:
        ask_worth_it(services, cause=cause, reason=reason, force=force, actor=actor, now=now)
    except RefusedError as refusal:
        # It waits for no labels, so nothing would make it worth it later; its cause, if it stands, asks again.
        if waiting is not None and waiting.state == "open" and cause not in (*BY_PEOPLE, "accuracy"):
            requests.finish_request(database, waiting.id, outcome="refused", detail=str(refusal), now=now)
        raise
    requests.open_request(database, reason=reason, classes=(), window=None, evidence={"cause": cause}, now=now)
    claimed = requests.claim_request(database, now=now, lease_seconds=LEASE_SECONDS, worker=_worker(actor))
    if claimed is None or claimed.claimed_by is None:
        raise RefusedError("another retraining is under way")
    if claimed.attempts > 1:
        said = f"attempt {claimed.attempts} at request {claimed.id}: the process of the one before did not end it"
        ledger.record(
            database, kind="retrain", actor=actor, action="resumed", reason=said, now=now,
            evidence={"request": claimed.id, "attempt": claimed.attempts},
        )  # fmt: skip
        services.registry.end_running(REQUEST_TAG, str(claimed.id), "KILLED")
    for alert in open_alerts(services, REFUSED):
        recover(services, alert["key"], recovered_alert(alert["title"], alert["key"]), now=now)
    rules = claimed.evidence.get("rules", {})
    return Attempt(
        request=claimed.id,
        number=claimed.attempts,
        worker=claimed.claimed_by,
        cause=claimed.evidence.get("cause", cause),
        reason=claimed.reason,
        alarmed={name: rules.get(name, ["precision"]) for name in claimed.classes},
        window=claimed.window,
    )


def _worker(actor: str) -> str:
    return f"{actor} on {socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"


def _give_up(services: Services, request: requests.RetrainRequest, now: datetime) -> None:
    died = f"its process died in {request.attempts} attempts, the last one {request.claimed_by}"
    _end_as_failed(services, request.id, request.claimed_by, f"{died}; this request is not tried again", now)


@contextmanager
def holding(services: Services, attempt: Attempt) -> Iterator[None]:
    """Keep the claim while the block runs: another process may take it over a minute after this one died."""
    stop = Event()
    keeper = Thread(target=_keep_claim, args=(services, attempt, stop), name="claim", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join(timeout=60)


def _keep_claim(services: Services, attempt: Attempt, stop: Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        try:
            if not requests.renew_lease(services.database, attempt.request, LEASE_SECONDS, attempt.worker):
                logger.warning("request %d is no longer ours; its new worker decides", attempt.request)
                return
        except ServiceError as error:  # the database is away: if it comes back in time, the claim is still ours
            logger.warning("the claim on request %d could not be renewed: %s", attempt.request, error)


def require_claim(services: Services, attempt: Attempt) -> None:
    """Raise ConflictError where another process took the request over; ours must then change nothing more."""
    if not requests.renew_lease(services.database, attempt.request, LEASE_SECONDS, attempt.worker):
        raise ConflictError(
            f"request {attempt.request} was taken over while this process ({attempt.worker}) did not show itself for "
            f"{LEASE_SECONDS:.0f} s; nothing was promoted, the other one goes on"
        )


@contextmanager
def finishing(services: Services, attempt: Attempt, *, now: datetime) -> Iterator[None]:
    """End the attempt as failed, with an alert, if the block raises; the champion stays."""
    what_failed: str | None = "an unforeseen error; the flow's log has it"
    try:
        yield
        what_failed = None
    except PerennialError as error:
        what_failed = str(error)
        raise
    except KeyboardInterrupt:
        what_failed = "a person interrupted it"
        raise
    finally:
        if what_failed is not None:
            _end_as_failed(services, attempt.request, attempt.worker, what_failed, now)


def _end_as_failed(services: Services, request: int, worker: str | None, what_failed: str, now: datetime) -> None:
    try:
        requests.finish_request(
            services.database, request, outcome="failed", detail=what_failed, now=now, worker=worker
        )
    except ConflictError as error:
        logger.warning("%s", error)
        return
    ledger.record(
        services.database, kind="retrain", actor="retrain", action="failed", reason=what_failed, now=now,
        evidence={"request": request},
    )  # fmt: skip
    try:
        services.registry.end_running(REQUEST_TAG, str(request), "FAILED")
    except ServiceError as error:
        logger.warning("%s", error)
    send(services, failure_alert(RETRAINING, what_failed), now=now)
