"""Prefect's server and the embedded PostgreSQL in the foreground: `perennial up`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from components.errors import ServiceError
from components.operations.services import open_services, read_running_services, service_urls, stop_services
from components.operations.workspace import STATE, open_workspace
from components.settings import Settings
from flows.environment import OUR_SERVER

START_SECONDS = 120.0


def run_services(workspace: str, *, port: int, on_ready: Callable[[dict[str, str]], None]) -> None:
    """Run all local services until SIGINT or SIGTERM, then stop them. `on_ready` is told every URL.

    Where Prefect was moved out by its address, the server there is used, and none is started here.
    """
    root, settings = Path(workspace), Settings.from_environment()
    _refuse_a_second(root / STATE)  # before anything is started: at the end we stop what runs, and that is the first's
    done = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    try:
        with ExitStack() as stack:
            stack.enter_context(open_services(root, settings))
            ours = settings.prefect_api_url is None
            server = stack.enter_context(prefect_server(root / STATE, port)) if ours else None
            on_ready(service_urls(open_workspace(root, settings)))
            while not done.wait(1.0):
                if server is not None and server.poll() is not None:
                    raise ServiceError(
                        f"Prefect's server ended with {server.returncode}; see {root / STATE}/prefect.log"
                    )
    finally:
        stop_services(root, settings)


@contextmanager
def prefect_server(state: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run Prefect's server on 127.0.0.1:`port`, and note its URL in services.json while it runs.

    Raises ServiceError where another `perennial up` runs, the port is taken, or it does not answer within two minutes.
    """
    _refuse_a_second(state)
    api = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {OUR_SERVER: "1"}
    with (state / "prefect.log").open("ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(f"{api}/health", server, state)
        content: dict[str, Any] = {"pid": os.getpid(), "prefect_api_url": api}
        (state / "services.json").write_text(json.dumps(content), encoding="utf-8")
        yield server
    finally:
        (state / "services.json").unlink(missing_ok=True)
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _refuse_a_second(state: Path) -> None:
    running = read_running_services(state)
    if running is not None:
        raise ServiceError(f"services already run (process {running['pid']}, {running['prefect_api_url']}); use those")


def _wait_for(url: str, server: subprocess.Popen[bytes], state: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServiceError(f"Prefect's server ended with {server.returncode} at its start; see {state}/prefect.log")
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  (our own loopback URL)
                return
        except OSError:
            time.sleep(0.5)
    raise ServiceError(
        f"Prefect's server does not answer at {url} after {START_SECONDS:.0f} s; see {state}/prefect.log"
    )
