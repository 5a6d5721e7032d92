"""Send an alert once: logged in PostgreSQL by its key, written to the file, passed to the channels."""

from __future__ import annotations

import logging
from datetime import datetime

from components.alerts.channels import deliver
from components.alerts.message import Alert
from components.operations.services import Services
from components.store import alerts_log

logger = logging.getLogger(__name__)


def send(services: Services, alert: Alert, *, now: datetime) -> bool:
    """Deliver `alert` unless one with its key is open already; return whether it went out."""
    new = alerts_log.record_alert(
        services.database, key=alert.key, level=str(alert.level), title=alert.title, body=alert.body, now=now
    )
    if new:
        _deliver(services, alert, now)
    return new


def recover(services: Services, key: str, alert: Alert, *, now: datetime) -> bool:
    """Close the open alert with `key`, if there is one, and say so; return whether there was one."""
    recovered = alerts_log.recover_alert(services.database, key=key, now=now)
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
