"""What follows from a judgement or a finding: a request, more labels, an alert. Each may be repeated without harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from components.alerts.message import accuracy_alert, drift_alert, recovered_alert
from components.operations.alerting import recover, send
from components.operations.services import Services
from components.records import DriftFinding, Window
from components.store import labelling, requests


def complete(services: Services, window: Window, version: int, payload: Mapping[str, Any], *, now: datetime) -> None:
    """Bring about what a final judgement asks for; what is there already stays."""
    decision = payload["decision"]
    if decision["action"] != "retrain":
        for signal in ("accuracy",):
            recover(services, f"{signal}:{version}", recovered_alert(signal, version, window.name), now=now)
        return
    classes: list[str] = decision["classes"]
    request, created = requests.open_request(
        services.database, cause="accuracy", reason=decision["reason"], classes=classes, window=window.name,
        model_version=version, evidence={"rules": payload["rules"]}, now=now,
    )  # fmt: skip
    if not created:
        return
    wanted = services.workspace.params.labelling.training_queue
    tasks = labelling.fill_training_queue(services.database, window, version, classes=classes, limit=wanted, now=now)
    send(services, accuracy_alert(version, window.name, classes, decision["reason"], request, tasks), now=now)


def on_drift(
    services: Services, window: Window, version: int, findings: Sequence[DriftFinding], *, now: datetime
) -> None:
    """Tell people about drift. It asks for labels; only measured accuracy starts a retraining."""
    report = services.workspace.reports / f"{window.name}-v{version}.html"
    link = str(report) if report.is_file() else None
    send(services, drift_alert(version, window.name, [f for f in findings if f.drifted], link), now=now)
