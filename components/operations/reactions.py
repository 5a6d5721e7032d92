"""What follows from a judgement or a finding: images to learn from, an alert. Each may be repeated without harm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from components.alerts.message import accuracy_alert, drift_alert, recovered_alert
from components.monitoring.prediction_drift import DriftExplanation
from components.operations import asking
from components.operations.alerting import open_alerts, page_address, recover, send_once
from components.operations.services import Services
from components.records import ClassAccuracy, Decision, DriftFinding, Window
from components.store import labelling, requests

ACCURACY = "accuracy/"
TOLD_AGAIN_AFTER = timedelta(days=28)
"""A fall that lasts is told again after so long: in every month's window, not in every day's."""


def follow_up(
    services: Services,
    window: Window,
    version: int,
    classes: Sequence[ClassAccuracy],
    decision: Decision,
    *,
    note: str,
    now: datetime,
) -> None:
    """Bring about what a final judgement asks for; what is there already stays, so a crash is made good by a rerun.

    note: what the alert is to say about the estimates beside their intervals.
    """
    if decision.action == "refused":  # it is about a model that serves no more; the ledger has it
        return
    if decision.action != "retrain":
        for alert in open_alerts(services, ACCURACY):
            if not _later(alert["key"], window):
                recover(services, alert["key"], recovered_alert(alert["title"], alert["key"]), now=now)
        return
    if _told(services, window, decision, now):
        return
    asked = labelling.fill_training_queue(
        services.database, window, version, classes=decision.classes, now=now,
        limit=services.workspace.params.labelling.training_queue,
    )  # fmt: skip
    links = report_links(services, window, version)
    fallen = accuracy_alert(window.name, version, classes, decision, images_asked=asked, note=note, links=links)
    send_once(services, fallen, now=now)


def on_drift(
    services: Services,
    window: Window,
    version: int,
    findings: Sequence[DriftFinding],
    *,
    cause: DriftExplanation | None,
    now: datetime,
) -> None:
    """Tell people about drift. It asks for labels and attention; only measured accuracy starts a retraining."""
    links, because = report_links(services, window, version), cause.describe() if cause else ""
    more, drawn = asking.for_drift(services, window, version, now=now)
    alert = drift_alert(window.name, version, findings, because=because, labels_asked=more, drawn=drawn, links=links)
    send_once(services, alert, now=now)


def _told(services: Services, window: Window, decision: Decision, now: datetime) -> bool:
    """Return whether people know already: a request that another window opened lately is about the same classes.

    A fallen class raises an alarm in every window until it is renewed. With days that would be a page a day.
    """
    waiting = requests.current_request(services.database)
    return (
        waiting is not None
        and waiting.window not in (None, window.name)
        and set(decision.classes) <= set(waiting.classes)
        and now - waiting.opened_at < TOLD_AGAIN_AFTER
    )


def _later(key: str, window: Window) -> bool:
    """Return whether the accuracy alert with `key` is about a time after `window`, which then tells nothing of it."""
    return Window.parse(key.split("/")[1]).end > window.end


def report_links(services: Services, window: Window, version: int) -> dict[str, str]:
    """Return the link to the window's page, where it was drawn."""
    page = services.workspace.reports / f"{window.name}-v{version}.html"
    return {"Report": page_address(services, page)} if page.is_file() else {}
