"""Ingest: what comes in, what stays out, and what a second run or a crash leaves."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.data import manifest as manifest_module
from components.data import shards
from components.data.decoding.isolation import IsolatedDecoder
from components.data.ingestion.ingest import IngestReport, ingest
from components.data.ingestion.release import release
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.quarantine.kept_bytes import KeptBytes
from components.data.quarantine.register import REGISTER_FILE, Register
from components.data.shards import ShardReader
from components.data.sources.item import SourceItem
from components.errors import ConfigurationError, NoSpaceError
from components.params import Data, Params

PARAMS = Params(data=Data(shard_bytes=65_536))


def image(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8))


def item(number: int, label: str | None = None, **cells: Any) -> SourceItem:
    return SourceItem(f"{number:04d}.png", image(number), label or ("cat", "dog")[number % 2], **cells)


def items(*numbers: int) -> Iterator[SourceItem]:
    return (item(n) for n in numbers)


FIRST = range(240)


SHARED: list[IsolatedDecoder] = []


@pytest.fixture(scope="module", autouse=True)
def shared_decoder() -> Iterator[None]:
    """One decoder for every ingest with the usual limits: starting it takes longer than most of these tests."""
    with IsolatedDecoder.of(PARAMS.data) as decoder:
        SHARED.append(decoder)
        yield
        SHARED.clear()


def run(root: Path, source_items: Any, params: Params = PARAMS, **options: Any) -> IngestReport:
    decoder = SHARED[0] if SHARED and params is PARAMS else None
    return ingest(source_items, root=root, params=params, source="test", decoder=decoder, **options)


def stored(root: Path) -> Manifest:
    return Manifest.read(root / "data/manifest.parquet")


def row_of(root: Path, number: int) -> dict[str, Any]:
    image_id = hashlib.sha256(image(number)).hexdigest()
    return next(row for row in stored(root).table.to_pylist() if row["image_id"] == image_id)


def files(root: Path) -> dict[str, bytes]:
    """The files of the dataset itself; which files were set aside is told beside it."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != REGISTER_FILE]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def first_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("first")
    run(root, items(*FIRST))
    return files(root)


@pytest.fixture
def root(tmp_path: Path, first_files: dict[str, bytes]) -> Path:
    """A workspace with 240 images of two classes."""
    for name, content in first_files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def in_split(root: Path, split: str) -> int:
    """The number of one of the first images that lies in `split`."""
    splits = {row["image_id"]: row["split"] for row in stored(root).table.to_pylist()}
    return next(n for n in FIRST if splits[hashlib.sha256(image(n)).hexdigest()] == split)


def test_the_first_ingest_makes_shards_splits_and_the_class_list(tmp_path: Path) -> None:
    report = run(tmp_path, items(*FIRST))
    manifest = stored(tmp_path)
    reader = ShardReader(tmp_path / "data/images")

    assert (report.added, report.duplicates, report.quarantined, report.held) == (240, 0, 0, 0)
    assert report.changed
    assert report.classes == manifest.classes == ("cat", "dog")
    assert report.manifest_digest == manifest.digest()
    assert manifest.counts() == {
        "train": {"cat": 90, "dog": 90},
        "validation": {"cat": 15, "dog": 15},
        "frozen_test": {"cat": 15, "dog": 15},
    }
    assert len(manifest.table["shard"].unique()) > 1
    for row in manifest.table.to_pylist():
        reader.read_verified(row["shard"], row["row"], row["image_id"])


def test_the_same_ingest_gives_the_same_bytes(tmp_path: Path, first_files: dict[str, bytes]) -> None:
    run(tmp_path, items(*FIRST))

    assert files(tmp_path) == first_files


def test_ingesting_again_adds_nothing_and_changes_no_byte(root: Path, first_files: dict[str, bytes]) -> None:
    report = run(root, items(*FIRST))

    assert (report.added, report.duplicates, report.changed) == (0, 240, False)
    assert files(root) == first_files


def test_a_later_ingest_writes_only_what_is_new(root: Path, first_files: dict[str, bytes]) -> None:
    report = run(root, items(*range(200, 300)))
    now = files(root)

    assert (report.added, report.duplicates) == (60, 40)
    assert all(now[name] == content for name, content in first_files.items() if name.endswith(".arrow"))
    assert sum(name.endswith(".arrow") for name in now) == sum(name.endswith(".arrow") for name in first_files) + 1
    assert row_of(root, 299)["split"] in ("train", "validation", "test")
    assert sum(stored(root).counts()["frozen_test"].values()) == 30


