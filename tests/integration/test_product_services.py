"""The commands that stay: `perennial up`, `perennial serve` with its inbox, and MLflow's own server of the champion."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

PATIENCE_SECONDS = 300.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(url: str, content: Any = None) -> Any:
    """Return what a server of ours answers; 503 (its database is locked) is asked again, as Prefect's client does."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  (our own server)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refused:
            if refused.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def first_object(process: subprocess.Popen[str]) -> Any:
    """Return the first JSON document that a process prints, as soon as it is whole."""
    text = ""
    while line := process.stdout.readline():
        text += line
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            continue
    pytest.fail(f"{process.args} ended; it said {text}")


def wait_until(found: Callable[[], Any], process: subprocess.Popen[str], log: Path) -> Any:
    """Return what `found` returns as soon as it is true; an unreachable server counts as not yet."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            if result := found():
                return result
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"{process.args}: not within {PATIENCE_SECONDS:.0f} s; it said {log.read_text(encoding='utf-8')}")


@contextmanager
def running(start: Callable[..., subprocess.Popen[str]], log: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command that stays; at the end press Ctrl-C in its terminal and see that it ends."""
    with log.open("w", encoding="utf-8") as said:
        process = start(*command, stderr=said, start_new_session=True)
    try:
        yield process
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert "Traceback" not in log.read_text(encoding="utf-8")


def test_up_runs_the_services_that_other_commands_use_and_stops_them(
    product: Any, perennial: Callable[..., Any], start_perennial: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    from components.store.postgres.embedded import EmbeddedPostgres

    here = ("--workspace", str(product.root), "--json")
    api, log = f"http://127.0.0.1:{(port := free_port())}/api", tmp_path / "log"
    with running(start_perennial, log, "up", "--port", str(port), *here) as up:
        wait_until(lambda: ask(f"{api}/health"), up, log)
        assert first_object(up)["prefect_api_url"] == api
        assert perennial("doctor", *here).json["prefect_api_url"] == api
        before = ask(f"{api}/flow_runs/count", {})
        monitored = perennial("monitor", *here)
        assert monitored.code == 0, monitored.err
        assert ask(f"{api}/flow_runs/count", {}) == before + 1  # it ran on this server, not on one of its own
        second = perennial("up", "--port", str(free_port()), *here)
        assert second.code == 1
        assert f"services already run (process {up.pid}, {api})" in second.err
        assert EmbeddedPostgres(product.state).running()  # the first one's, which the second leaves alone
    assert up.returncode == 0
    assert perennial("down", *here).json == {"stopped": []}


def test_prefect_moves_out_by_its_address(
    product: Any, perennial: Callable[..., Any], start_perennial: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    here = ("--workspace", str(product.root), "--json")
    api, log = f"http://127.0.0.1:{(port := free_port())}/api", tmp_path / "log"
    home = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w", encoding="utf-8") as said:
        server = subprocess.Popen(
            command, env={"PATH": os.environ["PATH"], **home}, stdout=said, stderr=said, text=True,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: ask(f"{api}/health"), server, log)
        assert perennial("doctor", *here, PREFECT_API_URL=api).json["prefect_api_url"] == api
        monitored = perennial("monitor", *here, PREFECT_API_URL=api)
        assert monitored.code == 0, monitored.err
        assert ask(f"{api}/flow_runs/count", {}) == 1  # there, and not on a server of the command's own
        started = partial(start_perennial, PREFECT_API_URL=api)
        with running(started, tmp_path / "up", "up", "--port", str(free_port()), *here) as up:
            assert first_object(up)["prefect_api_url"] == api
            assert not (product.state / "services.json").exists()  # no server of ours was started
        assert up.returncode == 0
        assert ask(f"{api}/health")  # nor was theirs stopped
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_serve_schedules_every_deployment_and_scores_the_inbox(
    product: Any,
    services: Any,
    digits: list[Any],
    start_perennial: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    from sqlalchemy import text

    names = []
    services.workspace.inbox.mkdir(exist_ok=True)
    for number, item in enumerate(digits[:7]):
        path = services.workspace.inbox / f"camera-{number}.png"
        path.write_bytes(darkened(item.content))
        os.utime(path, (time.time() - 120, time.time() - 120))
        names.append(path.name)
    (services.workspace.inbox / "still-written.png").write_bytes(digits[9].content[:50])

    api, log = f"http://127.0.0.1:{(port := free_port())}/api", tmp_path / "log"
    with running(
        start_perennial, log, "serve", "--port", str(port), "--workspace", str(product.root), "--json"
    ) as serve:
        told = first_object(serve)
        wait_until(lambda: ask(f"{api}/deployments/count", {}) == len(told), serve, log)
        served = {found["name"]: found for found in ask(f"{api}/deployments/filter", {})}
        crons = {
            name: found["schedules"][0]["schedule"]["cron"] for name, found in served.items() if found["schedules"]
        }
        assert crons == {name: cron for name, cron in told if cron != "on demand"}
        assert set(crons) == {"monthly", "daily", "score-inbox"}

        for _ in ("new files", "nothing new"):
            run = ask(f"{api}/deployments/{served['score-inbox']['id']}/create_flow_run", {})["id"]
            wait_until(lambda run=run: ask(f"{api}/flow_runs/{run}")["state_type"] == "COMPLETED", serve, log)
        with services.database.transaction() as connection:
            asked = "SELECT name FROM prediction p JOIN batch b ON b.number = p.batch_number WHERE b.source = :inbox"
            scored = connection.scalars(text(asked), {"inbox": str(services.workspace.inbox)}).all()
        assert sorted(scored) == names
    assert not (product.state / "services.json").exists()


def darkened(content: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.paste(0, (0, 0, 1, image.height))
        file = io.BytesIO()
        image.save(file, "PNG")
    return file.getvalue()


def test_mlflow_serves_the_champion_over_http(
    product: Any, services: Any, perennial: Callable[..., Any], digits: list[Any], tmp_path: Path
) -> None:
    import numpy as np

    from components.model.images.preprocess import decode_and_resize
    from components.operations.models import load_predictor, require_champion

    uri = perennial("doctor", "--workspace", str(product.root), "--json").json["mlflow_tracking_uri"]
    predictor = load_predictor(services, require_champion(services))
    images = np.stack(
        [decode_and_resize(item.content, predictor.spec.preprocess, services.limits) for item in digits[:20]]
    )
    port, log = free_port(), tmp_path / "log"
    command = ["models", "serve", "-m", "models:/perennial@champion", "--env-manager", "local", "-p", str(port)]
    # Nothing of ours: no package folder on the path, no setting but the address.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "MLFLOW_TRACKING_URI": uri}
    with log.open("w", encoding="utf-8") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            cwd=tmp_path, env=environment, stdout=said, stderr=said, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).status == 200, server, log
        )
        answer = ask(f"http://127.0.0.1:{port}/invocations", {"inputs": images.tolist()})
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    theirs = np.asarray(answer["predictions"]["probabilities"], np.float32)
    np.testing.assert_allclose(theirs, predictor.predict(images)[1], atol=1e-6)
