"""From a doubted label to people and back: asked by the audit, answered in a file, learnt at the next retraining."""

from __future__ import annotations

import csv
import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

NEW, WRONG = 300, 40


def with_wrong_labels(archive: Path, write: Callable[..., Path], to: Path) -> tuple[Path, dict[str, str]]:
    """Return an archive in which the last images lie in the next digit's folder, and the truth of all by image id."""
    files, truth = [], {}
    with tarfile.open(archive) as opened:
        for number, entry in enumerate(opened):
            content = opened.extractfile(entry)
            assert content is not None
            held = content.read()
            label, name = entry.name.split("/")
            truth[hashlib.sha256(held).hexdigest()] = label
            files.append((f"{(int(label) + 1) % 10 if number >= NEW - WRONG else label}/{name}", held))
    return write(to, files), truth


def manifest_rows(root: Path) -> dict[str, dict[str, Any]]:
    from components.data.manifest import Manifest

    return {row["image_id"]: row for row in Manifest.read(root / "data" / "manifest.parquet").table.to_pylist()}


def test_people_correct_what_the_audit_doubts(
    own_product: Any,
    perennial: Callable[..., Any],
    noisy_digits: Callable[[Path, int], Path],
    archive: Callable[..., Path],
    tmp_path: Path,
) -> None:
    root = own_product.root
    here = ("--workspace", str(root), "--json")

    def run(*arguments: str) -> Any:
        done = perennial(*arguments, *here, patience=1200)
        assert done.code == 0, f"{arguments}: {done.out}\n{done.err}"
        return done.json

    incoming, truth = with_wrong_labels(noisy_digits(tmp_path / "right.tar", NEW), archive, tmp_path / "incoming.tar")
    run("ingest", str(incoming))
    before = manifest_rows(root)
    wrong = {name for name, label in truth.items() if before[name]["label"] != label}
    learnt = {name for name in wrong if before[name]["split"] in ("train", "validation")}
    assert len(learnt) > WRONG / 2

    audited = run("audit")
    assert audited["queue"]["open"] == audited["queue"]["added"] <= audited["metrics"]["suspects"]
    run("label", "export", str(tmp_path / "tasks.csv"), "--queue", "audit", "--images", str(tmp_path / "images"))
    with (tmp_path / "tasks.csv").open(encoding="utf-8", newline="") as file:
        tasks = list(csv.DictReader(file))
    assert len(tasks) == audited["queue"]["open"]
    asked = {task["image_id"] for task in tasks}
    assert len(asked & learnt) > len(learnt) / 2
    for task in tasks:  # the picture, and neither of the labels in question
        assert hashlib.sha256(Path(task["image"]).read_bytes()).hexdigest() == task["image_id"]
        assert task["choices"].split(" | ") == [*map(str, range(10)), "other", "unsure", "bad-image"]

    none_of_them = next(iter(asked & learnt))
    known = {**{name: row["label"] for name, row in before.items()}, **truth, none_of_them: "other"}
    with (tmp_path / "answers.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [[task["task_id"], known[task["image_id"]], "ada", "2026-01-01T12:00:00Z"] for task in tasks]
        csv.writer(file).writerows([["task_id", "answer", "annotator", "answered_at"], *rows])
    assert run("label", "import", str(tmp_path / "answers.csv"))["settled"] == len(tasks)

    renewal = run("retrain", "--reason", "labels were corrected", "--force")
    after = manifest_rows(root)
    for name in asked - {none_of_them}:
        said = (after[name]["label"], after[name]["label_origin"], after[name]["labelled_by"], after[name]["state"])
        assert said == (known[name], "consensus", "ada", "active")
        assert after[name]["split"] == before[name]["split"]
    assert (after[none_of_them]["state"], after[none_of_them]["split"]) == ("held", before[none_of_them]["split"])
    assert {n: r for n, r in after.items() if n not in asked} == {n: r for n, r in before.items() if n not in asked}

    held = run("quarantine", "list")
    assert [(entry["image_id"], entry["reason"]) for entry in held["files"]] == [(none_of_them, "no-class")]
    told = run("lineage", none_of_them)
    assert told["tasks"][0]["answers"][0]["answer"] == "other"
    assert told["tasks"][0]["exported_in"] == renewal["dataset_version"]
    still = {task["image_id"] for task in run("label", "queue", "--queue", "audit", "--limit", "1000")["tasks"]}
    assert not still & asked
