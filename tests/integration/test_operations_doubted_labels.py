"""From a doubted label to people and back: asked by the audit, answered in a file, learnt with the next version."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from components.data.sources.item import SourceItem
    from components.operations.services import Services

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
IMAGES, WRONG = 600, 40
SMALL = {
    "preprocess": {"size": 28, "channels": 1},
    "audit": {"folds": 2, "epochs": 3},
    "labelling": {"audit_queue": 60},
}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    from components.operations.services import discard_services, open_services
    from components.operations.workspace import init_workspace
    from components.settings import Settings

    root = tmp_path / "workspace"
    try:
        init_workspace(root, Settings(), SMALL)
        with open_services(root, Settings()) as services:
            yield services
    finally:
        discard_services(root, Settings())


def manifest_rows(services: Services) -> dict[str, dict[str, Any]]:
    from components.data.manifest import Manifest

    manifest = services.workspace.root / services.workspace.params.paths.manifest
    return {row["image_id"]: row for row in Manifest.read(manifest).table.to_pylist()}


def audit(services: Services) -> dict[str, Any]:
    """Do what `perennial audit` does, without a Prefect server."""
    from components.data.versioning.versions import reproduce
    from components.operations.audit import audit_summary, commit_audit
    from components.operations.ingestion import exclusive_clone

    with exclusive_clone(services, "audit") as clone:
        commit_audit(clone, before=True)
        reproduce(clone.root, "audit", echo=io.StringIO())
        commit_audit(clone, before=False)
        return audit_summary(services, clone, limit=5, now=NOW)


def learn(services: Services) -> str:
    """Bring answers into the dataset as a retraining does, and return its version."""
    from components.operations.ingestion import exclusive_clone
    from components.operations.retraining.attempt import Attempt
    from components.operations.retraining.renewal import collect_labels

    with exclusive_clone(services, "retrain") as clone:
        return collect_labels(services, clone, Attempt(1, 1, "test", "manual", "test", {}), now=NOW)


def test_people_correct_what_the_audit_doubts(services: Services, digits: list[SourceItem], tmp_path: Path) -> None:
    from components.data.quarantine.register import Register
    from components.operations.ingestion import ingest_items
    from components.operations.labelling import export_tasks, import_answers
    from components.store import lineage

    chosen = digits[:IMAGES]
    truth = {hashlib.sha256(item.content).hexdigest(): str(item.label) for item in chosen}
    items = [replace(i, label=str((int(str(i.label)) + 1) % 10)) if n < WRONG else i for n, i in enumerate(chosen)]
    ingest_items(services, items, source="digits", now=NOW)
    before = manifest_rows(services)
    wrong = {
        name for name, row in before.items() if row["label"] != truth[name] and row["split"] in ("train", "validation")
    }

    audited = audit(services)
    assert audited["queue"]["added"] == audited["queue"]["open"] == min(60, audited["metrics"]["suspects"])
    exported = export_tasks(services, tmp_path / "tasks.csv", queue="audit", form="csv", images=tmp_path / "images")
    with (tmp_path / "tasks.csv").open(encoding="utf-8", newline="") as file:
        tasks = list(csv.DictReader(file))
    assert len(tasks) == exported["tasks"] == exported["images"] == audited["queue"]["open"]
    asked = {task["image_id"] for task in tasks}
    assert len(asked & wrong) > len(wrong) / 4  # by models of three epochs
    for task in tasks:  # the picture, and neither of the labels in question
        assert hashlib.sha256(Path(task["image"]).read_bytes()).hexdigest() == task["image_id"]
        assert task["choices"].split(" | ") == [*map(str, range(10)), "other", "unsure", "bad-image"]
        assert task["window"] == audited["dataset_version"]

    none_of_them = sorted(asked & wrong)[0]
    known = {**truth, none_of_them: "other"}
    with (tmp_path / "answers.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [[task["task_id"], known[task["image_id"]], "ada", "2026-01-01T12:00:00Z"] for task in tasks]
        csv.writer(file).writerows([["task_id", "answer", "annotator", "answered_at"], *rows])
    assert import_answers(services, tmp_path / "answers.csv", now=NOW)["settled"] == len(tasks)

    version = learn(services)
    assert version != audited["dataset_version"]
    after = manifest_rows(services)
    for name in asked - {none_of_them}:
        said = [after[name][column] for column in ("label", "label_origin", "labelled_by", "state", "split")]
        assert said == [truth[name], "consensus", "ada", "active", before[name]["split"]]
    assert (after[none_of_them]["state"], after[none_of_them]["split"]) == ("held", before[none_of_them]["split"])
    assert {n: r for n, r in after.items() if n not in asked} == {n: r for n, r in before.items() if n not in asked}

    register = Register.read(services.workspace.root / services.workspace.params.paths.manifest).table.to_pylist()
    assert [(entry["image_id"], entry["reason"], entry["source"]) for entry in register] == [
        (none_of_them, "no-class", "audit")
    ]
    assert lineage.tasks_of(services.database, [none_of_them])[0].exported_in == version
    assert learn(services) == version  # nothing new was said

    again = audit(services)
    assert again["metrics"]["images"] == audited["metrics"]["images"] - 1
    still = export_tasks(services, tmp_path / "more.csv", queue="audit", form="csv", images=None)
    with (tmp_path / "more.csv").open(encoding="utf-8", newline="") as file:
        assert not {task["image_id"] for task in csv.DictReader(file)} & asked
    assert still["tasks"] == again["queue"]["open"]


def test_an_answer_about_an_image_that_is_gone_is_held_and_not_asked_for_ever(
    services: Services, digits: list[SourceItem]
) -> None:
    from components.operations.ingestion import ingest_items
    from components.operations.labelling import take_answers
    from components.records import LabelAnswer
    from components.store import ledger
    from components.store.labelling import tasks
    from components.store.queues.audit_queue import DoubtedLabel, ask_about, settled_doubts

    made = ingest_items(services, digits[:100], source="digits", now=NOW)
    ask_about(
        services.database, [DoubtedLabel("0" * 64, "1", "7", 0.1)], classes=made["classes"],
        dataset_version=made["dataset_version"], limit=5, now=NOW,
    )  # fmt: skip
    (task,) = tasks(services.database, "audit", None)
    take_answers(services, [LabelAnswer(task.task_id, "7", "ada", NOW)], now=NOW)

    assert learn(services) == made["dataset_version"]
    assert settled_doubts(services.database) == []
    (held,) = [row for row in ledger.history(services.database, 10) if row["action"] == "held"]
    assert "not in the dataset any more" in held["reason"]