def test_splits_of_stored_images_never_change(root: Path) -> None:
    before = {row["image_id"]: row["split"] for row in stored(root).table.to_pylist()}
    run(root, items(*range(1000, 1500)))
    run(root, (item(n) for n in range(2000, 2100)), production=True)
    after = {row["image_id"]: row["split"] for row in stored(root).table.to_pylist()}

    assert after.items() >= before.items()
    assert len(after) == 840


def test_bad_files_are_quarantined_with_the_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = [
        SourceItem("empty.png", b"", "cat"),
        SourceItem("text.png", b"hello", "cat"),
        SourceItem("cut.png", image(0)[:200], "cat"),
        SourceItem("small.png", encode_png(np.zeros((2, 2), np.uint8)), "cat"),
        SourceItem("../out.png", b"", "cat", problem="unsafe-path"),
        SourceItem("bare.png", image(1)),
        item(2, "cat"),
    ]
    report = run(tmp_path, bad)

    assert (report.added, report.quarantined) == (1, 6)
    assert [(entry.item_no, entry.name, entry.reason) for entry in report.set_aside] == [
        (0, "empty.png", "empty"),
        (1, "text.png", "not-an-image"),
        (2, "cut.png", "truncated"),
        (3, "small.png", "too-small"),
        (4, "../out.png", "unsafe-path"),
        (5, "bare.png", "no-label"),
    ]
    quarantined = stored(tmp_path).select(state="quarantined").to_pylist()
    assert sorted(row["reason"] for row in quarantined) == ["empty", "not-an-image", "too-small", "truncated"]
    assert {(row["shard"], row["row"], row["split"]) for row in quarantined} == {(None, None, None)}
    assert not run(tmp_path, bad).changed


def test_a_quarantined_image_comes_in_once_the_limits_allow_it(tmp_path: Path) -> None:
    small = SourceItem("small.png", encode_png(np.zeros((3, 3), np.uint8)), "cat")
    run(tmp_path, [small, item(1, "cat")])
    report = run(tmp_path, [small], Params(data=Data(min_side=3)))

    assert report.added == 1
    assert stored(tmp_path).table["state"].to_pylist() == ["active", "active"]


def test_a_class_seen_only_on_unusable_files_is_no_class(tmp_path: Path) -> None:
    report = run(tmp_path, [item(1, "cat"), SourceItem("x.png", b"rubbish", "ghost")])

    assert report.classes == ("cat",)


def test_the_first_thousand_files_set_aside_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    report = run(tmp_path, (SourceItem(str(n), b"", "cat", problem="unreadable") for n in range(1200)))

    assert len(report.set_aside) == 1000
    assert report.quarantined == report.reasons["unreadable"] == 1200
    assert files(tmp_path) == {}


def test_one_image_under_two_given_labels_keeps_the_first(root: Path) -> None:
    within = run(root, [item(500, "cat"), item(500, "dog")])
    across = run(root, [replace(item(0), label="dog")])

    assert (within.added, within.held) == (1, 1)
    assert (across.held, across.changed) == (1, False)
    assert within.set_aside[0].reason == across.set_aside[0].reason == "label-conflict"
    assert "stored as 'cat', now given as 'dog'" in across.set_aside[0].detail
    assert (row_of(root, 500)["label"], row_of(root, 0)["label"]) == ("cat", "cat")


@pytest.mark.parametrize(
    ("origin", "production", "becomes"),
    [("consensus", False, "consensus"), ("corrected", False, "corrected"), ("given", True, "corrected")],
)
def test_a_label_from_people_corrects_the_stored_one(root: Path, origin: str, production: bool, becomes: str) -> None:
    number = in_split(root, "train")
    other = {"cat": "dog", "dog": "cat"}[row_of(root, number)["label"]]
    before = row_of(root, number)
    correction = item(number, other, label_origin=origin, labelled_by="ann")
    report = run(root, [correction], production=production)

    assert (report.corrected, report.added, report.changed) == (1, 0, True)
    assert row_of(root, number) == {**before, "label": other, "label_origin": becomes, "labelled_by": "ann"}
    assert not run(root, [correction], production=production).changed


