"""A retraining whose process is killed: nothing is promoted, nobody waits long, and the next one goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

pytestmark = [
    pytest.mark.xdist_group("workspace"),
    pytest.mark.timeout(1800),
    pytest.mark.slow,
]

PATIENCE_SECONDS = 300.0


DAILY_ROUND = """
import sys
from pathlib import Path
from flows.commands.options import prepare_flows
workspace = prepare_flows(Path(sys.argv[1]))
from flows.monitor import daily
daily(workspace)
"""


def wait_for(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.05)
    pytest.fail(f"not within {PATIENCE_SECONDS:.0f} s: {what}")


def end_the_lease(database: Any) -> None:
    """Do what a minute without the process does."""
    with database.transaction() as connection:
        connection.execute(text("UPDATE retrain_request SET lease_until = clock_timestamp() WHERE state = 'claimed'"))


def stage_processes(work: Path) -> list[int]:
    """Return the Python processes that run a stage somewhere under `work`."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = Path(process.exe()).resolve() == Path(sys.executable).resolve()
            if ours and Path(process.cwd()).is_relative_to(work):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def change_the_seed(root: Path, git: Callable[..., str]) -> None:
    """Change what training depends on, as a person does: a commit, pushed."""
    import yaml

    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["train"]["seed"] += 1
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    git(root, "commit", "--quiet", "--all", "--message", "Try another seed")
    git(root, "push", "--quiet")


def make_old(services: Any) -> None:
    """Do to the champion what most of a year does."""
    with services.database.transaction() as connection:
        connection.execute(text("UPDATE model_version SET created_at = created_at - interval '300 days'"))
        connection.execute(text("UPDATE retrain_request SET started_at = started_at - interval '300 days'"))


def test_a_retraining_of_the_daily_round_is_killed_and_goes_on_when_the_next_one_is_asked_for(
    product: Any,
    services: Any,
    perennial: Callable[..., Any],
    environment: Callable[..., dict[str, str]],
    git: Callable[..., str],
    noisy_digits: Callable[[Path, int], Path],
    tmp_path: Path,
) -> None:
    from components.operations.ingestion import ingest_source
    from components.store import champions, requests

    here = ("--workspace", str(product.root), "--json")
    database, work = services.database, product.state / "work"
    change_the_seed(product.root, git)
    make_old(services)  # nobody asks for this retraining: the champion is past its age, and there are new images
    champion, versions = champions.champion(database), len(champions.models(database))
    ingest_source(services, str(noisy_digits(tmp_path / "more.tar", 120)), add_classes=(), now=datetime.now(UTC))

    with (tmp_path / "said").open("w", encoding="utf-8") as said:
        retrain = subprocess.Popen(
            [sys.executable, "-c", DAILY_ROUND, str(product.root)], env=environment(), stdout=said, stderr=said
        )
    # The stage that trains is at work: its first line is there, its result is not.
    wait_for(
        lambda: retrain.poll() is not None or list(work.glob("retrain-*/artifacts/model/metrics.jsonl")),
        "the first epoch",
    )
    assert retrain.poll() is None, (tmp_path / "said").read_text(encoding="utf-8")
    orphans = stage_processes(work)
    assert orphans
    servers = psutil.Process(retrain.pid).children()  # Prefect's own, beside DVC
    os.kill(retrain.pid, signal.SIGKILL)
    retrain.wait()

    interrupted = requests.current_request(database)
    assert (interrupted.state, interrupted.evidence["cause"]) == ("claimed", "age")
    assert champions.champion(database) == champion
    early = perennial("retrain", "--force", "--reason", "to see", *here)
    assert early.code == 3
    assert "another retraining is under way" in early.err
    assert f"process {retrain.pid}" in early.err  # who it is that must be looked for
    assert "its claim ends within a minute" in early.err

    end_the_lease(database)
    done = perennial("retrain", *here, patience=900)  # not forced: it was worth it when it began
    assert done.code in (0, 3), done.err
    assert not set(orphans) & set(psutil.pids())
    assert not any(server.is_running() for server in servers)
    assert stage_processes(work) == []
    ended = requests.find_request(database, interrupted.id)
    assert (ended.attempts, ended.state) == (2, "done" if done.json["promoted"] else "unhelpful")
    assert requests.current_request(database) is None
    assert len(champions.models(database)) == versions + 1
    noted = perennial("history", "--kind", "retrain", "--limit", "1", *here).json
    assert (noted[0]["action"], noted[0]["evidence"]["request"]) == ("resumed", interrupted.id)
    runs = services.registry.client.search_runs(
        [services.registry.client.get_experiment_by_name("perennial").experiment_id],
        f"tags.`perennial.request` = '{interrupted.id}'",
    )
    assert [run.info.status for run in runs] == ["FINISHED"]  # the same inputs, the same run


