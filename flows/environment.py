"""What Prefect must find in the environment before it is imported."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from components.errors import PerennialError
from components.settings import switch_telemetry_off

PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SHOW_VERSION_WARNING": "false",
}

LOOPBACK = ("127.0.0.1", "localhost")
OUR_SERVER = "PERENNIAL_SERVER"
EPHEMERAL_SERVER = "PREFECT__SERVER_EPHEMERAL"
SERVER_MARKS = (EPHEMERAL_SERVER, OUR_SERVER)
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
    """Point Prefect at the workspace's own home and at `api_url`, if there is one.

    Call before `prefect` is imported. What the user set already stays.
    """
    switch_telemetry_off()
    keep_proxies_off_this_machine()
    end_orphaned_servers(state / "prefect")
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


def end_orphaned_servers(home: Path) -> int:
    """End the servers of commands that were killed before they could end them, and return how many there were.

    Only those that Prefect or `perennial up` started for the workspace with this Prefect home, whose parent is gone.
    """
    import psutil

    from components.data.versioning.leftovers import end_processes, runs_this_interpreter

    def orphaned(process: psutil.Process) -> bool:
        given = process.environ()
        if given.get("PREFECT_HOME") != str(home) or not any(given.get(name) == "1" for name in SERVER_MARKS):
            return False
        parent = process.parent()
        return parent is None or not runs_this_interpreter(parent)

    return end_processes(orphaned, f"as a Prefect server of {home}")
