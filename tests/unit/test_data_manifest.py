"""The manifest: stored whole, deterministic, and strict about what it reads."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.manifest import MANIFEST_SCHEMA, Manifest
from components.errors import DataError, IntegrityError

CLASSES = ("dog", "cat")


def row(image_id: str, **cells: Any) -> dict[str, Any]:
    usual = {"shard": "s.arrow", "row": 0, "label": "dog", "split": "train", "state": "active", "label_origin": "given"}
    return {"image_id": image_id, **usual, **cells}


ROWS = [
    row("c", label="cat", captured_at=datetime(2026, 10, 5, 12, tzinfo=UTC)),
    row("a", split="validation", window="2026-10", model_version=3),
    row("b"),
    row("d", state="quarantined", split=None, shard=None, row=None, reason="corrupt"),
]


def test_what_is_written_is_read_in_the_order_of_ids(tmp_path: Path) -> None:
    Manifest.from_rows(ROWS, CLASSES).write(tmp_path / "deep" / "m.parquet")
    read = Manifest.read(tmp_path / "deep" / "m.parquet")

    assert read == Manifest.from_rows(ROWS, CLASSES)
    assert read.classes == CLASSES
    assert read.table["image_id"].to_pylist() == ["a", "b", "c", "d"]
    assert read.table["captured_at"][2].as_py() == datetime(2026, 10, 5, 12, tzinfo=UTC)


def test_the_same_content_gives_the_same_bytes_whatever_its_history(tmp_path: Path) -> None:
    Manifest.from_rows(ROWS, CLASSES).write(tmp_path / "a.parquet")
    pieces = [pa.Table.from_pylist([one], MANIFEST_SCHEMA) for one in reversed(ROWS)]
    Manifest(pa.concat_tables(pieces), CLASSES).write(tmp_path / "b.parquet")
    Manifest.read(tmp_path / "a.parquet").write(tmp_path / "c.parquet")

    first = (tmp_path / "a.parquet").read_bytes()
    assert (tmp_path / "b.parquet").read_bytes() == first
    assert (tmp_path / "c.parquet").read_bytes() == first
    assert Manifest.from_rows(ROWS, CLASSES).digest() == hashlib.sha256(first).hexdigest()


def test_every_change_changes_the_digest() -> None:
    digests = {
        Manifest.from_rows(ROWS, CLASSES).digest(),
        Manifest.from_rows(ROWS, CLASSES[::-1]).digest(),
        Manifest.from_rows(ROWS[1:], CLASSES).digest(),
        Manifest.from_rows([{**ROWS[0], "label": "dog"}, *ROWS[1:]], CLASSES).digest(),
        Manifest.empty().digest(),
    }

    assert len(digests) == 5


def test_select_gives_active_rows_of_the_named_splits() -> None:
    manifest = Manifest.from_rows(ROWS, CLASSES)

    assert manifest.select()["image_id"].to_pylist() == ["a", "b", "c"]
    assert manifest.select("train")["image_id"].to_pylist() == ["b", "c"]
    assert manifest.select("train", "validation")["image_id"].to_pylist() == ["a", "b", "c"]
    assert manifest.select(state="quarantined")["image_id"].to_pylist() == ["d"]
    with pytest.raises(DataError, match="'tain' is not one of"):
        manifest.select("tain")


def test_counts_are_of_active_images_and_hold_zeros() -> None:
    assert Manifest.from_rows(ROWS, CLASSES).counts() == {
        "train": {"dog": 1, "cat": 1},
        "validation": {"dog": 1, "cat": 0},
    }
    assert Manifest.empty().counts() == {}


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="perennial ingest"):
        Manifest.read(tmp_path / "none.parquet")


def test_a_damaged_manifest_is_an_integrity_error(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    Manifest.from_rows(ROWS, CLASSES).write(path)
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(IntegrityError, match="cannot be read"):
        Manifest.read(path)


def test_another_table_is_not_a_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "m.parquet")

    with pytest.raises(DataError, match="not a manifest"):
        Manifest.read(tmp_path / "m.parquet")


def test_a_failed_write_keeps_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    Manifest.from_rows(ROWS, CLASSES).write(path)
    broken = Manifest(pa.table({"image_id": ["x"]}), CLASSES)

    with pytest.raises((pa.ArrowException, ValueError)):
        broken.write(path)

    assert Manifest.read(path).table.num_rows == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.parquet"]
