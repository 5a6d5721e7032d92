"""Send an alert once: logged in PostgreSQL by its key, written to the file, passed to the channels."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from components.alerts.channels import deliver
from components.alerts.message import Alert
from components.alerts.runbook import section_of, write_runbook
from components.operations.services import Services
from components.operations.workspace import template_folder
from components.store import alerts_log

logger = logging.getLogger(__name__)

LOOKED_BACK = 500
RUNBOOK = Path("infra") / "runbook.md"


def send(services: Services, alert: Alert, *, now: datetime) -> bool:
    """Deliver `alert` unless one with its key is open already; return whether it went out."""
    alert = replace(alert, links={**alert.links, **_runbook_link(services, alert.key)})
    new = alerts_log.record_alert(
        services.database, alert.key, level=str(alert.level), title=alert.title, body=alert.body, now=now
    )
    if new:
        _deliver(services, alert, now)
    return new


def send_once(services: Services, alert: Alert, *, now: datetime) -> bool:
    """Deliver `alert` unless one with its key was ever sent: a window is judged for good, a rerun tells nothing new."""
    return latest_of(services, alert.key) is None and send(services, alert, now=now)


def latest_of(services: Services, key: str) -> dict[str, Any] | None:
    """Return the newest alert that was sent under `key`, open or recovered; None if there was none."""
    rows = alerts_log.recent_alerts(services.database, LOOKED_BACK)
    return next((row for row in rows if row["key"] == key), None)


def open_alerts(services: Services, prefix: str) -> list[dict[str, Any]]:
    """Return the open alerts whose key starts with `prefix`."""
    rows = alerts_log.recent_alerts(services.database, LOOKED_BACK)
    return [row for row in rows if row["state"] == "open" and str(row["key"]).startswith(prefix)]


def recover(services: Services, key: str, alert: Alert, *, now: datetime) -> bool:
    """Close the open alert with `key`, if there is one, and say so; return whether there was one."""
    recovered = alerts_log.recover_alert(services.database, key, now)
    if recovered:
        _deliver(services, alert, now)
    return recovered


def page_address(services: Services, page: Path) -> str:
    """Return where people open a page of the reports' folder: under `alerts.links_base`, else as a file."""
    base = services.workspace.params.alerts.links_base
    return f"{base.rstrip('/')}/{page.name}" if base else page.as_uri()


def _runbook_link(services: Services, key: str) -> dict[str, str]:
    section = section_of(key)
    if section is None:
        return {}
    try:
        page = write_runbook(template_folder() / RUNBOOK, services.workspace.reports / "runbook.html")
    except OSError as error:  # a full disk is just what an alert may be about: it goes out without the link
        logger.warning("the runbook's page could not be written: %s", error)
        return {}
    return {"Runbook": f"{page_address(services, page)}#{section}"}


def _deliver(services: Services, alert: Alert, now: datetime) -> None:
    workspace = services.workspace
    failures = deliver(
        alert, file=workspace.state / workspace.params.alerts.file, urls=workspace.settings.alert_urls, now=now
    )
    for failure in failures:  # the file has it in any case; the loop goes on
        logger.warning("alert %r: %s", alert.title, failure)
