"""What follows from a judgement or a finding: images to learn from, an alert. Each may be repeated without harm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from components.alerts.message import accuracy_alert, drift_alert, recovered_alert, well_again_alert
from components.operations.alerting import latest_of, open_alerts, page_address, recover, send, send_once
from components.operations.monitoring import asking
from components.operations.monitoring.drift_explained import drift_page, explain_if_possible
from components.operations.services import Services
from components.operations.windows import closing_obstacle
from components.records import ClassAccuracy, ClassState, Decision, DriftFinding, Window
from components.store import labelling, monitoring, predictions, requests

ACCURACY = "accuracy/"
DRIFT = "drift/"
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
    tell_who_is_well(services, window, version, classes, now=now)
    if decision.action != "retrain":
        return
    if _told(services, window, decision, now):
        return
    asked = labelling.fill_training_queue(
        services.database, window, version, classes=decision.classes, now=now,
        limit=services.workspace.params.labelling.training_queue,
    )  # fmt: skip
    seen = _seen_in_images(services, window, version, now=now)
    links = report_links(services, window, version)
    fallen = accuracy_alert(
        window.name, version, classes, decision, images_asked=asked, note=note, seen=seen, links=links
    )
    send_once(services, fallen, now=now)


def _seen_in_images(services: Services, window: Window, version: int, *, now: datetime) -> str:
    """Return the one most telling thing about the images of a segment in which accuracy fell; their page is drawn."""
    for segment in predictions.segments(services.database, window):
        if segment.model_version == version:
            explained = explain_if_possible(services, window, segment, now=now)
            return str(explained["headline"]) if explained["page"] else ""
    return ""


def tell_who_is_well(
    services: Services, window: Window, version: int, classes: Sequence[ClassAccuracy], *, now: datetime
) -> None:
    """Say which classes of earlier alerts are well again in `window`; an alert none of whose classes is left is over.

    Well is a class in which nothing was found, and one that the class list no longer has. A class that is suspected, or
    was asked about too little, is neither.
    """
    states = {c.name: c for c in classes}
    for alert in open_alerts(services, ACCURACY):
        of_window, of_version = Window.parse(alert["key"].split("/")[1]), int(alert["key"].split("/")[2])
        if of_window.end > window.end or (of_window == window and of_version >= version):
            continue
        fallen = _fallen(services, of_window, of_version)
        still = [name for name in fallen if name in states and states[name].state is not ClassState.OK]
        well = [states[name] for name in fallen if name in states and name not in still]
        told = well_again_alert(alert["title"], alert["key"], window.name, well, still)
        if not still:
            recover(services, alert["key"], told, now=now)
        elif well:
            send_once(services, told, now=now)


def _fallen(services: Services, window: Window, version: int) -> list[str]:
    """Return the classes that a segment's final judgement raised its alarm about."""
    judged = monitoring.judgements(services.database, window, version)
    return list(judged[-1].payload["decision"]["classes"]) if judged else []


def on_drift(
    services: Services,
    window: Window,
    version: int,
    findings: Sequence[DriftFinding],
    explained: Sequence[str],
    *,
    now: datetime,
) -> None:
    """Tell people about drift, and in a later closed window that it is over.

    It asks for labels and attention; only measured accuracy starts a retraining, unless `retrain_on` says otherwise.
    explained: what is known of the cause, one sentence a finding.
    """
    _tell_what_drifts_no_more(services, window, version, findings, now=now)
    if not any(finding.drifted for finding in findings):
        return
    links = report_links(services, window, version)
    more, drawn = asking.for_drift(services, window, version, now=now)
    alert = drift_alert(
        window.name, version, findings, explained=explained, labels_asked=more, drawn=drawn, links=links
    )
    before = latest_of(services, alert.key)
    if before is not None and before["recovered_at"] is not None and window.end <= before["recovered_at"]:
        return  # this window is looked at again, after a later one in which it was over
    send(services, alert, now=now)


def _tell_what_drifts_no_more(
    services: Services, window: Window, version: int, findings: Sequence[DriftFinding], *, now: datetime
) -> None:
    if closing_obstacle(services, window, now) is not None:
        return  # the rest of the window may still drift
    quiet = {f.column for f in findings if f.p_value is not None and not f.drifted}
    for alert in open_alerts(services, f"{DRIFT}{version}/"):
        columns = alert["key"].split("/", 2)[2].split(",")
        if set(columns) <= quiet and window.end > alert["opened_at"]:
            recover(services, alert["key"], recovered_alert(alert["title"], alert["key"]), now=now)


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


def report_links(services: Services, window: Window, version: int) -> dict[str, str]:
    """Return the links to the window's pages, those that were drawn."""
    pages = {
        "What changed": drift_page(services, window, version),
        "Report": services.workspace.reports / f"{window.name}-v{version}.html",
    }
    return {title: page_address(services, page) for title, page in pages.items() if page.is_file()}
