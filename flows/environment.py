"""What Prefect must find in the environment before it is imported."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from components.errors import PerennialError
from components.settings import switch_telemetry_off

PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SHOW_VERSION_WARNING": "false",
}

LOOPBACK = ("127.0.0.1", "localhost")
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class ForeseenErrors(logging.Filter):
    """Keeps Prefect from printing a foreseen error with its stack: the command line says it in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether `record` tells something that nobody else will."""
        if record.exc_info and isinstance(record.exc_info[1], PerennialError):
            return False
        return not record.getMessage().startswith("Finished in state Failed")


_FORESEEN = ForeseenErrors()


def prepare_prefect(state: Path, api_url: str | None) -> None:
    """Point Prefect at the workspace's own home and at `api_url`, or at a server of this process's own.

    Call before `prefect` is imported. What the user set already stays.
    """
    switch_telemetry_off()
    keep_proxies_off_this_machine()
    os.environ.setdefault("PREFECT_HOME", str(state / "prefect"))
    for name, value in PREFECT.items():
        os.environ.setdefault(name, value)
    if api_url:
        os.environ["PREFECT_API_URL"] = api_url
    for name in RUN_LOGGERS:
        logging.getLogger(name).addFilter(_FORESEEN)  # survives Prefect's own set-up; a second time changes nothing


def keep_proxies_off_this_machine() -> None:
    """Except this machine from the proxy the user set, if any: Prefect's client would ask it for our own server."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    if "*" not in hosts:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*hosts, *(h for h in LOOPBACK if h not in hosts)])
