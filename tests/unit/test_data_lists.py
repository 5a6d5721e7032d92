"""Lists of images: what a row can be wrong in costs the row, what the list is wrong in costs the list."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.png import encode_png
from components.data.sources import list_formats, lists
from components.data.sources.columns import ColumnNames, found_columns
from components.data.sources.opening import SourceItem, list_source, open_source
from components.errors import ConfigurationError, DataError

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
PNG = encode_png(np.zeros((8, 8), np.uint8))
KINDS = pytest.mark.parametrize("kind", ["csv", "jsonl", "ndjson", "parquet"])


def items_of(spec: object, *columns: str) -> list[SourceItem]:
    names = ColumnNames.parse(columns)
    return list(open_source(str(spec), limits=LIMITS, cache=Path("unused"), columns=names))


def put(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write(folder: Path, kind: str, *rows: dict[str, Any], name: str = "list") -> Path:
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif kind == "csv":
        lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@KINDS
def test_every_kind_of_list_gives_the_same(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "1.png", "a/2.png")
    path = write(
        tmp_path, kind,
        {"path": "a/2.png", "label": "dog", "group": "p1", "captured_at": "2026-10-05T14:00:00+02:00"},
        {"path": "1.png", "label": "cat", "group": None, "captured_at": None},
    )  # fmt: skip

    assert items_of(path) == [
        SourceItem("1.png", PNG, "cat"),
        SourceItem("a/2.png", PNG, "dog", "p1", datetime(2026, 10, 5, 12, tzinfo=UTC)),
    ]


@KINDS
def test_columns_are_mapped_by_name_and_further_ones_passed_over(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "1.png")
    path = write(tmp_path, kind, {"id": 7, "filename": "1.png", "species": "wren", "patient": "p", "width": 640})

    assert items_of(path, "path=filename", "label=species", "group=patient") == [SourceItem("1.png", PNG, "wren", "p")]


@pytest.mark.parametrize("path", ["path", "Path", "file_name", "filename", "file", "image", "image_path", "File Name"])
@pytest.mark.parametrize("label", ["label", "Label", "class", "category", "label_name"])
def test_common_names_of_columns_need_no_mapping(tmp_path: Path, path: str, label: str) -> None:
    put(tmp_path, "1.png")

    assert items_of(write(tmp_path, "csv", {path: "1.png", label: "cat", "notes": "x"})) == [
        SourceItem("1.png", PNG, "cat")
    ]


@pytest.mark.parametrize(
    ("header", "mapped", "message"),
    [
        (["species", "label"], [], "has no column 'path'; its columns are 'species', 'label'"),
        (["path", "lable"], [], "column 'lable' is not expected; did you mean 'label'.*--column label="),
        (["path", "labels"], [], "did you mean 'label'"),
        (["paths", "label"], [], "did you mean 'path'"),
        (["path", "catgory"], [], "did you mean 'category'"),
        (["path", "label", "groups"], [], "did you mean 'group'"),
        (["path", "label", "captured_att"], [], "did you mean 'captured_at'"),
        (["path", "class", "category"], [], "columns 'class', 'category' may each be the label"),
        (["file", "filename"], [], "may each be the path; say which with --column path=COLUMN"),
        (["path", "label", "label"], [], "column 'label' is there twice"),
        (["path", "species"], ["label=specie"], "no column 'specie', which --column label=… names; did you mean"),
        (["path"], ["label=x"], "no column 'x', .*its columns are 'path'"),
        (["path", *map(str, range(10_000))], [], "has 10001 columns"),
    ],
)
def test_a_list_whose_columns_do_not_say_enough_is_refused(header: list[str], mapped: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        found_columns(header, ColumnNames.parse(mapped), "list.csv")


@pytest.mark.parametrize(
    ("header", "mapped", "found"),
    [
        (["path", "file", "label", "class"], [], ("path", "label")),  # a column's own name comes before its aliases
        (["path", "groups", "classes", "id"], ["group=", "label="], ("path", None)),
        (["path", "label", "lable", "labels", "x", "x", "", ""], [], ("path", "label")),
        (["a", "path", "label"], ["path=a"], ("a", "label")),
        (["path", "captured_by"], [], ("path", None)),
    ],
)
def test_other_columns_are_passed_over(header: list[str], mapped: list[str], found: tuple[str, str | None]) -> None:
    columns = found_columns(header, ColumnNames.parse(mapped), "list.csv")

    assert (columns.path, columns.label) == found


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (["lable=x"], "'lable' is not what a list can say; did you mean 'label'"),
        (["species=label"], "known are path, label, group, captured_at"),
        (["label"], "names no column; write label=COLUMN"),
        (["path="], "names no column"),
        (["label=a", "label=b"], "given twice"),
    ],
)
def test_a_mapping_that_says_nothing_is_refused(mapping: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ColumnNames.parse(mapping)


@pytest.mark.parametrize("source", ["digits", "1.png"])
def test_columns_of_what_is_no_list_are_refused(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(put(tmp_path, "1.png", "cat/1.png"))

    with pytest.raises(ConfigurationError, match="no list; --column"):
        items_of(source, "label=x")
    with pytest.raises(DataError, match=r"holds no metadata.csv, .*--column"):
        items_of(tmp_path, "label=x")


def test_what_is_wrong_with_a_row_costs_that_row(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    path = tmp_path / "list.csv"
    lines = [
        "path,label,captured_at",
        "1.png,cat,",
        ",cat,",
        "2.png,a,b,c",
        "2.png,cat,2026-10-05T12:00:00",
        "3.png,cat,",
    ]
    path.write_text("\n".join([*lines, "../1.png,cat,", "", "2.png,dog,"]) + "\n", encoding="utf-8")

    assert [(item.name, item.problem, item.label) for item in items_of(path)] == [
        ("list.csv: row 2", "empty-path", None),
        ("list.csv: row 3", "bad-row", None),
        ("../1.png", "unsafe-path", "cat"),
        ("1.png", None, "cat"),
        ("2.png", "bad-time", None),
        ("2.png", None, "dog"),
        ("3.png", "missing-file", "cat"),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"label": "cat"}', "empty-path"),
        ('{"path": null}', "empty-path"),
        ('{"path": ["1.png"]}', "bad-row"),
        ('{"path": "1.png", "label": ["cat", "dog"]}', "bad-label"),
        ('{"path": "1.png", "label": {"a": 1}}', "bad-label"),
        ('{"path": "1.png", "label": "\\ud800"}', "bad-label"),
        ('{"path": "1.png", "label": "' + "x" * 40_000 + '"}', "bad-label"),
        ('{"path": "1.png", "group": {}}', "bad-row"),
        ('{"path": "1.png", "captured_at": 3}', "bad-time"),
        ('{"path": "1.png"', "bad-row"),
        ("[]", "bad-row"),
        ("[" * 100_000, "bad-row"),
        ('{"path": "1.png", "label": ' + "9" * 5000 + "}", "bad-row"),
    ],
    ids=lambda value: value[:40],
)
def test_a_line_of_json_that_is_no_row_costs_that_row(tmp_path: Path, line: str, problem: str) -> None:
    put(tmp_path, "1.png")
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "1.png", "label": "cat"}\n' + line + "\n", encoding="utf-8")
    items = items_of(path)

    assert sorted(item.problem or "" for item in items) == ["", problem]
    assert len(items) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"path\ncaf\xe9.png\n", "not UTF-8"),
        ("list.csv", b'path\n"1.png', "not a readable CSV"),
        ("list.csv", b"", "no column 'path'"),
        ("list.csv", b"path\n" + b"x" * 2_000_000, "a line of more than"),
        ("list.csv", b"path,label\n,cat\n,dog\n", "none of its 2 rows can be used; row 1: the path is empty"),
        ("list.csv", b"path,captured_at\n1.png,2026-10-05T12:00:00\n", "row 1: captured_at is no ISO 8601 time with a"),
        ("list.jsonl", b'{"path": "caf\xe9.png"}\n', "not UTF-8"),
        ("list.jsonl", b'[{"path": "1.png"}]\n', "does not start with a JSON object"),
        ("list.jsonl", b"", "no column 'path'"),
        ("list.jsonl", b'{"path": "' + b"x" * 2_000_000, "a line of more than"),
        ("list.jsonl", b'{"path": "1.png", "lable": "cat"}\n', "did you mean 'label'"),
        ("list.jsonl", b'{"path": "1.png"}\n{"path": "1.png", "lable": "cat"}\n', "did you mean 'label'"),
        ("list.parquet", b"PAR1 not really PAR1", "not a readable Parquet"),
        ("list.parquet", b"", "not a readable Parquet"),
    ],
)
def test_what_is_wrong_with_the_list_refuses_it(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    put(tmp_path, "1.png")
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        items_of(tmp_path / name)


def test_a_list_of_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MOST_ROWS", 2)
    monkeypatch.setattr(list_formats, "MOST_ROWS", 2)
    monkeypatch.setattr(lists, "_ROWS", 1)
    for kind in ("csv", "parquet"):
        path = write(tmp_path, kind, *({"path": "1.png"} for _ in range(3)))
        with pytest.raises(DataError, match=r"(more than 2|has 3) rows"):
            items_of(path)


def test_a_parquet_list_that_repeats_a_huge_value_costs_no_memory(tmp_path: Path) -> None:
    huge = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 2_000_000]))
    table = pa.table({"path": pa.array(["1.png"] * 20_000), "label": huge})  # 40 GB, written out
    pq.write_table(table, tmp_path / "list.parquet", store_schema=False)

    with pytest.raises(DataError, match="holds a text of 2000000 bytes"):
        items_of(tmp_path / "list.parquet")


@pytest.mark.parametrize(
    ("column", "message"),
    [([b"1.png"], "holds binary, not text"), ([["1.png"]], "holds list<.*>, not text"), ([{"a": 1}], "holds struct<")],
)
def test_a_parquet_column_of_bytes_or_lists_refuses_the_list(tmp_path: Path, column: list[Any], message: str) -> None:
    pq.write_table(pa.table({"path": column}), tmp_path / "list.parquet")

    with pytest.raises(DataError, match=message):
        items_of(tmp_path / "list.parquet")


def test_a_parquet_list_of_categories_and_numbers_is_read(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    table = pa.table(
        {"path": ["1.png", "2.png"], "label": pa.array(["cat", "cat"]).dictionary_encode(), "group": [7, 8]}
    )
    pq.write_table(table, tmp_path / "list.parquet")

    assert [(item.label, item.group) for item in items_of(tmp_path / "list.parquet")] == [("cat", "7"), ("cat", "8")]


def test_a_row_is_looked_at_without_being_read(tmp_path: Path) -> None:
    put(tmp_path / "in", "1.png")
    put(tmp_path / "in", "large.png", content=b"x" * 10_001)
    (tmp_path / "in/link").symlink_to(tmp_path / "in")
    rows = [{"path": path} for path in ("1.png", "large.png", "link/1.png", "none.png", "in")]
    os.mkfifo(tmp_path / "in/in")
    entries = list_source(str(write(tmp_path / "in", "csv", *rows)), limits=LIMITS, cache=tmp_path)

    assert {entry.name: entry.look() for entry in entries if entry.look} == {
        "1.png": (len(PNG), None),
        "large.png": (10_001, "too-many-bytes"),
        "link/1.png": (None, "symlink"),
        "none.png": (None, "missing-file"),
        "in": (None, "unreadable"),
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_folder_with_a_metadata_list_is_read_by_it(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "1.png", "sub/2.png", "sub/unnamed.png")
    rows = [{"file_name": "sub/2.png", "label": "dog"}, {"file_name": "1.png", "label": "cat"}]
    write(tmp_path, kind, *rows, {"file_name": "none.png", "label": "cat"}, name="metadata")

    assert [(item.name, item.label, item.problem) for item in items_of(tmp_path)] == [
        ("1.png", "cat", None),
        ("none.png", "cat", "missing-file"),
        ("sub/2.png", "dog", None),
        ("sub/unnamed.png", None, None),
    ]


def test_the_metadata_lists_of_split_folders_are_read_each_for_its_own(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "test/1.png")
    write(tmp_path / "train", "jsonl", {"file_name": "1.png", "species": "wren"}, name="metadata")
    write(tmp_path / "test", "csv", {"file_name": "1.png", "species": "crow"}, name="metadata")

    assert [(item.name, item.label) for item in items_of(tmp_path, "label=species")] == [
        ("test/1.png", "crow"),
        ("train/1.png", "wren"),
    ]


def test_metadata_without_labels_leaves_them_to_the_folders(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "dog/2.png")
    write(tmp_path, "jsonl", {"file_name": "cat/1.png", "text": "a cat", "group": "g"}, name="metadata")

    assert [(item.name, item.label, item.group) for item in items_of(tmp_path)] == [
        ("cat/1.png", "cat", "g"),
        ("dog/2.png", "dog", None),
    ]


def test_a_metadata_list_in_a_class_folder_is_a_file_like_others(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "dog/2.png")
    write(tmp_path / "cat", "csv", {"file_name": "1.png", "label": "dog"}, name="metadata")

    assert {item.name: item.label for item in items_of(tmp_path)} == {
        "cat/1.png": "cat",
        "cat/metadata.csv": "cat",
        "dog/2.png": "dog",
    }


def test_a_metadata_list_cannot_leave_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "secret.png", "in/1.png")
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    paths = ["../secret.png", f"{tmp_path}/secret.png", "link.png", "./1.png"]
    write(tmp_path / "in", "jsonl", *({"file_name": path} for path in paths), name="metadata")

    assert [(item.name, item.problem, item.content) for item in items_of(tmp_path / "in")] == [
        ("../secret.png", "unsafe-path", b""),
        ("1.png", None, PNG),
        (f"{tmp_path}/secret.png", "unsafe-path", b""),
        ("link.png", "symlink", b""),
    ]
