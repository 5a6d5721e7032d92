"""Label Studio files through the command line: tasks out with their pictures, answers in, and what is estimated."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

MONTH, CLOSED = "2020-05", "2020-06-04T00:00:00+00:00"
PREFIX = "/data/local-files/?d=tasks/"


def annotated(task: dict[str, Any], number: int, answer: str, *, cancelled: bool = False) -> dict[str, Any]:
    """A task as Label Studio's export of type JSON gives it back after one person looked at it."""
    choice = {"value": {"choices": [answer]}, "from_name": "answer", "to_name": "image", "type": "choices"}
    annotation = {
        "id": 1000 + number, "completed_by": {"id": 3, "email": "ada@example.org"}, "was_cancelled": cancelled,
        "result": [] if cancelled else [choice], "lead_time": 2.5,
        "created_at": "2020-06-05T09:00:00.000000Z", "updated_at": "2020-06-05T09:00:02.500000Z",
    }  # fmt: skip
    return {"id": 1 + number, "project": 1, "data": task["data"], "annotations": [annotation], "predictions": []}


def servers_of(home: Path) -> list[list[str]]:
    """Return the command lines of Prefect's servers that use `home`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("PREFECT_HOME") == str(home):
                found.append(process.cmdline())
    return found


def test_tasks_go_out_to_label_studio_and_its_answers_come_in(
    product: Any,
    apart: Any,
    score_month: Callable[..., None],
    perennial: Callable[..., Any],
    digits: list[Any],
    tmp_path: Path,
) -> None:
    score_month(apart, "may", datetime(2020, 5, 10, tzinfo=UTC))
    here = ("--workspace", str(product.root), "--json")
    elsewhere = {"DATABASE_URL": apart.workspace.settings.database_url.replace("+psycopg2", "")}
    drawn = perennial("label", "draw", "--window", MONTH, "--at", CLOSED, *here, **elsewhere)
    assert drawn.code == 0, drawn.err
    asked = sum(draw["tasks"] for draw in drawn.json["draws"])

    file, images = tmp_path / "tasks.json", tmp_path / "tasks"
    exported = perennial(
        "label", "export", str(file), "--images", str(images), "--image-url", PREFIX, *here, **elsewhere
    )
    assert exported.code == 0, exported.err
    assert (exported.json["tasks"], exported.json["images"]) == (asked, asked)
    tasks = json.loads(file.read_text(encoding="utf-8"))
    interface = ET.parse(tmp_path / "tasks.xml").getroot()  # noqa: S314  (our own file)
    wanted = {node.get("value") for node in interface.iter() if node.get("value")}
    assert wanted == {"$image", "$choices"}
    assert {f"${key}" for key in tasks[0]["data"]} >= wanted
    # What the model thought is nowhere in what annotators get, in no key and in no order.
    assert {key for task in tasks for key in task["data"]} == {"task_id", "image", "choices", "queue", "window"}
    assert len({json.dumps(task["data"]["choices"]) for task in tasks}) == 1
    pictures = {path.name: path.read_bytes() for path in images.iterdir()}
    assert {task["data"]["image"] for task in tasks} == {f"{PREFIX}{name}" for name in pictures}

    truth = {item.content: item.label for item in digits}
    answers = [
        annotated(task, n, truth[pictures[task["data"]["image"].removeprefix(PREFIX)]], cancelled=n == 0)
        for n, task in enumerate(tasks)
    ]
    answered = tmp_path / "project-1.json"
    broken = json.loads(json.dumps(answers))
    broken[-1]["annotations"][0]["result"] = []
    answered.write_text(json.dumps(broken), encoding="utf-8")
    at = ("--at", "2020-06-06T00:00:00+00:00")
    refused = perennial("label", "import", str(answered), *at, *here, **elsewhere)
    assert refused.code == 1
    assert f"task {asked}: answer []" in refused.err

    answered.write_text(json.dumps(answers), encoding="utf-8")
    taken = [perennial("label", "import", str(answered), *at, *here, **elsewhere) for _ in range(2)]
    assert [done.code for done in taken] == [0, 0], taken[0].err
    counts = [(done.json["new"], done.json["repeated"], done.json["settled"]) for done in taken]
    assert counts == [(asked - 1, 0, asked - 1), (0, asked - 1, 0)]
    with apart.database.transaction() as connection:
        stored = connection.execute(text("SELECT DISTINCT annotator, answered_at, seconds FROM label")).all()
    assert [tuple(row) for row in stored] == [("ada@example.org", datetime(2020, 6, 5, 9, 0, 2, 500000, UTC), 2.5)]

    watched = {**elsewhere, "PYTHONPROFILEIMPORTTIME": "1"}
    judged = perennial("monitor", "--window", MONTH, "--at", "2020-06-20T00:00:00+00:00", *here, **watched)
    assert judged.code == 0, judged.err
    imported = {line.rpartition("|")[2].strip() for line in judged.err.splitlines()}
    assert "prefect.flow_engine" in imported
    assert not imported & {"prefect.server", "mlflow", "torch"}  # the server is another process; no model is asked
    assert servers_of(product.state / "prefect") == []  # and has ended
    (segment,) = judged.json
    assert segment["labels"] == asked - 1
    assert segment["overall"]["low"] < segment["overall"]["value"] <= segment["overall"]["high"]


def test_an_image_url_without_images_is_refused(product: Any, perennial: Callable[..., Any], tmp_path: Path) -> None:
    asked = ("label", "export", str(tmp_path / "t.json"), "--image-url", PREFIX, "--workspace", str(product.root))
    refused = perennial(*asked)
    assert refused.code == 2
    assert "--images" in refused.err
    assert not (tmp_path / "t.json").exists()