def test_a_claim_is_renewed_while_its_process_lives(apart: Any, today: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.operations.retraining import attempt as attempts
    from components.store import requests

    monkeypatch.setattr(attempts, "RENEW_SECONDS", 0.02)
    mine = attempts.begin(apart, cause="forced", reason="to see", force=True, actor="test", now=today)
    with attempts.holding(apart, mine):
        end_the_lease(apart.database)
        wait_for(lambda: requests.current_request(apart.database).leased, "the lease is renewed")
    kept = requests.current_request(apart.database)
    assert (kept.claimed_by, kept.attempts, kept.interrupted) == (mine.worker, 1, False)


def test_whoever_was_taken_over_promotes_nothing_and_ends_nothing(apart: Any, today: Any) -> None:
    from components.errors import ConflictError
    from components.operations.retraining import attempt as attempts
    from components.operations.retraining.renewal import settle
    from components.store import champions, requests

    before = champions.champion(apart.database)
    slow = attempts.begin(apart, cause="forced", reason="to see", force=True, actor="slow", now=today)
    end_the_lease(apart.database)
    quick = attempts.begin(apart, cause="forced", reason="to see", force=True, actor="quick", now=today)
    assert (quick.request, quick.number) == (slow.request, 2)
    with (
        pytest.raises(ConflictError, match="was taken over while this process \\(slow on "),
        attempts.finishing(apart, slow, now=today),
    ):
        settle(apart, slow, 1, {"passed": True}, now=today)
    assert champions.champion(apart.database) == before
    assert requests.current_request(apart.database).claimed_by == quick.worker


def test_a_request_whose_process_dies_three_times_is_given_up_with_an_alert(apart: Any, today: Any) -> None:
    from components.errors import RefusedError
    from components.operations.retraining import attempt as attempts
    from components.store import requests

    for number in (1, 2, 3):
        begun = attempts.begin(apart, cause="accuracy", reason="a class fell", force=True, actor="daily", now=today)
        assert begun.number == number
        end_the_lease(apart.database)
    with pytest.raises(RefusedError, match="the cooldown ends"):
        attempts.begin(apart, cause="accuracy", reason="a class fell", force=False, actor="daily", now=today)
    ended = requests.find_request(apart.database, begun.request)
    assert ended.state == "failed"
    assert "its process died in 3 attempts, the last one daily on " in ended.detail
    with apart.database.transaction() as connection:
        told = connection.execute(text("SELECT level, body FROM alert WHERE key = 'failed/retraining'")).one()
    assert told.level == "page"
    assert "this request is not tried again" in told.body


def test_only_this_interpreters_processes_in_the_folder_are_ended(tmp_path: Path) -> None:
    from components.data.versioning.leftovers import end_processes_in

    (tmp_path / "work" / "clone").mkdir(parents=True)
    sleeper = "import time; print(1, flush=True); time.sleep(600)"

    def start(*command: str, cwd: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    within = start(sys.executable, "-c", sleeper, cwd=tmp_path / "work" / "clone")
    beside = start(sys.executable, "-c", sleeper, cwd=tmp_path)
    shell = start("/bin/sh", "-c", "echo 1; read line", cwd=tmp_path / "work")
    try:
        for process in (within, beside, shell):
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
        assert end_processes_in(tmp_path / "work") == 1
        assert not psutil.pid_exists(within.pid)
        assert beside.poll() is None
        assert shell.poll() is None
        assert end_processes_in(tmp_path / "nothing") == 0
    finally:
        for process in (within, beside, shell):
            process.kill()
            process.communicate()
