"""The whole loop, as the demo runs it: every part at work on real images, month after month."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(1800), pytest.mark.slow]

PATIENCE_SECONDS = 1200.0
MONTHS = 3
# 190 predictions a month: whether a class has labels enough for a verdict is chance, and this seed is one where it has.
COMMAND = ("demo", "--quick", "--json", "--seed", "11", "--months", str(MONTHS), "--directory")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from components.operations.services import discard_services
    from components.settings import Settings

    folder = tmp_path_factory.mktemp("demo") / "demo"
    yield folder
    discard_services(folder / "workspace", Settings())


@pytest.fixture(scope="module")
def told(directory: Path, perennial: Callable[..., Any]) -> list[dict[str, Any]]:
    """The lines that one complete demo printed."""
    done = perennial(*COMMAND, str(directory), patience=PATIENCE_SECONDS)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def is_share(value: Any) -> bool:
    return value is None or 0 <= value <= 1


def is_interval(value: Any) -> bool:
    return value is None or 0 <= value["low"] <= value["value"] <= value["high"] <= 1


def test_the_demo_prints_one_object_a_month_with_estimates_beside_the_truth(told: list[dict[str, Any]]) -> None:
    months = told[:-1]
    assert [month["window"] for month in months] == ["2026-01", "2026-02", "2026-03"]
    for month in months:
        assert month["predictions"] == 190
        assert 0 < month["labels"] <= 190
        assert month["model_version"] >= 1
        assert is_interval(month["overall"])
        assert is_share(month["true_accuracy"])
        assert [found["name"] for found in month["classes"]] == [str(digit) for digit in range(10)]
        for found in month["classes"]:
            assert 0 <= found["labels"] <= found["predicted"]
            assert is_interval(found["precision"])
            assert is_interval(found["recall"])
            assert is_share(found["true_precision"])
            assert is_share(found["true_recall"])
            assert found["state"] in {"ok", "suspect", "alarm", "insufficient", "no-reference", "not-measurable"}
        assert {"column", "p_value", "v", "drifted"} <= set(month["drift"][0])
        assert month["decision"]["action"] in {"none", "ask-labels", "retrain", "refused"}
        assert set(month["decision"]) == {"action", "classes", "reason"}
        assert month["decision"]["reason"]


def test_the_class_that_changed_its_looks_is_found_and_the_model_is_renewed(told: list[dict[str, Any]]) -> None:
    third = told[2]
    (four,) = [found for found in third["classes"] if found["name"] == "4"]
    assert four["true_recall"] < 0.5  # the scenario turns this class inside out in its third month
    assert four["state"] == "alarm"
    assert third["decision"]["action"] == "retrain"
    assert "4" in third["decision"]["classes"]
    assert third["renewal"]["version"] == 2
    # The first month is what the later ones are compared with; in the second nothing has changed.
    assert [month["decision"]["action"] for month in told[:2]] == ["none", "none"]


def test_the_demo_closes_with_a_summary_and_a_report_that_needs_no_network(
    told: list[dict[str, Any]], directory: Path
) -> None:
    summary = told[-1]["summary"]
    assert summary["months"] == MONTHS
    assert summary["scenario"]["source"] == "digits"
    assert "too small for a verdict" in summary["note"]
    assert summary["peak_memory_gb"] < 4
    report = Path(summary["report"])
    assert report == directory / "report.html"
    page = report.read_text(encoding="utf-8")
    assert "2026-03" in page
    assert "simulated" in page
    assert re.search(r"""(src|href)\s*=\s*["']https?:""", page) is None
    kept = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    assert [month["window"] for month in kept["months"]] == ["2026-01", "2026-02", "2026-03"]


def test_the_workspace_of_the_demo_goes_on_as_an_ordinary_one(
    told: list[dict[str, Any]], perennial: Callable[..., Any]
) -> None:
    history = perennial("history", "--limit", "100", "--json", "--workspace", told[-1]["summary"]["workspace"])
    assert history.code == 0, history.err
    kinds = {(entry["kind"], entry["action"]) for entry in history.json}
    assert {("ingest", "added"), ("champion", "promote"), ("draw", "drawn"), ("judgement", "retrain")} <= kinds


def test_the_demo_starts_afresh_in_the_same_folder_after_a_whole_run_and_after_an_interrupted_one(
    told: list[dict[str, Any]], directory: Path, start_perennial: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    workspace = Path(told[-1]["summary"]["workspace"])
    for _ in ("after a whole run", "after an interrupted one"):
        before = (workspace / ".git").stat().st_ino, (workspace / "code.lock").stat().st_mtime_ns
        said = interrupted_at_work(start_perennial, directory, tmp_path / "stderr")
        assert "Traceback" not in said
        assert ((workspace / ".git").stat().st_ino, (workspace / "code.lock").stat().st_mtime_ns) != before
        assert not (directory / "report.html").exists()


def interrupted_at_work(start: Callable[..., subprocess.Popen[str]], directory: Path, log: Path) -> str:
    """Press Ctrl-C when the demo's new services run and its first images come in; return what it said."""
    with log.open("w", encoding="utf-8") as said:
        demo = start(*COMMAND, str(directory), stderr=said, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "images come in" not in log.read_text(encoding="utf-8"):
            assert demo.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)
        os.killpg(demo.pid, signal.SIGINT)
        demo.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
    assert demo.returncode != 0
    return log.read_text(encoding="utf-8")
