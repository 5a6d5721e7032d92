"""Images of several labels through the product: ingest, retrain, score, the store, people's answers, and again.

The images are synthetic: collages of two digits, one, or none.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from collage_world import Collage, collages, write_list
from sklearn.datasets import load_digits

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("several")]

NAMES = tuple("abcdef")
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"several": True, "near_distance": 0},
    "preprocess": {"size": 16},
    "audit": {"folds": 2, "epochs": 1},
    "train": {"epochs": 8, "batch_size": 32, "precision": "fp32", "label_smoothing": 0.0, "augment": {"shift": 0.0}},
    "evaluate": {"bootstrap": 100},
    "labelling": {"share": 0.5, "reference_factor": 1.0},
    "monitor": {"window": "day", "close_after_hours": 0},
}


def made(number: int, seed: int) -> list[Collage]:
    digits = load_digits()
    some = digits.target < len(NAMES)
    return collages((digits.images[some] * 15.9).astype(np.uint8), digits.target[some], NAMES, number, seed)


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, perennial: Callable[..., Any], git: Callable[..., str]
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("several")
    root = folder / "workspace"
    assert perennial("init", str(root)).code == 0
    try:
        params = yaml.safe_load((root / "params.yaml").read_text())
        for section, values in SETTINGS.items():
            params[section].update(values)
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        git(root, "commit", "--quiet", "--all", "--message", "Several labels")
        git(root, "push", "--quiet")
        write_list(folder / "images", made(500, 1))
        write_list(folder / "more", made(40, 2))
        yield root
    finally:
        from components.operations.services import discard_services
        from components.settings import Settings

        discard_services(root, Settings())


def ask(perennial: Callable[..., Any], root: Path, *arguments: str) -> Any:
    done = perennial(*arguments, "--workspace", str(root), "--json", patience=600)
    assert done.code == 0, f"{done.out}\n{done.err}"
    return done.json


def test_several_labels_go_all_the_way_and_people_s_answers_come_back(
    root: Path, perennial: Callable[..., Any], tmp_path: Path
) -> None:
    images = root.parent / "images" / "list.jsonl"
    told = ask(perennial, root, "ingest", str(images))
    assert (told["added"], told["classes"]) == (500, list(NAMES))
    renewed = ask(perennial, root, "retrain")
    assert renewed["promoted"], renewed["verdict"]
    assert {check["name"] for check in renewed["verdict"]["checks"]} == {"export parity", "calibration", "first model"}
    measured = json.loads((root / "artifacts/evaluation/metrics.json").read_text())
    assert (root / "artifacts/evaluation/report.html").is_file()
    assert measured["parts"]["frozen_test"]["map"]["value"] > 0.8
    assert measured["baselines"]["linear"]["map"] < measured["parts"]["frozen_test"]["map"]["value"]
    assert 0 < measured["robustness"]["mean"] <= measured["robustness"]["clean"]["value"]
    assert measured["attacks"]["pgd"] <= measured["attacks"]["fgsm"] <= measured["attacks"]["clean"]
    assert measured["five_looks"]["once"]["exact_match"]["value"] > 0.3

    scored_at = "2026-10-05T12:00:00Z"
    scored = ask(perennial, root, "score", str(root.parent / "more" / "list.jsonl"), "--at", scored_at)
    assert (scored["predictions"], scored["new_rows"]) == (40, 40)
    assert ask(perennial, root, "score", str(root.parent / "more" / "list.jsonl"))["new_rows"] == 0
    truth = {f"{n:06d}.png": one.labels for n, one in enumerate(made(40, 2))}
    stored = stored_labels(root)
    right = sum(stored[name] == truth[name] for name in truth)
    assert set(stored) == set(truth)
    assert right >= 16  # of 40, by a network that saw 375 images

    now = ("--at", "2026-10-07T12:00:00Z")
    ask(perennial, root, "label", "draw", "--window", "2026-10-05", *now)
    tasks, answers = tmp_path / "tasks.csv", tmp_path / "answers.csv"
    asked = ask(perennial, root, "label", "export", str(tasks), "--queue", "accuracy")
    assert asked["tasks"] >= 15
    with tasks.open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_task = names_of_tasks(root)
    with answers.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            said = sorted(truth[by_task[int(row["task_id"])]])
            answer = {"answer": " | ".join(said) or "none of them", "annotator": "ada", "answered_at": now[1]}
            writer.writerow({**row, **answer})
    ask(perennial, root, "label", "import", str(answers), *now)

    again = ask(perennial, root, "retrain", "--force", "--reason", "answers came", *now)
    assert {"overall", "every class"} <= {check["name"] for check in again["verdict"]["checks"]}
    from components.data.manifest import Manifest

    manifest = Manifest.read(root / "data/manifest.parquet")
    taught = [row for row in manifest.table.to_pylist() if row["window"] is not None]
    assert len(taught) == asked["tasks"]
    assert {row["label_origin"] for row in taught} == {"consensus"}
    by_id = {row["image_id"]: row for row in taught}
    for name, labels in truth.items():
        row = by_id.get(image_id(root.parent / "more" / name))
        if row is not None:
            assert json.loads(row["label"]) == sorted(labels)


def image_id(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def query(root: Path, statement: str) -> list[Any]:
    from sqlalchemy import text

    from components.operations.services import open_services
    from components.settings import Settings

    with open_services(root, Settings()) as services, services.database.transaction() as connection:
        return list(connection.execute(text(statement)).all())


def stored_labels(root: Path) -> dict[str, frozenset[str]]:
    """Return the labels that the store says are predicted, by file name."""
    found: dict[str, set[str]] = {name: set() for (name,) in query(root, "SELECT name FROM prediction")}
    said = query(
        root,
        "SELECT p.name, c.classes[l.label + 1] FROM label_prediction l"
        " JOIN prediction p ON p.month = l.month AND p.batch_number = l.batch_number AND p.item_no = l.item_no"
        " JOIN model_version m ON m.version = l.model_version JOIN class_list c ON c.id = m.class_list_id"
        " WHERE l.positive",
    )
    for name, label in said:
        found[name].add(label)
    return {name: frozenset(labels) for name, labels in found.items()}


def names_of_tasks(root: Path) -> dict[int, str]:
    return dict(
        tuple(row)
        for row in query(
            root,
            "SELECT t.id, p.name FROM label_task t JOIN prediction p ON p.month = t.month"
            " AND p.batch_number = t.batch_number AND p.item_no = t.item_no",
        )
    )
