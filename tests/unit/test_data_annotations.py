"""Opinions of named annotators: how lists give them, what an ingest makes of them, and what becomes of them later."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.annotations import annotations_path, read_annotations, write_with_annotations
from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolatedDecoder
from components.data.erasure.following import OldVersion
from components.data.erasure.rewriting import recall_images
from components.data.ingestion.class_changes import Merge, Rename, Split, applied, carried_opinions
from components.data.ingestion.ingest import IngestReport, ingest
from components.data.ingestion.opinions import majority
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.sources.columns import ColumnNames
from components.data.sources.item import SourceItem
from components.data.sources.opening import list_source, open_source
from components.data.sources.preview import preview
from components.errors import ConfigurationError, IntegrityError
from components.params import Data, Params

PARAMS = Params(data=Data(near_distance=0))
LIMITS = ImageLimits.of(PARAMS.data)
HOSTILE = '<img src=x onerror="alert(1)">'
Said = dict[tuple[int, str], str]
FIRST: Said = {
    (0, "ada"): "cat", (0, "bob"): "cat", (0, HOSTILE): "dog",
    (1, "ada"): "dog", (1, "bob"): "cat", (1, HOSTILE): "dog",
    (2, "ada"): "dog",
    (3, "ada"): "cat", (3, "bob"): "dog",
}  # fmt: skip


def content(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8))


def image_id(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def said_items(said: Said) -> Iterator[SourceItem]:
    for (number, annotator), label in said.items():
        yield SourceItem(f"{number}.png", content(number), label, annotator=annotator)


class Dataset:
    """A dataset in a folder, seen by the numbers of its images."""

    def __init__(self, root: Path, decoder: IsolatedDecoder) -> None:
        self.root, self.path, self._decoder = root, root / PARAMS.paths.manifest, decoder

    def take(self, items: Any, **options: Any) -> IngestReport:
        items = said_items(items) if isinstance(items, dict) else items
        return ingest(items, root=self.root, params=PARAMS, source="test", decoder=self._decoder, **options)

    @property
    def manifest(self) -> Manifest:
        return Manifest.read(self.path)

    def labels(self) -> dict[int, tuple[str, str]]:
        rows = {row["image_id"]: (row["label"], row["label_origin"]) for row in self.manifest.table.to_pylist()}
        return {number: rows[image_id(number)] for number in range(20) if image_id(number) in rows}

    def opinions(self) -> Said:
        numbers = {image_id(number): number for number in range(20)}
        table = read_annotations(self.manifest, self.path).to_pylist()
        return {(numbers[row["image_id"]], row["annotator"]): row["label"] for row in table}

    def put_into(self, split: str, number: int) -> None:
        rows = [
            row | ({"split": split} if row["image_id"] == image_id(number) else {})
            for row in self.manifest.table.to_pylist()
        ]
        moved = Manifest.from_rows(rows, self.manifest.classes)
        replace(moved, annotations=self.manifest.annotations).write(self.path)

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.root)): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}


@pytest.fixture
def dataset(tmp_path: Path, decoder: IsolatedDecoder) -> Dataset:
    return Dataset(tmp_path, decoder)


@pytest.fixture
def first(dataset: Dataset) -> Dataset:
    dataset.take(FIRST)
    return dataset


def test_what_annotators_say_is_kept_and_most_of_them_decide_the_label(dataset: Dataset) -> None:
    report = dataset.take(FIRST)

    assert dataset.opinions() == FIRST
    assert {number: label for number, (label, _) in dataset.labels().items() if number < 3} == {
        0: "cat", 1: "dog", 2: "dog",
    }  # fmt: skip
    assert {origin for _, origin in dataset.labels().values()} == {"opinions"}
    assert (report.added, report.held, report.duplicates) == (4, 0, 0)
    assert report.opinions == {
        "given": 9, "images": 4, "annotators": 3, "new": 9, "revised": 0, "contradicted": 0, "ties": 1, "frozen": 0,
    }  # fmt: skip


def test_the_same_opinions_in_any_order_give_the_same_bytes_and_again_change_nothing(
    first: Dataset, tmp_path_factory: pytest.TempPathFactory, decoder: IsolatedDecoder
) -> None:
    before = first.files()
    other = Dataset(tmp_path_factory.mktemp("other"), decoder)
    ordered = sorted(FIRST.items(), key=lambda entry: (entry[0][0], entry[0][1][::-1]), reverse=True)
    other.take(dict(ordered))
    again = first.take(FIRST)

    assert other.labels() == first.labels()
    assert annotations_path(other.path).read_bytes() == annotations_path(first.path).read_bytes()
    assert not again.changed
    assert again.opinions["new"] == 0
    assert first.files() == before


def test_ties_are_broken_without_favour_and_never_against_the_stored_label() -> None:
    ids = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    counted = Counter(majority(one, ["cat", "dog"]).label for one in ids)

    assert min(counted.values()) > 70
    assert all(majority(one, ["cat", "dog"]) == majority(one, ["dog", "cat"]) for one in ids)
    assert all(majority(one, ["cat", "dog"], "dog").label == "dog" for one in ids)
    assert all(majority(one, ["cat", "dog", "cat"], "dog").label == "cat" for one in ids)


@pytest.mark.parametrize("frozen", [False, True])
def test_later_opinions_move_the_majority_but_no_label_that_people_settled_or_that_is_frozen(
    first: Dataset, frozen: bool
) -> None:
    first.put_into("frozen_test" if frozen else "train", 0)
    given = [SourceItem("10.png", content(10), "cat")]
    first.take(given)
    first.take([SourceItem("2.png", content(2), "dog", label_origin="consensus", labelled_by="eve")], production=True)
    report = first.take(
        {(number, who): label for number, label in ((0, "dog"), (2, "cat"), (10, "dog")) for who in ("cyd", "dan")}
    )

    assert first.labels()[0] == ("cat" if frozen else "dog", "opinions")
    assert first.labels()[2] == ("dog", "consensus")
    assert first.labels()[10] == ("cat", "given")
    assert (report.corrected, report.opinions["frozen"], report.held) == (int(not frozen), int(frozen), 0)
    assert len(first.opinions()) == len(FIRST) + 6


def test_the_last_opinion_of_a_person_counts_and_contradictions_are_told(first: Dataset) -> None:
    rows = [SourceItem("0.png", content(0), label, annotator="ada") for label in ("dog", "cat", "dog")]
    report = first.take(rows)

    assert first.opinions()[0, "ada"] == "dog"
    assert (report.opinions["contradicted"], report.opinions["revised"], report.opinions["new"]) == (2, 1, 0)


def test_an_unknown_class_refuses_the_ingest_and_a_recalled_image_takes_no_opinion(first: Dataset) -> None:
    before = first.files()
    with pytest.raises(ConfigurationError, match="label 'dgo' is not in the class list"):
        first.take({(1, "cyd"): "cat", (2, "cyd"): "dgo"})
    assert first.files() == before
    recall_images(first.root, PARAMS.paths, [image_id(0)], "asked", purge=True)

    assert first.opinions() == {key: label for key, label in FIRST.items() if key[0] != 0}
    report = first.take({(0, "ada"): "cat", (0, "bob"): "cat"})
    assert (report.reasons, report.changed) == ({"recalled": 2}, False)


def test_an_old_version_comes_without_the_opinions_on_images_erased_since(first: Dataset) -> None:
    first.take({(5, "ada"): "cat"})
    gone = next(row for row in first.manifest.table.to_pylist() if row["image_id"] == image_id(1))
    (first.root / ".dvc").mkdir()
    told = OldVersion(first.root, PARAMS.paths, {gone["shard"]: None}).finish()

    assert image_id(1) in told
    assert first.opinions() == {(5, "ada"): "cat"}


def test_a_crash_between_manifest_and_opinions_leaves_both_old_or_both_new(
    first: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", _dying_at(".annotations", Path.replace))
    with pytest.raises(KeyboardInterrupt):
        first.take({(2, "bob"): "cat", (2, "cyd"): "cat"})
    monkeypatch.undo()
    assert first.opinions() == FIRST | {(2, "bob"): "cat", (2, "cyd"): "cat"}  # the manifest was there: new

    monkeypatch.setattr(Manifest, "write", _dying)
    with pytest.raises(KeyboardInterrupt):
        first.take({(1, "bob"): "dog"})
    monkeypatch.undo()
    assert first.opinions()[1, "bob"] == "cat"
    first.take({(1, "bob"): "dog"})
    assert first.opinions()[1, "bob"] == "dog"
    assert not list(first.path.parent.glob(".*"))

    annotations_path(first.path).write_bytes(b"other")
    with pytest.raises(IntegrityError, match="dvc checkout"):
        first.opinions()


def _dying(*_: Any) -> None:
    raise KeyboardInterrupt


def _dying_at(name: str, real: Any) -> Any:
    def replace(path: Path, target: Path) -> Any:
        if path.name.startswith(name):
            raise KeyboardInterrupt
        return real(path, target)

    return replace


def test_renamed_merged_and_split_classes_carry_the_opinions(first: Dataset) -> None:
    def after(change: Any) -> tuple[Said, int]:
        table, lost = carried_opinions(read_annotations(first.manifest, first.path), change)
        changed = write_with_annotations(applied(first.manifest, change), table, first.path)
        assert changed.classes == first.manifest.classes
        return first.opinions(), lost

    assert after(Rename("cat", "kitten")) == ({key: "kitten" if was == "cat" else was for key, was in FIRST.items()}, 0)
    listed = {image_id(0): "tom", image_id(3): "queen"}
    opinions, lost = after(Split("kitten", ("tom", "queen"), None, listed))
    assert lost == 1  # of image 1 one annotator says cat, and the list has it not: nobody knows which
    assert (1, "bob") not in opinions
    assert {key: label for key, label in opinions.items() if label != "dog"} == {
        (0, "ada"): "tom", (0, "bob"): "tom", (3, "ada"): "queen",
    }  # fmt: skip
    assert set(after(Merge(("tom", "queen", "dog"), "pet"))[0].values()) == {"pet"}


def write_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            written = csv.DictWriter(file, rows[0])
            written.writeheader()
            written.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_lists_name_annotators_and_a_name_that_is_none_costs_its_row(tmp_path: Path, kind: str) -> None:
    names = ["ada", " bob ", HOSTILE, "", "x" * 201, "a\x00b", "a\u202eb", "Ame\u0301lie"]
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(content(number))
    rows = [{"path": "0.png", "species": "cat", "who": name} for name in names]
    path = write_list(tmp_path / f"list.{kind}", [*rows, {"path": "1.png", "species": "dog", "who": "ada"}])
    columns = ColumnNames.parse(["label=species", "annotator=who"])
    items = list(open_source(str(path), limits=LIMITS, cache=tmp_path, columns=columns))

    assert [item.annotator for item in items if item.problem is None] == ["ada", "bob", HOSTILE, "Am\u00e9lie", "ada"]
    assert Counter(item.problem for item in items if item.problem) == {"no-annotator": 1, "bad-annotator": 3}
    unlabelled = write_list(tmp_path / f"unlabelled.{kind}", [{"path": "0.png", "annotator": ""}])
    assert [item.problem for item in open_source(str(unlabelled), limits=LIMITS, cache=tmp_path)] == [None]  # to score
    without = ColumnNames.parse(["label=species", "annotator="])
    assert {item.annotator for item in open_source(str(path), limits=LIMITS, cache=tmp_path, columns=without)} == {None}


def test_a_preview_counts_images_once_and_opinions_beside_them(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(content(number))
    rows = [{"path": f"{n}.png", "label": "cat", "annotator": who} for n in (0, 1) for who in ("ada", "bob", HOSTILE)]
    found = preview(
        list_source(str(write_list(tmp_path / "list.csv", rows)), limits=LIMITS, cache=tmp_path),
        classes=("cat",), decoder=decoder,
    )  # fmt: skip

    assert (found.files, found.usable, found.opinions, found.annotators) == (2, 2, 6, 3)
    assert found.bytes == len(content(0)) + len(content(1))
