"""Prefect's server: one command's own, and with the embedded PostgreSQL in the foreground, `perennial up`."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from components.errors import ServiceError
from components.operations.services import open_services, read_running_services, service_urls, stop_services
from components.operations.workspace import STATE, open_workspace
from components.settings import Settings
from flows.environment import EPHEMERAL_SERVER, OUR_SERVER, prepare_prefect

START_SECONDS = 120.0
END_SECONDS = 5.0


def prepare_client(state: Path, api_url: str | None) -> None:
    """Point Prefect at `api_url`, or at a server of this process's own, which is started and not waited for.

    Call before `prefect` is imported.
    """
    prepare_prefect(state, api_url)
    if api_url is None:
        os.environ["PREFECT_API_URL"] = start_own_server(state)
        # The first request waits until the server has started, on a busy machine a minute and more.
        os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", "300")


def start_own_server(state: Path) -> str:
    """Start a Prefect server that ends with this process, and return its API's URL at once; it answers in some seconds.

    Prefect would start the same one, but only once it is first asked, and would load the whole server here, too, to do
    so: five seconds that this process now spends on its own imports. Its socket listens from now on, so that requests
    wait for it instead of being refused, and no port is guessed.
    """
    package = find_spec("prefect")
    if package is None or package.origin is None:
        raise ServiceError("Prefect is not installed; install perennial with its constraints.txt")
    # As Prefect's own: few services, no pages, and the mark by which a later command finds it if we are killed.
    ephemeral = {EPHEMERAL_SERVER: "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"}
    with socket.create_server(("127.0.0.1", 0)) as listening, (state / "prefect.log").open("ab") as log:
        command = [
            sys.executable, "-P", "-m", "uvicorn", "--app-dir", str(Path(package.origin).parents[1]), "--factory",
            "prefect.server.api.server:create_app", "--fd", str(listening.fileno()), "--log-level", "error",
            "--lifespan", "on",
        ]  # fmt: skip
        server = subprocess.Popen(
            command, env={**os.environ, **ephemeral}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=[listening.fileno()],
        )  # fmt: skip
        api = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    atexit.register(_end_own, server, state)
    return api


def _end_own(server: subprocess.Popen[bytes], state: Path) -> None:
    if (server.poll() or 0) > 0:  # a negative one is a signal, such as the Ctrl-C that ended us both
        sys.stderr.write(f"perennial: Prefect's server ended with {server.returncode}; see {state}/prefect.log\n")
    _end(server, END_SECONDS)


def _end(server: subprocess.Popen[bytes], patience: float) -> None:
    server.terminate()
    try:
        server.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


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
        _end(server, 20)


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
