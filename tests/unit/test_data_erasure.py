"""Recall within a checkout: the image goes, every other one keeps its bytes, and old places lead to the new ones."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.descriptor import DESCRIPTOR_BYTES
from components.data.erasure.following import GONE, followed
from components.data.erasure.replaced import Replacements
from components.data.erasure.rewriting import recall_images, replaced_path
from components.data.history.objects import DataObjects
from components.data.manifest import Manifest, find_rows, ids_from
from components.data.shards import DESCRIBED_SCHEMA, SHARD_SCHEMA, ShardReader, write_shard
from components.errors import IntegrityError, ServiceError
from components.params import Paths

PATHS = Paths()


def content(number: int) -> bytes:
    return b"the image <%d>" % number


def image_id(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def fill(root: Path, shards: list[list[int]], described: bool = True) -> None:
    """Write shards of these images, and a manifest that names them."""
    rows: list[dict[str, Any]] = []
    schema = DESCRIBED_SCHEMA if described else SHARD_SCHEMA
    for numbers in shards:
        written = [
            (image_id(n), content(n), n, n + 1, bytes([n]) * DESCRIPTOR_BYTES)[: len(schema.names)] for n in numbers
        ]
        shard = write_shard(root / PATHS.images, written, schema=schema)
        rows += [
            {"image_id": image_id(n), "shard": shard, "row": place, "label": "cat", "split": "train", "state": "active",
             "group_id": image_id(n)}
            for place, n in enumerate(numbers)
        ]  # fmt: skip
    rows.append({"image_id": "f" * 64, "label": "cat", "state": "quarantined", "reason": "corrupt"})
    Manifest.from_rows(rows, ("cat",)).write(root / PATHS.manifest)


def stored(root: Path) -> dict[str, bytes]:
    """Return every image that the manifest has a place of, read there and verified."""
    reader = ShardReader(root / PATHS.images)
    rows = Manifest.read(root / PATHS.manifest).table.to_pylist()
    return {
        row["image_id"]: reader.read_verified(row["shard"], row["row"], row["image_id"])
        for row in rows
        if row["shard"] is not None
    }


def everything(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


@settings(max_examples=30, deadline=None)
@given(
    shards=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    rounds=st.lists(st.sets(st.integers(0, 23), min_size=1, max_size=4), min_size=1, max_size=3),
    described=st.booleans(),
)
def test_whatever_is_purged_the_others_keep_their_bytes_and_old_places_are_found(
    shards: list[int], rounds: list[set[int]], described: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, first, layout = Path(folder), 0, []
        for size in shards:
            layout.append(list(range(first, first + size)))
            first += size
        fill(root, layout, described)
        old, gone = Manifest.read(root / PATHS.manifest).table, set()
        for numbers in rounds:
            recall_images(root, PATHS, [image_id(n) for n in numbers], "asked for", purge=True)
            gone |= numbers
            left = {image_id(n): content(n) for n in range(first) if n not in gone}
            assert stored(root) == left
            assert not any(content(n) in everything(root) for n in gone)
            reader = ShardReader(root / PATHS.images)
            replacements = Replacements.read(replaced_path(root, PATHS))
            final = {shard: replacements.final(shard)[0] for shard in replacements.shards}
            places = {
                name: (shard, row)
                for shard in set(final.values()) - {None}
                for row, name in enumerate(reader.column(shard, "image_id").to_pylist())
            }
            table, missing = followed(old, final, places)
            assert set(missing) == {image_id(n) for n in gone if n < first}
            for row in table.to_pylist():
                if row["shard"] is not None:
                    reader.read_verified(row["shard"], row["row"], row["image_id"])
                elif row["image_id"] in missing:
                    assert (row["state"], row["reason"]) == ("recalled", GONE)
            for shard in replacements.shards:
                assert not (root / PATHS.images / shard).exists()


def test_a_mark_alone_changes_nothing_but_the_manifest(tmp_path: Path) -> None:
    fill(tmp_path, [[0, 1], [2]])
    before = stored(tmp_path)
    done = recall_images(tmp_path, PATHS, [image_id(1)], "asked for", purge=False)
    assert (done.marked, done.shards) == ((image_id(1),), {})
    row = find_rows(tmp_path / PATHS.manifest, [image_id(1)])[image_id(1)]
    assert (row["state"], row["reason"], row["split"], row["label"]) == ("recalled", "asked for", "train", "cat")
    assert stored(tmp_path) == before
    assert image_id(1) not in Manifest.read(tmp_path / PATHS.manifest).select()["image_id"].to_pylist()
    assert not replaced_path(tmp_path, PATHS).exists()


def test_a_second_time_finds_nothing_to_do_and_keeps_the_first_reason(tmp_path: Path) -> None:
    fill(tmp_path, [[0, 1]])
    for purge in (False, True):
        assert recall_images(tmp_path, PATHS, [image_id(0)], "first", purge=purge).changed
        digest = Manifest.read(tmp_path / PATHS.manifest).digest()
        assert not recall_images(tmp_path, PATHS, [image_id(0)], "second", purge=purge).changed
        assert Manifest.read(tmp_path / PATHS.manifest).digest() == digest
    assert find_rows(tmp_path / PATHS.manifest, [image_id(0)])[image_id(0)]["reason"] == "first"


def test_an_image_without_a_row_gets_one_that_keeps_it_out(tmp_path: Path) -> None:
    fill(tmp_path, [[0]])
    assert recall_images(tmp_path, PATHS, ["e" * 64], "never wanted", purge=True).marked == ("e" * 64,)
    row = find_rows(tmp_path / PATHS.manifest, ["e" * 64])["e" * 64]
    assert (row["state"], row["reason"], row["shard"], row["label"]) == ("recalled", "never wanted", None, None)


def test_a_quarantined_image_stays_out_even_if_its_file_is_mended(tmp_path: Path) -> None:
    fill(tmp_path, [[0]])
    assert recall_images(tmp_path, PATHS, ["f" * 64], "asked for", purge=True).changed
    assert find_rows(tmp_path / PATHS.manifest, ["f" * 64])["f" * 64]["state"] == "recalled"


def test_a_shard_of_nothing_else_is_followed_by_none(tmp_path: Path) -> None:
    fill(tmp_path, [[0], [1, 2]])
    done = recall_images(tmp_path, PATHS, [image_id(0)], "asked for", purge=True)
    assert list(done.shards.values()) == [None]
    assert len(list((tmp_path / PATHS.images).iterdir())) == 1


def test_what_was_learnt_of_an_image_when_it_came_moves_with_it(tmp_path: Path) -> None:
    fill(tmp_path, [[3, 4, 5]])
    (new,) = recall_images(tmp_path, PATHS, [image_id(4)], "asked for", purge=True).shards.values()
    reader = ShardReader(tmp_path / PATHS.images)
    assert new is not None
    assert reader.column(new, "width").to_pylist() == [3, 5]
    assert reader.column(new, "descriptor").to_pylist() == [bytes([n]) * DESCRIPTOR_BYTES for n in (3, 5)]


def test_damage_is_not_copied_under_a_new_name(tmp_path: Path) -> None:
    fill(tmp_path, [[0, 1]])
    (shard,) = (tmp_path / PATHS.images).iterdir()
    shard.write_bytes(shard.read_bytes().replace(content(1), content(1)[::-1]))
    with pytest.raises(IntegrityError, match="should be image"):
        recall_images(tmp_path, PATHS, [image_id(0)], "asked for", purge=True)


def test_replacements_are_followed_to_the_last_with_all_that_was_lost(tmp_path: Path) -> None:
    found = Replacements().with_one("a", "b", ["1"]).with_one("b", "c", ["2"]).with_one("d", None, ["3"])
    found.write(tmp_path / "replaced.json")
    found = Replacements.read(tmp_path / "replaced.json")
    assert found.final("a") == ("c", {"1", "2"})
    assert found.final("b") == ("c", {"2"})
    assert found.final("d") == (None, {"3"})
    assert found.final("z") == ("z", frozenset())
    assert Replacements.read(tmp_path / "none.json") == Replacements()


@pytest.mark.parametrize("text", ["", "{}", '{"shards": []}', '{"shards": {"a": {}}}'])
def test_a_damaged_record_is_told(text: str) -> None:
    with pytest.raises(IntegrityError, match="is damaged"):
        Replacements.parse(text, "replaced.json")


def test_a_record_that_goes_in_circles_is_told() -> None:
    circle = Replacements().with_one("a", "b", ["1"]).with_one("b", "a", ["2"])
    with pytest.raises(IntegrityError, match="stands for itself"):
        circle.final("a")


def test_rows_are_found_in_every_part_of_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.manifest._ROW_GROUP", 7)
    path = tmp_path / "m.parquet"
    rows = [{"image_id": image_id(n), "state": "active", "row": n} for n in range(60)]
    Manifest.from_rows(rows, ()).write(path)
    wanted = [image_id(n) for n in range(0, 70, 3)]
    assert {name: row["row"] for name, row in find_rows(path, wanted).items()} == {
        image_id(n): n for n in range(0, 60, 3)
    }
    assert find_rows(path, []) == find_rows(path, ["0" * 64]) == {}
    for n in range(60):
        assert ids_from(path, image_id(n)[:12], 3) == [image_id(n)]
    assert ids_from(path, image_id(0), 3) == [image_id(0)]
    first = image_id(0)[0]
    some = sorted(image_id(n) for n in range(60) if image_id(n)[0] == first)
    assert ids_from(path, first, 60) == some
    assert ids_from(path, first, 2) == some[:2]
    assert len(some) > 2
    path.write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(IntegrityError, match="cannot be read"):
        find_rows(path, wanted)


def test_a_folder_of_known_objects_is_named_as_dvc_names_it(tmp_path: Path) -> None:
    objects = DataObjects(tmp_path, tmp_path / "cache")
    name = objects.add_folder({"b.arrow": "1" * 32, "a.arrow": "0" * 32})
    text = json.dumps([{"md5": "0" * 32, "relpath": "a.arrow"}, {"md5": "1" * 32, "relpath": "b.arrow"}])
    assert name == hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"
    assert objects.folder(name) == {"a.arrow": "0" * 32, "b.arrow": "1" * 32}
    assert objects.in_cache([name, "2" * 32]) == {name: len(text)}
    objects.remove_from_cache([name, "2" * 32])
    assert objects.in_cache([name]) == {}


def test_a_missing_object_without_a_remote_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="the DVC remote of"):
        DataObjects(tmp_path, tmp_path / "cache").file("0" * 32)
