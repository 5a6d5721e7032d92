"""Send an alert once: logged in PostgreSQL by its key, written to the file, passed to the channels."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from components.alerts.channels import deliver
from components.alerts.message import Alert
from components.operations.services import Services
from components.store import alerts_log

logger = logging.getLogger(__name__)

LOOKED_BACK = 500


def send(services: Services, alert: Alert, *, now: datetime) -> bool:
    """Deliver `alert` unless one with its key is open already; return whether it went out."""
    new = alerts_log.record_alert(
        services.database, alert.key, level=str(alert.level), title=alert.title, body=alert.body, now=now
    )
    if new:
        _deliver(services, alert, now)
    return new


def send_once(services: Services, alert: Alert, *, now: datetime) -> bool:
    """Deliver `alert` unless one with its key was ever sent: a window is judged for good, a rerun tells nothing new."""
    known = alerts_log.recent_alerts(services.database, LOOKED_BACK)
    if any(row["key"] == alert.key for row in known):
        return False
    return send(services, alert, now=now)


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


def _deliver(services: Services, alert: Alert, now: datetime) -> None:
    workspace = services.workspace
    failures = deliver(
        alert, file=workspace.state / workspace.params.alerts.file, urls=workspace.settings.alert_urls, now=now
    )
    for failure in failures:  # the file has it in any case; the loop goes on
        logger.warning("alert %r: %s", alert.title, failure)