def test_people_who_agree_confirm_the_label(root: Path) -> None:
    number = in_split(root, "train")
    report = run(root, [item(number, label_origin="consensus", labelled_by="ann")])

    assert (report.corrected, report.duplicates, report.changed) == (0, 1, True)
    assert row_of(root, number)["label_origin"] == "consensus"


def test_the_frozen_test_set_is_never_changed(root: Path, first_files: dict[str, bytes]) -> None:
    number = in_split(root, "frozen_test")
    other = {"cat": "dog", "dog": "cat"}[row_of(root, number)["label"]]
    report = run(root, [item(number, other, label_origin="consensus"), item(number, label_origin="consensus")])

    assert (report.held, report.corrected, report.duplicates) == (1, 0, 1)
    assert report.set_aside[0].reason == "frozen-test"
    assert files(root) == first_files


def test_a_recalled_image_does_not_come_back(root: Path) -> None:
    manifest = stored(root)
    rows = [
        {**row, "state": "recalled"} if row["image_id"] == hashlib.sha256(image(3)).hexdigest() else row
        for row in manifest.table.to_pylist()
    ]
    Manifest.from_rows(rows, manifest.classes).write(root / "data/manifest.parquet")
    report = run(root, [item(3), item(3, "cat", label_origin="consensus")])

    assert (report.added, report.held, report.changed) == (0, 2, False)
    assert report.reasons == {"recalled": 2}


def test_production_labels_go_to_golden_training_and_validation_with_their_origin(root: Path) -> None:
    labelled = [
        item(n, label_origin="consensus", labelled_by="ann, bob", window="2026-10", model_version=3)
        for n in range(1000, 1400)
    ]
    run(root, labelled, production=True)
    rows = [row for row in stored(root).table.to_pylist() if row["window"] == "2026-10"]

    assert len(rows) == 400
    assert {row["split"] for row in rows} == {"golden", "train", "validation"}
    assert 50 < sum(row["split"] == "golden" for row in rows) < 110
    assert {(row["model_version"], row["labelled_by"], row["label_origin"]) for row in rows} == {
        (3, "ann, bob", "consensus")
    }


def test_alarmed_classes_get_the_larger_golden_share(root: Path) -> None:
    run(root, items(*range(1000, 1800)), production=True, alarmed_classes={"cat"})
    golden = stored(root).counts()["golden"]

    assert 160 < golden["cat"] < 240
    assert 50 < golden["dog"] < 110


def test_production_labels_before_any_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ingest the first labelled images"):
        run(tmp_path, [item(1)], production=True)
    assert files(tmp_path) == {}


def test_a_group_stays_in_one_split_over_all_ingests(root: Path) -> None:
    run(root, (item(n, group=f"patient {n % 20}") for n in range(1000, 1100)))
    run(root, (item(n, group=f"patient {n % 20}") for n in range(1100, 1200)), production=True)
    splits: dict[str, set[str]] = {}
    for row in stored(root).table.to_pylist():
        if row["group_id"].startswith("patient"):
            splits.setdefault(row["group_id"], set()).add(row["split"])

    assert len(splits) == 20
    assert all(len(of_group) == 1 for of_group in splits.values())
    assert len(set().union(*splits.values())) > 1


def test_a_group_takes_the_split_of_a_stored_image_that_belongs_to_it(root: Path) -> None:
    number = in_split(root, "validation")
    run(root, [item(number, group="patient"), *(item(n, group="patient") for n in range(1000, 1010))])

    assert {row_of(root, n)["split"] for n in range(1000, 1010)} == {"validation"}


def test_a_newcomer_to_a_group_of_the_frozen_test_set_is_held(root: Path) -> None:
    number = in_split(root, "frozen_test")
    report = run(root, [item(number, group="patient"), item(1000, group="patient"), item(1001)])

    assert (report.added, report.held) == (1, 1)
    assert (report.set_aside[0].reason, report.set_aside[0].detail) == (
        "frozen-group", "its group lies in the frozen test set",
    )  # fmt: skip
    assert row_of(root, 1000)["state"] == "held"
    assert sum(stored(root).counts()["frozen_test"].values()) == 30


def test_groups_that_share_an_image_within_one_ingest_take_one_split(root: Path) -> None:
    pairs = [(item(1000 + n, group=f"g{n}"), item(1000 + n, group=f"g{n + 1}")) for n in range(20)]
    report = run(root, [member for pair in pairs for member in pair])

    assert (report.added, report.duplicates) == (20, 20)
    assert len({row_of(root, 1000 + n)["split"] for n in range(20)}) == 1


