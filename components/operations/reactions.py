"""What follows from a judgement or a finding: images to learn from, an alert. Each may be repeated without harm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from components.alerts.message import accuracy_alert, drift_alert, recovered_alert
from components.operations.alerting import open_alerts, page_address, recover, send_once
from components.operations.drift_explained import drift_page
from components.operations.services import Services
from components.records import ClassAccuracy, Decision, DriftFinding, JsonObject, Window
from components.store import labelling

ACCURACY = "accuracy/"


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
    if decision.action != "retrain":
        for alert in open_alerts(services, ACCURACY):
            recover(services, alert["key"], recovered_alert(alert["title"], alert["key"]), now=now)
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
    explained: JsonObject | None,
    *,
    now: datetime,
) -> None:
    """Tell people about drift. It asks for their attention; only measured accuracy starts a retraining.

    explained: what `explain_drift` found; None for a window that is not closed yet.
    """
    links = report_links(services, window, version)
    told = drift_alert(
        window.name, version, findings, labels_asked=0, links=links, explained=explained["summary"] if explained else ()
    )
    send_once(services, told, now=now)


def report_links(services: Services, window: Window, version: int) -> dict[str, str]:
    """Return the links to the window's pages, those that were drawn."""
    pages = {
        "What changed": drift_page(services, window, version),
        "Report": services.workspace.reports / f"{window.name}-v{version}.html",
    }
    return {title: page_address(services, page) for title, page in pages.items() if page.is_file()}
