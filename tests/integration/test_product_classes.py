"""The class list through the command line: changed, with labels, answers given before and the champion carried over."""

from __future__ import annotations

import csv
import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

SCORED, CLOSED, ANSWERED = (f"2020-{day}T00:00:00+00:00" for day in ("05-10", "06-04", "06-05"))
NOISY = 400
HOSTILE = "<img src=x onerror=alert(1)> & three"


def labels_of(archive: Path) -> dict[str, str]:
    """Return the class folder of every file in an archive, by image id."""
    found = {}
    with tarfile.open(archive) as opened:
        for entry in opened:
            content = opened.extractfile(entry)
            assert content is not None
            found[hashlib.sha256(content.read()).hexdigest()] = entry.name.partition("/")[0]
    return found


def write_rows(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def manifest_rows(root: Path, *columns: str) -> list[tuple[Any, ...]]:
    from components.data.manifest import Manifest

    table = Manifest.read(root / "data" / "manifest.parquet").select()
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def test_classes_are_renamed_merged_and_split_and_nothing_said_before_is_lost(
    own_product: Any,
    perennial: Callable[..., Any],
    noisy_digits: Callable[[Path, int], Path],
    git: Callable[..., str],
    tmp_path: Path,
) -> None:
    root = own_product.root
    here = ("--workspace", str(root), "--json")

    def run(*arguments: str, code: int = 0) -> Any:
        done = perennial(*arguments, *here, patience=1200)
        assert done.code == code, f"{arguments}: {done.out}\n{done.err}"
        return done.json if code == 0 else done.err

    # People answer about images the dataset does not have; half of them before the classes change, half after.
    archive = noisy_digits(tmp_path / "scored.tar", NOISY)
    truth = labels_of(archive)
    known = {image_id for (image_id,) in manifest_rows(root, "image_id")}
    run("score", str(archive), "--at", SCORED)
    run("label", "draw", "--window", "2020-05", "--at", CLOSED)
    run("label", "export", str(tmp_path / "tasks.csv"))
    with (tmp_path / "tasks.csv").open(encoding="utf-8", newline="") as file:
        tasks = [(row["task_id"], row["image_id"]) for row in csv.DictReader(file)]
    header = ["task_id", "answer", "annotator", "answered_at"]
    answers = [[task, truth[image_id], "ada", ANSWERED] for task, image_id in tasks]
    run("label", "import", str(write_rows(tmp_path / "first.csv", header, answers[::2])), "--at", ANSWERED)

    before = run("classes")
    assert [c["name"] for c in before["classes"]] == [str(digit) for digit in range(10)]
    told = run("classes", "rename", "3", "three")
    assert not told["applied"]
    assert told["images"]["before"]["3"] == told["images"]["after"]["three"] == before["classes"][3]["images"]
    assert (told["tasks"][0]["open"], told["answers"]["waiting"]) == (len(tasks) - len(answers[::2]), len(answers[::2]))
    assert told["answers"]["renamed"] == sum(answer == "3" for _, answer, *_ in answers[::2])
    assert run("classes") == before

    renamed = run("classes", "rename", "3", "three", "--apply")
    merged = run("classes", "merge", "7", "9", "--into", "7", "--apply")
    run("classes", "display", "three", HOSTILE, "--apply")
    tags = [renamed["dataset_version"], merged["dataset_version"]]
    assert git(root, "tag", "--list", "data/*", "--sort=creatordate").split()[-2:] == tags
    published = git(root, "ls-remote", "--tags", "origin")
    assert all(f"refs/tags/{tag}" in published for tag in tags)
    names = ["0", "1", "2", "three", "4", "5", "6", "7", "8"]
    after = run("classes")
    assert [c["name"] for c in after["classes"]] == names
    assert after["classes"][3]["images"] == before["classes"][3]["images"]
    assert after["classes"][3]["display"] == HOSTILE
    both = [before["classes"][k]["images"] for k in (7, 9)]
    assert after["classes"][7]["images"] == {split: sum(one[split] for one in both) for split in both[0]}
    assert "'3' counts as 'three'" in after["champion"]["words"]
    assert "was a class before" in run("classes", "add", "3", "--apply", code=2)
    assert "was a class before" in run("ingest", str(archive), "--add-class", "9", code=2)

    # The champion goes on answering its own list: so do people, about its predictions.
    run("label", "import", str(write_rows(tmp_path / "second.csv", header, answers[1::2])), "--at", ANSWERED)
    run("monitor", "--window", "2020-05", "--at", "2020-06-20T00:00:00+00:00")
    level = {c["name"]: c["precision"] for c in run("reference", "show")["classes"]}
    renewal = run("retrain", "--force", "--reason", "the class list changed")
    ours = {"3": "three", "9": "7"}
    rows = {image_id: (label, origin) for image_id, label, origin in manifest_rows(root, "image_id", "label", "source")}
    arrived = {image_id: rows[image_id][0] for _, image_id in tasks if image_id not in known}
    assert len(arrived) > 100
    assert arrived == {image_id: ours.get(truth[image_id], truth[image_id]) for image_id in arrived}
    checks = {check["name"]: check for check in renewal["verdict"]["checks"]}
    assert "'3' counts as 'three'; '7', '9' count as '7'" in checks["class list"]["detail"]
    assert not [name for name in checks if name.startswith("new class")]
    assert checks["overall"]["numbers"]["champion"] > 0.8  # its 3s count as threes, its 9s as 7s
    assert renewal["verdict"]["class_list"] == {"changed": {"three": ["3"], "7": ["7", "9"]}, "unknown": []}
    version = renewal["version"]
    assert renewal["promoted"], renewal["verdict"]["reason"]
    # The reference goes with it: a renamed class keeps its level, a merged one has none until a window measures it.
    reference = run("reference", "show")
    held_to = {c["name"]: c["precision"] for c in reference["classes"]}
    assert held_to == {n: None if n == "7" else level["3" if n == "three" else n] for n in names}
    assert level["3"] is not None
    assert (reference["window"], reference["model_version"]) == ("2020-05", version)
    judged = run("monitor", "--window", "2020-05", "--at", "2020-06-21T00:00:00+00:00")
    assert [c["name"] for c in judged[0]["classes"]] == [str(digit) for digit in range(10)]  # the old champion's own
    assert "no-reference" not in {c["state"] for c in judged[0]["classes"]}
    with_models = run("history", "--kind", "classes", "--limit", "10")
    assert [entry["action"] for entry in with_models] == ["display", "merge", "rename"]

    # A split needs a list that holds the frozen test set; the rest keeps the name.
    eights = [(i, split) for i, label, split in manifest_rows(root, "image_id", "label", "split") if label == "8"]
    frozen = [image_id for image_id, split in eights if split == "frozen_test"]
    listed = [[image_id, "snowman"] for image_id, split in eights if split != "frozen_test"][::2]
    short = write_rows(tmp_path / "short.csv", ["image", "class"], listed)
    refused = run("classes", "split", "8", "--by", str(short), "--apply", code=3)
    assert f"{len(frozen)} images labelled '8' in the frozen test set are not in the list" in refused
    whole = [*listed, *([image_id, "snowman" if n % 2 else "8"] for n, image_id in enumerate(frozen))]
    split = run(
        "classes", "split", "8", "--by", str(write_rows(tmp_path / "by.csv", ["image", "class"], whole)), "--apply"
    )
    assert split["images"]["after"]["snowman"]["frozen_test"] == len(frozen) // 2
    last = run("classes")
    assert [c["name"] for c in last["classes"]] == [*names, "snowman"]
    assert last["champion"]["unknown"] == ["8", "snowman"]
    assert len(last["changes"]) == 3

    answers_are_carried_and_the_card_is_text(root, version)
    back = run("rollback", "--reason", "to see")
    assert back["previous"] == version
    assert {c["name"]: c["precision"] for c in run("reference", "show")["classes"]} == {
        name: None if name in ("7", "9") else known for name, known in level.items()
    }


def answers_are_carried_and_the_card_is_text(root: Path, version: int) -> None:
    """The model card shows the display name as text; an answer about an unlisted eight is held with the reason."""
    from datetime import UTC, datetime

    from components.operations.carrying import older_lists
    from components.operations.services import open_services
    from components.settings import Settings
    from components.store import champions
    from components.store.labelling import SettledLabel

    moment = datetime(2020, 6, 5, tzinfo=UTC)

    def said(answer: str, image_id: str, by: int) -> SettledLabel:
        return SettledLabel(1, image_id, answer, "2020-05", by, answer, ("ada",), moment, moment, "s", 0, "accuracy")

    with open_services(root, Settings()) as opened:
        lists = older_lists(opened, root, opened.workspace.params)
        assert lists.carry(said("3", "0" * 64, 1)).name == "three"
        assert lists.carry(said("three", "0" * 64, version)).name == "three"
        held = lists.carry(said("8", "0" * 64, 1))
        assert held.name is None
        assert "was split into '8', 'snowman', and this image is not in the list" in held.why
        assert champions.model(opened.database, version).classes[3] == "three"
        card = opened.registry.client.get_model_version(opened.registry.name, str(version)).description
        assert "<img" not in card
        assert "&lt;img src=x onerror=alert(1)&gt; &amp; three (three)" in card