def picture(number: int, scale: int = 1) -> bytes:
    """A picture with shapes; `scale` makes the same one larger, in other bytes."""
    small = np.random.default_rng(number).integers(0, 256, (6, 6), dtype=np.uint8)
    return encode_png(np.kron(small, np.ones((4 * scale, 4 * scale), np.uint8)))


def pictures(numbers: range, scale: int = 1, labels: str = "ab") -> list[SourceItem]:
    return [SourceItem(f"{n}-{scale}.png", picture(n, scale), labels[n % len(labels)]) for n in numbers]


def by_name(root: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in stored(root).table.to_pylist()}


def test_near_duplicates_share_a_group_and_a_split(tmp_path: Path) -> None:
    report = run(tmp_path, [*pictures(range(60)), *pictures(range(30), 2)])
    rows = by_name(tmp_path)

    assert (report.added, report.near_duplicates, report.near_conflicts) == (90, 60, 0)
    for n in range(60):
        assert n >= 30 or rows[f"{n}-1.png"]["group_id"] == rows[f"{n}-2.png"]["group_id"]
        assert n >= 30 or rows[f"{n}-1.png"]["split"] == rows[f"{n}-2.png"]["split"]
    assert len({row["group_id"] for row in rows.values()}) == 60
    assert len({row["split"] for row in rows.values()}) == 3


def test_a_newcomer_joins_the_group_of_the_stored_image_it_looks_like(tmp_path: Path) -> None:
    run(tmp_path, pictures(range(60)))
    before = by_name(tmp_path)
    report = run(tmp_path, pictures(range(30), 2, labels="ba"))
    rows = by_name(tmp_path)
    frozen = [n for n in range(30) if before[f"{n}-1.png"]["split"] == "frozen_test"]

    assert (report.near_duplicates, report.near_conflicts) == (30, 30)
    assert report.held == len(frozen) > 0
    for n in range(30):
        twin, newcomer = before[f"{n}-1.png"], rows[f"{n}-2.png"]
        assert rows[f"{n}-1.png"] == twin
        if n in frozen:
            assert (newcomer["state"], newcomer["split"]) == ("held", None)
        else:
            assert (newcomer["group_id"], newcomer["split"]) == (twin["group_id"], twin["split"])


def test_shards_from_before_descriptors_are_searched_too(tmp_path: Path) -> None:
    run(tmp_path, pictures(range(20)))
    manifest, images = stored(tmp_path), tmp_path / "data/images"
    (shard,) = manifest.table["shard"].unique().to_pylist()
    reader = ShardReader(images)
    ids = reader.column(shard, "image_id").to_pylist()
    shards.write_shard(images, [(image_id, reader.read(shard, row)) for row, image_id in enumerate(ids)], shard)
    report = run(tmp_path, pictures(range(10), 2))

    assert report.near_duplicates == 10


def test_an_image_that_joins_two_splits_is_held_with_its_pixels(root: Path) -> None:
    train, test = in_split(root, "train"), in_split(root, "frozen_test")
    report = run(root, [item(train, group="x"), item(test, group="x"), item(1000, group="x"), item(1001)])
    held = row_of(root, 1000)

    assert (report.added, report.held, report.duplicates) == (1, 1, 2)
    assert report.set_aside[0].reason == "group-conflict"
    assert (held["state"], held["split"], held["reason"]) == ("held", None, "group-conflict: frozen_test and train")
    ShardReader(root / "data/images").read_verified(held["shard"], held["row"], held["image_id"])
    assert not run(root, [item(1000, group="x")]).changed


def test_an_unknown_label_is_an_error_that_names_the_nearest_class_and_writes_nothing(
    root: Path, first_files: dict[str, bytes]
) -> None:
    many = [*items(*range(1000, 1300)), item(1300, "dogg")]

    with pytest.raises(ConfigurationError, match=r"test: 1300.png: label 'dogg'.*nearest is 'dog'.*--add-class 'dogg'"):
        run(root, many)
    assert files(root) == first_files


def test_an_added_class_goes_to_the_end_of_the_list(root: Path) -> None:
    assert run(root, [item(1000, "ant")], add_classes=["ant"]).classes == ("cat", "dog", "ant")
    assert not run(root, [item(1000, "ant")], add_classes=["ant"]).changed


