"""What a person gets wrong is told in one clear line with the right exit code, and nothing is lost by it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

USAGE, FAILED = 2, 1
ROOT = Path(__file__).resolve().parents[2]


def one_line(finished: Any, code: int) -> str:
    """Return the one line a command said, having checked that it failed with `code` and without a stack."""
    assert "Traceback" not in finished.err
    assert finished.out == ""
    (line,) = finished.err.splitlines()
    assert line.startswith("perennial: ")
    assert finished.code == code
    return line


@pytest.fixture
def untouched(product: Any, git: Callable[..., str], services: Any) -> Callable[[], tuple[Any, ...]]:
    """A function that tells the state of the workspace: commits, tags, manifest, ledger, labels."""
    from components.data.manifest import Manifest
    from components.store.labelling import new_settled_count
    from components.store.ledger import history

    def state() -> tuple[Any, ...]:
        return (
            git(product.root, "rev-parse", "HEAD"),
            git(product.root, "ls-remote", "origin"),
            Manifest.read(product.root / "data" / "manifest.parquet").digest(),
            history(services.database, limit=1000),
            new_settled_count(services.database),
        )

    return state


def test_an_unknown_class_in_a_list_names_the_file_and_the_class_and_changes_nothing(
    product: Any, perennial: Callable[..., Any], untouched: Any, digits: list[Any], tmp_path: Path
) -> None:
    before = untouched()
    (tmp_path / "a.png").write_bytes(digits[0].content + b"\0")
    (tmp_path / "b.png").write_bytes(digits[1].content + b"\0")
    (tmp_path / "list.csv").write_text("path,label\na.png,0\nb.png,elephant\n", encoding="utf-8")
    refused = perennial("ingest", str(tmp_path / "list.csv"), "--workspace", str(product.root))
    line = one_line(refused, USAGE)
    for said in ("list.csv", "b.png", "'elephant'", "0, 1, 2", "--add-class"):
        assert said in line
    assert untouched() == before


def test_an_unknown_source_names_what_is_accepted(product: Any, perennial: Callable[..., Any], untouched: Any) -> None:
    before = untouched()
    line = one_line(perennial("score", "no-such-folder", "--workspace", str(product.root)), USAGE)
    assert "'no-such-folder' does not exist" in line
    assert "a folder" in line
    assert untouched() == before


@pytest.mark.parametrize("command", [("monitor",), ("label", "draw")], ids=" ".join)
def test_an_unknown_window_is_told_before_anything_starts(
    command: tuple[str, ...], tmp_path: Path, perennial: Callable[..., Any]
) -> None:
    refused = perennial(*command, "--window", "2026-13", "--workspace", str(tmp_path))
    assert one_line(refused, USAGE) == (
        "perennial: window '2026-13' is not a month (2026-10), an ISO week (2026-W41) or a day (2026-10-05)"
    )


def test_a_time_without_a_zone_is_refused(tmp_path: Path, perennial: Callable[..., Any]) -> None:
    refused = perennial("monitor", "--at", "2026-10-05T12:00:00", "--workspace", str(tmp_path))
    assert "has no zone; write it with one" in one_line(refused, USAGE)


def test_a_folder_that_is_no_workspace_is_named_with_the_way_to_make_one(
    tmp_path: Path, perennial: Callable[..., Any]
) -> None:
    line = one_line(perennial("history", "--workspace", str(tmp_path)), USAGE)
    assert f"{tmp_path} is not a workspace" in line
    assert "perennial init" in line


def test_a_misspelt_parameter_names_its_neighbour_and_starts_nothing(
    tmp_path: Path, perennial: Callable[..., Any]
) -> None:
    state = tmp_path / ".perennial"
    state.mkdir()
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params.replace("  folds:", "  fold:"), encoding="utf-8")
    line = one_line(perennial("retrain", "--workspace", str(tmp_path)), USAGE)
    assert f"{tmp_path}/params.yaml" in line
    assert "'audit.fold'" in line
    assert "did you mean 'folds'?" in line
    assert list(state.iterdir()) == []


def test_a_dead_service_is_named_without_its_password(
    product: Any, perennial: Callable[..., Any], start_perennial: Callable[..., Any], untouched: Any
) -> None:
    before = untouched()
    dead = "postgresql://someone:hunter2@127.0.0.1:1/somewhere"  # nothing listens on port 1
    here = ("--workspace", str(product.root))
    doctor = start_perennial("doctor", *here, MLFLOW_TRACKING_URI=dead.replace("://", "+psycopg2://"))
    refused = perennial("retrain", *here, DATABASE_URL=dead)  # both wait for their service, so at the same time
    line = one_line(refused, FAILED)
    assert "127.0.0.1:1/somewhere" in line
    assert "DATABASE_URL" in line
    assert "hunter2" not in line

    table, complaint = doctor.communicate(timeout=300)
    assert (doctor.returncode, complaint) == (FAILED, "")
    (found,) = [row for row in table.splitlines() if row.startswith("mlflow ")]
    assert "FAILED" in found
    assert "127.0.0.1:1/somewhere" in found
    assert "hunter2" not in found
    assert untouched() == before


def test_a_malformed_answer_names_file_and_row_and_no_answer_of_the_file_is_taken(
    product: Any, perennial: Callable[..., Any], untouched: Any, tmp_path: Path
) -> None:
    before = untouched()
    answers = tmp_path / "answers.csv"
    rows = "task_id,answer,annotator,answered_at\n1,3,ann,2026-10-05T12:00:00Z\n2,3,ann,yesterday\n"
    answers.write_text(rows, encoding="utf-8")
    refused = perennial("label", "import", str(answers), "--workspace", str(product.root))
    line = one_line(refused, FAILED)
    assert "answers.csv:3" in line
    assert "'yesterday'" in line
    assert untouched() == before


def test_a_misspelt_scenario_does_not_cost_the_demo_that_is_there(
    tmp_path: Path, perennial: Callable[..., Any]
) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("source: digits\nseeed: 7\ninitial_images: 600\nmonths: [{images: 190}]\n", encoding="utf-8")
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / ".perennial-demo").touch()
    (demo / "report.html").write_text("the last one", encoding="utf-8")
    line = one_line(perennial("demo", "--scenario", str(scenario), "--directory", str(demo)), USAGE)
    assert "'seeed'" in line
    assert "did you mean 'seed'?" in line
    assert (demo / "report.html").read_text(encoding="utf-8") == "the last one"


def test_a_folder_with_a_persons_files_is_never_taken_for_a_demos(
    tmp_path: Path, perennial: Callable[..., Any]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    line = one_line(perennial("demo", "--quick", "--directory", str(tmp_path)), USAGE)
    assert "not a demo's folder" in line
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"
