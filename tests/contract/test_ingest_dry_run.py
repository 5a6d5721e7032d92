"""`perennial ingest --dry-run` answers at once and changes nothing: no server, no lock, no clone, no Prefect."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PERENNIAL = Path(sys.executable).parent / "perennial"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace that knows the classes cat and dog; nothing runs in it."""
    from components.data.manifest import Manifest

    root = tmp_path / "workspace"
    (root / ".perennial").mkdir(parents=True)
    (root / "data").mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    Manifest.from_rows([], ("cat", "dog")).write(root / "data" / "manifest.parquet")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from components.data.png import encode_png

    for name in ("cat/1.png", "cat/2.png", "dgo/3.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(np.zeros((8, 8), np.uint8)))
    (tmp_path / "photos/stray.txt").write_text("no image")
    rows = "file,species,site\ncat/1.png,cat,a\ncat/2.png,dog,b\n"
    (tmp_path / "photos.csv").write_text(rows.replace("\ncat", "\nphotos/cat"))
    return tmp_path / "photos"


def ingest(workspace: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PERENNIAL), "ingest", *arguments, "--dry-run", "--workspace", str(workspace)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def state(folder: Path) -> dict[str, Any]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_dry_run_tells_what_would_come_in_and_changes_nothing(workspace: Path, photos: Path) -> None:
    before = state(workspace.parent)
    found = json.loads(ingest(workspace, str(photos), "--json").stdout)

    assert (found["files"], found["usable"]) == (4, 3)
    assert found["classes"] == {"cat": 2, "dgo": 1}
    assert found["class_list"] == ["cat", "dog"]
    assert found["unknown"] == [{"label": "dgo", "files": 1, "nearest": "dog"}]
    assert "1 label is not in the class list" in found["refused"]
    assert found["set_aside"] == [{"name": "stray.txt", "reason": "no-label"}]
    assert [(s["name"], s["width"]) for s in found["sample"]] == [("cat/1.png", 8), ("cat/2.png", 8), ("dgo/3.png", 8)]
    assert state(workspace.parent) == before


def test_a_person_reads_the_same(workspace: Path, photos: Path) -> None:
    told = ingest(workspace, str(photos))

    assert told.returncode == 0
    assert told.stderr == ""
    for said in (
        "3 of 4 files would come in", "nothing was changed", "the ingest would be refused", "unknown, nearest dog",
        "no-label", "8 x 8",
    ):  # fmt: skip
        assert said in told.stdout


def test_an_added_class_and_mapped_columns_are_taken_into_account(workspace: Path, photos: Path) -> None:
    added = json.loads(ingest(workspace, str(photos), "--add-class", "dgo", "--json").stdout)
    assert (added["refused"], added["class_list"]) == (None, ["cat", "dog", "dgo"])

    columns = ("--column", "label=species", "--column", "group=site")
    mapped = json.loads(ingest(workspace, str(photos.with_suffix(".csv")), *columns, "--json").stdout)
    assert (mapped["classes"], mapped["groups"], mapped["refused"]) == ({"cat": 1, "dog": 1}, 2, None)


def test_before_the_first_ingest_the_labels_make_the_list(workspace: Path, photos: Path) -> None:
    (workspace / "data" / "manifest.parquet").unlink()
    found = json.loads(ingest(workspace, str(photos), "--json").stdout)

    assert (found["class_list"], found["unknown"], found["refused"]) == (["cat", "dgo"], None, None)


def test_prefect_and_the_database_are_not_even_imported(workspace: Path, photos: Path) -> None:
    told = ingest(workspace, str(photos), PYTHONPROFILEIMPORTTIME="1")
    lines = [line for line in told.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}

    assert told.returncode == 0
    assert not imported & {"prefect", "sqlalchemy", "mlflow", "torch", "dvc"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere",), 2, "'nowhere' does not exist"),
        (("digits", "--column", "label=x"), 2, "'digits' is no list"),
        (("digits", "--column", "lable=x"), 2, "did you mean 'label'?"),
        (("digits", "--add-class", " "), 2, "--add-class"),
    ],
)
def test_what_is_wrong_is_one_line(workspace: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    told = ingest(workspace, *arguments)

    assert (told.returncode, told.stdout) == (code, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("perennial: ")
    assert said in line