def test_declared_classes_are_the_list_from_the_start(tmp_path: Path) -> None:
    declared = Params(data=Data(classes=("dog", "cat", "bee")))

    assert run(tmp_path, items(1, 2), declared).classes == ("dog", "cat", "bee")
    with pytest.raises(ConfigurationError, match="'cow' is not in the class list"):
        run(tmp_path / "other", [item(1, "cow")], declared)
    with pytest.raises(ConfigurationError, match="leaves out 'bee', which has images"):
        run(tmp_path, items(3), Params(data=Data(classes=("dog", "cat"))))
    with pytest.raises(ConfigurationError, match="names 'dog' twice"):
        run(tmp_path / "twice", items(3), Params(data=Data(classes=("dog", "dog"))))


@pytest.mark.parametrize(
    "label", ["", " cat", "a\x00b", "a\nb", "\u202egod", "\ud800", "x" * 201, "other", "UNSURE", "bad-image"]
)
def test_an_unusable_class_name_is_refused_and_nothing_is_written(tmp_path: Path, label: str) -> None:
    with pytest.raises(ConfigurationError, match="class name"):
        run(tmp_path, [item(1, "cat"), replace(item(2), label=label)])
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "label", ["'); DROP TABLE label;--", "<script>alert(1)</script>", "می‌خواهم", "T-shirt/top", "😀"]
)
def test_strange_class_names_are_kept_as_they_are(tmp_path: Path, label: str) -> None:
    assert run(tmp_path, [item(1, label), item(2, "cat")]).classes == tuple(sorted([label, "cat"]))


def test_two_spellings_of_the_same_letters_are_one_class(tmp_path: Path) -> None:
    assert run(tmp_path, [item(1, "caf\u00e9"), item(2, "cafe\u0301")]).classes == ("caf\u00e9",)


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    naive = datetime(2026, 10, 5)  # noqa: DTZ001 - what is refused
    with pytest.raises(ConfigurationError, match="has no zone"):
        run(tmp_path, [item(1, captured_at=naive)])
    run(tmp_path, [item(1, captured_at=naive.replace(tzinfo=UTC))])
    assert row_of(tmp_path, 1)["captured_at"] == naive.replace(tzinfo=UTC)


def test_a_source_that_breaks_off_changes_nothing(root: Path, first_files: dict[str, bytes]) -> None:
    def broken() -> Iterator[SourceItem]:
        yield from items(*range(1000, 1300))
        raise RuntimeError("cable pulled")

    with pytest.raises(RuntimeError):
        run(root, broken())
    assert files(root) == first_files


def test_a_full_disk_at_the_manifest_leaves_the_old_state(
    root: Path, first_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest_module, "publish", full)
    with pytest.raises(NoSpaceError, match=r"No space left.*free some space"):
        run(root, items(*range(1000, 1300)))
    assert files(root) == first_files


CRASH = """
import os, runpy, sys
from pathlib import Path
from components.data import files, manifest, shards
tests = runpy.run_path(sys.argv[3])
publish, left = files.publish, [int(sys.argv[2])]
def crashing(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os._exit(137)
    publish(*arguments)
manifest.publish = shards.publish = crashing
tests["run"](Path(sys.argv[1]), tests["items"](*range(240, 540)))
"""


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_a_killed_ingest_leaves_the_old_state_and_the_next_one_finishes_with_the_same_bytes(
    root: Path, tmp_path_factory: pytest.TempPathFactory, survivors: int
) -> None:
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    run(undisturbed, items(*FIRST))
    run(undisturbed, items(*range(240, 540)))
    digest = stored(root).digest()
    command = [sys.executable, "-c", CRASH, str(root), str(survivors), __file__]
    killed = subprocess.run(command, check=False, capture_output=True)

    assert killed.returncode == 137, killed.stderr
    assert stored(root).digest() == digest
    assert files(root) != files(undisturbed)
    run(root, items(*range(240, 540)))
    assert files(root) == files(undisturbed)


def test_the_report_is_json(tmp_path: Path) -> None:
    report = run(tmp_path, [item(1), SourceItem("x", b"x", "cat")])
    read = json.loads(json.dumps(report.as_json()))

    assert read["added"] == 1
    assert read["set_aside"][0]["name"] == "x"
    assert read["classes"] == ["dog"]


