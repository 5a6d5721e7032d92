"""Images that carry any number of the classes, from lists to the manifest, its splits, changes and corrections."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolatedDecoder
from components.data.ingestion.class_changes import Merge, Rename, Split, applied
from components.data.ingestion.ingest import IngestReport, ingest
from components.data.label_sets import decode, encode, indicators, parse
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.sources.columns import ColumnNames
from components.data.sources.item import SourceItem
from components.data.sources.opening import list_source, open_source
from components.data.sources.preview import preview
from components.errors import ConfigurationError, DataError
from components.params import Data, Params

PARAMS = Params(data=Data(several=True, near_distance=0))
LIMITS = ImageLimits.of(PARAMS.data)
SEVERAL = ColumnNames(several=True)


def picture(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8))


def items(*labels: str, first: int = 0, **more: str) -> list[SourceItem]:
    return [SourceItem(f"{n}.png", picture(n), label, **more) for n, label in enumerate(labels, first)]  # type: ignore[arg-type]


def taken(root: Path, decoder: IsolatedDecoder, given: list[SourceItem], **more: object) -> IngestReport:
    return ingest(given, root=root, params=more.pop("params", PARAMS), source="s", decoder=decoder, **more)  # type: ignore[arg-type]


def stored(root: Path) -> Manifest:
    return Manifest.read(root / PARAMS.paths.manifest)


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)))
def test_a_set_of_any_names_survives_its_text_whatever_its_order(names: set[str]) -> None:
    assert set(decode(encode(names))) == names
    assert encode(sorted(names, reverse=True)) == encode(names)
    assert parse(encode(names)) == encode(names)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Bag | Coat", ["Bag", "Coat"]),
        ("Coat|Bag|Coat", ["Bag", "Coat"]),
        ("", []),
        ("[]", []),
        ('["a | b"]', ["a | b"]),
        ("Bag", ["Bag"]),
    ],
)
def test_people_write_sets_with_bars_or_as_json(written: str, meant: list[str]) -> None:
    assert list(decode(parse(written))) == meant


def test_an_empty_name_between_bars_is_refused() -> None:
    with pytest.raises(DataError, match="hold an empty one"):
        parse("Bag || Coat")


def write(folder: Path, kind: str, labels: list[list[str] | None]) -> Path:
    path = folder / f"list.{kind}"
    for number in range(len(labels)):
        (folder / f"{number}.png").write_bytes(picture(number))
    if kind == "csv":
        lines = [f"{n}.png,{' | '.join(some or [])}" for n, some in enumerate(labels)]
        path.write_text("\n".join(["path,label", *lines]))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps({"path": f"{n}.png", "label": some}) for n, some in enumerate(labels)))
    else:
        column = pa.array(labels, pa.list_(pa.string()))
        pq.write_table(pa.table({"path": [f"{n}.png" for n in range(len(labels))], "label": column}), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_lists_of_every_kind_say_sets_and_an_empty_one(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, [["Coat", "Bag"], ["Bag"], []])
    found = list(open_source(str(path), limits=LIMITS, cache=tmp_path, columns=SEVERAL))
    assert [item.label for item in found] == ['["Bag","Coat"]', '["Bag"]', "[]"]
    assert {item.problem for item in found} == {None}
    if kind != "csv":  # which is text like any other
        with pytest.raises(DataError, match=r"data\.several|not text or numbers"):
            list(open_source(str(path), limits=LIMITS, cache=tmp_path))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_that_says_nothing_is_no_empty_set(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, [["Bag"], None])
    found = list(open_source(str(path), limits=LIMITS, cache=tmp_path, columns=SEVERAL))
    assert [item.label for item in found] == ['["Bag"]', None]


def test_hostile_lists_cost_their_rows_and_huge_shared_texts_the_list(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    rows = [["Bag", ""], ["Bag", 3], [["Bag"]], {"Bag": 1}, ["x" * 40_000]]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(json.dumps({"path": f"{n}.png", "label": row}) for n, row in enumerate(rows)))
    found = {
        i.name: (i.label, i.problem) for i in open_source(str(path), limits=LIMITS, cache=tmp_path, columns=SEVERAL)
    }
    assert found["1.png"] == ('["3","Bag"]', None)
    assert {problem for name, (_, problem) in found.items() if name != "1.png"} == {"bad-label"}
    long = pa.array([["x" * 40_000]] * 20, pa.list_(pa.string()))
    pq.write_table(pa.table({"path": [f"{n}.png" for n in range(20)], "label": long}), tmp_path / "long.parquet")
    with pytest.raises(DataError, match="holds a text of 40000 bytes"):
        list(open_source(str(tmp_path / "long.parquet"), limits=LIMITS, cache=tmp_path, columns=SEVERAL))


def test_images_come_in_with_their_sets_and_folders_give_one_label(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    report = taken(tmp_path, decoder, items('["Coat","Bag"]', "[]", "Bag"))
    assert (report.added, report.classes) == (3, ("Bag", "Coat"))
    manifest = stored(tmp_path)
    assert manifest.several
    assert sorted(manifest.table["label"].to_pylist()) == ['["Bag","Coat"]', '["Bag"]', "[]"]
    total = {name: sum(of[name] for of in manifest.counts().values()) for name in manifest.classes}
    assert total == {"Bag": 2, "Coat": 1}
    assert manifest.of_class(manifest.table, "Coat")["label"].to_pylist() == ['["Bag","Coat"]']
    assert indicators(["[]", '["Bag","Coat"]', '["Coat"]'], manifest.classes).tolist() == [[0, 0], [1, 1], [0, 1]]
    again = taken(tmp_path, decoder, items('["Bag","Coat"]', "[]", '["Bag"]'))
    assert (again.added, again.duplicates, again.changed) == (0, 3, False)
    other = taken(tmp_path, decoder, items('["Coat"]'))
    assert other.reasons == {"label-conflict": 1}
    with pytest.raises(ConfigurationError, match="label 'Cot' is not in the class list"):
        taken(tmp_path, decoder, items('["Bag","Cot"]', first=9))


def test_what_people_say_corrects_a_set(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    taken(tmp_path, decoder, items(*['["Bag","Coat"]'] * 8))
    row = next(row for row in stored(tmp_path).table.to_pylist() if row["split"] == "train")
    said = SourceItem(row["name"], picture(int(row["name"][:-4])), '["Coat"]', label_origin="consensus")
    assert taken(tmp_path, decoder, [said]).corrected == 1
    after = {r["image_id"]: r for r in stored(tmp_path).table.to_pylist()}[row["image_id"]]
    assert (after["label"], after["label_origin"], after["split"]) == ('["Coat"]', "consensus", "train")


def test_opinions_of_annotators_are_refused_in_words(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    with pytest.raises(ConfigurationError, match="opinions of annotators are not taken"):
        taken(tmp_path, decoder, items('["Bag"]', annotator="ada"))


def test_rare_labels_reach_every_split(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    rng = np.random.default_rng(3)
    sets = [encode(["common", *(["rare"] if n % 25 == 0 else []), *([f"c{rng.integers(3)}"])]) for n in range(200)]
    taken(tmp_path, decoder, items(*sets))
    counts = stored(tmp_path).counts()
    assert [counts[split]["rare"] for split in ("train", "validation", "frozen_test")] == [6, 1, 1]


def test_a_workspace_keeps_to_one_kind_of_labels(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    taken(tmp_path, decoder, items('["Bag"]', '["Coat"]'))
    with pytest.raises(ConfigurationError, match=r"data.several is false, but the images .* any number of labels"):
        taken(tmp_path, decoder, items("Bag", first=5), params=Params())


def test_classes_are_renamed_and_merged_in_every_set_and_not_split(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    taken(tmp_path, decoder, items('["Bag","Coat"]', "[]", '["Coat","Shirt"]'))
    manifest = stored(tmp_path)
    renamed = applied(manifest, Rename("Coat", "Anorak"))
    assert sorted(renamed.table["label"].to_pylist()) == ['["Anorak","Bag"]', '["Anorak","Shirt"]', "[]"]
    merged = applied(manifest, Merge(("Coat", "Shirt"), "Top"))
    assert sorted(merged.table["label"].to_pylist()) == ['["Bag","Top"]', '["Top"]', "[]"]
    with pytest.raises(ConfigurationError, match="cannot be split"):
        applied(manifest, Split("Coat", ("A", "B"), None, {}))


def test_a_manifest_of_one_label_each_says_nothing_of_several(tmp_path: Path) -> None:
    single = Manifest.from_rows([{"image_id": "a" * 64, "label": "Bag", "state": "active"}], ("Bag",))
    single.write(tmp_path / "m.parquet")
    assert b"perennial.several" not in (pq.read_schema(tmp_path / "m.parquet").metadata or {})
    assert not Manifest.read(tmp_path / "m.parquet").several
    assert replace(single, several=True).digest() != single.digest()


def test_a_preview_counts_each_label_of_a_set(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    path = write(tmp_path, "jsonl", [["Coat", "Bag"], ["Bag"], [], ["Cot"]])
    entries = list_source(str(path), limits=LIMITS, cache=tmp_path, columns=SEVERAL)
    found = preview(entries, classes=("Bag", "Coat"), decoder=decoder, several=True)
    assert found.classes == {"Bag": 2, "Coat": 1, "Cot": 1}
    assert [one.label for one in found.unknown or ()] == ["Cot"]
