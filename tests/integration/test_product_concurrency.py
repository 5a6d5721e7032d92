"""Commands that meet: monitors of one window, commands that start the services together, a server that was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

REFERENCE, LATER = "2020-01", "2020-02"  # long closed, and nobody else's
BROKEN, CALLED = "3", "8"


def answer_open_tasks(services: Any, meaning: Callable[[str], str], truth: dict[str, str], at: datetime) -> None:
    """Let one person answer every open task of the accuracy queue: the truth, as `meaning` changes it."""
    from components.operations.labelling import take_answers
    from components.records import LabelAnswer
    from components.store import labelling

    tasks = labelling.tasks(services.database, "accuracy", limit=None)
    names = {p.task_id: p.name for p in labelling.places(services.database, [t.task_id for t in tasks])}
    answers = [LabelAnswer(n, meaning(truth[name]), "a person", at) for n, name in names.items()]
    take_answers(services, answers, now=at)


def count(services: Any, query: str) -> int:
    with services.database.transaction() as connection:
        return int(connection.execute(text(query)).scalar_one())


def test_two_monitors_at_the_same_moment_judge_once_and_make_one_retrain_request(
    product: Any, apart: Any, forked: Any, digits: list[Any], score_month: Callable[..., None]
) -> None:
    from components.monitoring.judgement.evidence import judge_again
    from components.operations.labelling import draw_window
    from components.operations.monitoring.judging import monitor_window

    truth = {item.name: item.label for item in digits}
    score_month(apart, "january", datetime(2020, 1, 15, tzinfo=UTC))
    score_month(apart, "february", datetime(2020, 2, 15, tzinfo=UTC))
    now = datetime(2020, 3, 4, tzinfo=UTC)
    draw_window(apart, REFERENCE, now=now)
    answer_open_tasks(apart, lambda label: label, truth, now)
    (reference,) = monitor_window(apart, REFERENCE, now=now)
    assert "reference from now on" in reference["decision"]["reason"]

    draw_window(apart, LATER, now=now)
    job = {
        "operation": "monitor",
        "root": str(product.root),
        "window": LATER,
        "database_url": apart.workspace.settings.database_url,
    }
    for judged in (1, 2):  # a first look that asks for more labels of the suspect class, and a second
        now += timedelta(days=1)
        answer_open_tasks(apart, lambda label: CALLED if label == BROKEN else label, truth, now)
        forked.start({**job, "at": now.isoformat()}, {**job, "at": now.isoformat()})
        codes, ((one,), (other,)) = forked.finish()
        assert codes == [0, 0]
        of_window = f"WHERE window_name = '{LATER}'"
        assert count(apart, f"SELECT count(*) FROM judgement {of_window}") == judged
        assert count(apart, f"SELECT count(*) FROM decision {of_window} AND kind = 'judgement'") == judged
        if {one["decision"]["action"], other["decision"]["action"]} == {"retrain"}:
            break
    assert BROKEN in one["decision"]["classes"]
    assert one["decision"] == other["decision"]
    asked = (
        f"SELECT evidence FROM decision WHERE window_name = '{LATER}' AND kind = 'judgement' ORDER BY id DESC LIMIT 1"
    )
    with apart.database.transaction() as connection:
        again = judge_again(connection.execute(text(asked)).scalar_one())
    assert again.decision.as_json() == one["decision"]  # the ledger's row alone leads to it
    assert count(apart, "SELECT count(*) FROM retrain_request") == 2  # the first model's, which is done, and this one
    assert count(apart, "SELECT count(*) FROM retrain_request WHERE finished_at IS NULL") == 1
    assert count(apart, "SELECT count(*) FROM alert WHERE key LIKE 'accuracy/%'") == 1


def postmasters(product: Any) -> list[int]:
    """Return the process ids of every server that runs on the workspace's data."""
    from components.store.postgres.home import recorded_home

    data = recorded_home(product.state).data.resolve()
    found = []
    for process in psutil.process_iter(["name"]):
        if not str(process.info["name"]).startswith("postgres"):
            continue
        try:
            if Path(process.cwd()) == data and "-D" in process.cmdline():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_commands_that_start_together_share_one_server(
    product: Any, perennial: Callable[..., Any], perennial_at_once: Callable[..., list[Any]]
) -> None:
    here = ("--workspace", str(product.root), "--json")
    assert perennial("down", *here).json == {"stopped": ["postgresql"]}
    assert postmasters(product) == []
    ended = perennial_at_once(("history", *here), ("label", "queue", *here), ("history", *here))
    assert [(finished.code, finished.err) for finished in ended] == [(0, "")] * 3
    assert ended[0].json == ended[2].json
    assert len(postmasters(product)) == 1


def test_a_command_after_the_server_was_killed_brings_it_back_with_every_row(
    product: Any, perennial: Callable[..., Any]
) -> None:
    here = ("--workspace", str(product.root), "--json")
    before = perennial("history", "--limit", "1000", *here).json
    (server,) = postmasters(product)
    os.kill(server, signal.SIGKILL)
    after = perennial("history", "--limit", "1000", *here)
    assert (after.code, after.err) == (0, "")
    assert after.json == before
    assert before
    (successor,) = postmasters(product)
    assert successor != server