def verdict(number: int, label: str | None, by: str = "ann") -> SourceItem:
    """Return what people say of a stored image, or that it shows none of the classes."""
    image_id = hashlib.sha256(image(number)).hexdigest()
    return SourceItem(
        f"audit/{image_id}", b"", label, label_origin="consensus", labelled_by=by, image_id=image_id,
        no_class=label is None,
    )  # fmt: skip


def rows_by_id(root: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in Manifest.read(root / PARAMS.paths.manifest).table.to_pylist()}


def test_what_people_say_of_a_stored_image_takes_it_out_or_lets_it_in_again_unread(tmp_path: Path) -> None:
    run(tmp_path, items(*FIRST))
    learnt = [n for n in FIRST if rows_by_id(tmp_path)[hashlib.sha256(image(n)).hexdigest()]["split"] == "train"]
    confirmed, wrong, nothing = learnt[0], learnt[1], learnt[2]
    ids = [hashlib.sha256(image(n)).hexdigest() for n in (confirmed, wrong, nothing)]
    before = rows_by_id(tmp_path)
    said = [verdict(confirmed, before[ids[0]]["label"]), verdict(wrong, "cat" if wrong % 2 else "dog")]

    report = run(tmp_path, iter([*said, verdict(nothing, None)]), production=True)
    assert (report.added, report.corrected, report.held, report.reasons) == (0, 1, 1, {"no-class": 1})
    after = rows_by_id(tmp_path)
    assert [after[i]["label_origin"] for i in ids] == ["consensus", "consensus", "given"]
    assert after[ids[1]]["label"] != before[ids[1]]["label"]
    assert (after[ids[2]]["state"], after[ids[2]]["split"]) == ("held", "train")
    assert after[ids[2]]["reason"].startswith("no-class: ")
    assert {name: row for name, row in after.items() if name not in ids} == {
        name: row for name, row in before.items() if name not in ids
    }
    entry = pq.read_table(tmp_path / PARAMS.paths.manifest.replace("manifest.parquet", REGISTER_FILE)).to_pylist()
    assert [(row["image_id"], row["reason"], row["name"], row["labelled_by"]) for row in entry] == [
        (ids[2], "no-class", before[ids[2]]["name"], "ann")
    ]
    assert not run(tmp_path, iter([*said, verdict(nothing, None)]), production=True).changed

    again = run(tmp_path, iter([verdict(nothing, before[ids[2]]["label"], "ben")]), production=True)
    assert again.changed
    row = rows_by_id(tmp_path)[ids[2]]
    told = (row["state"], row["reason"], row["label_origin"], row["labelled_by"])
    assert told == ("active", None, "consensus", "ben")
    assert pq.read_table(tmp_path / PARAMS.paths.manifest.replace("manifest.parquet", REGISTER_FILE)).num_rows == 0


def test_the_frozen_test_set_and_unknown_images_are_not_taken_out_by_a_verdict(tmp_path: Path) -> None:
    run(tmp_path, items(*FIRST))
    rows = rows_by_id(tmp_path)
    frozen = next(n for n in FIRST if rows[hashlib.sha256(image(n)).hexdigest()]["split"] == "frozen_test")
    report = run(tmp_path, iter([verdict(frozen, None), verdict(9999, None)]), production=True)
    assert (report.changed, report.held) == (False, 0)


def test_an_image_that_people_took_out_is_let_in_again_by_a_release_into_its_own_split(tmp_path: Path) -> None:
    run(tmp_path, items(*FIRST))
    path = tmp_path / PARAMS.paths.manifest
    before = rows_by_id(tmp_path)
    number = next(n for n in FIRST if before[hashlib.sha256(image(n)).hexdigest()]["split"] == "train")
    image_id = hashlib.sha256(image(number)).hexdigest()
    run(tmp_path, iter([verdict(number, None)]), production=True)
    entries = Register.read(path).open(Manifest.read(path)).to_pylist()

    released = release(
        entries, root=tmp_path, params=PARAMS, kept=KeptBytes(str(tmp_path / "kept")), cache=tmp_path / "cache",
        label="cat", person="ada", at=datetime(2026, 11, 22, tzinfo=UTC), decoder=SHARED[0],
    )  # fmt: skip
    assert [(one.outcome, one.reason) for one in released.verdicts] == [("released", "no-class")]
    row = rows_by_id(tmp_path)[image_id]
    assert (row["state"], row["label"], row["split"], row["reason"]) == ("active", "cat", "train", None)
