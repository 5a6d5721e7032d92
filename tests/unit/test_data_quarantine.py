"""What an ingest could not take: listed with its reason, kept, and let in only by the rules of every ingest."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from components.data.decoding.decode import ImageLimits, decode
from components.data.decoding.isolation import IsolatedDecoder
from components.data.descriptor import SQUARED_WEIGHTS, descriptor
from components.data.ingestion.class_changes import Rename, applied, relabelled
from components.data.ingestion.ingest import IngestReport, ingest
from components.data.ingestion.release import Released, release
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.quarantine.choosing import called, counts, filtered
from components.data.quarantine.kept_bytes import KeptBytes
from components.data.quarantine.register import REGISTER_FILE, Register
from components.data.shards import ShardReader
from components.data.sources.item import Origin, SourceItem
from components.errors import ConfigurationError
from components.params import Data, Params

PARAMS = Params(data=Data(shard_bytes=65_536, max_pixels=400, near_distance=0))
RAISED = PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update={"max_pixels": 10_000})})
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 21, 12, tzinfo=UTC)
SHARED: list[IsolatedDecoder] = []


def image(number: int, side: int = 16) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8))


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def item(number: int, label: str | None = None, **cells: Any) -> SourceItem:
    return SourceItem(f"{number:04d}.png", image(number), label or ("cat", "dog")[number % 2], **cells)


def _apart(one: bytes, other: bytes) -> float:
    apart = np.frombuffer(one, np.uint8).astype(float) - np.frombuffer(other, np.uint8)
    return float(np.sqrt(np.square(apart) @ SQUARED_WEIGHTS))


LARGE = image(900, 32)  # 1,024 pixels: more than PARAMS allow, fewer than RAISED do
LARGE_ITEM = SourceItem("large.png", LARGE, "cat", captured_at=NOW)


@pytest.fixture(scope="module", autouse=True)
def shared_decoder() -> Iterator[None]:
    """One decoder for every ingest with the usual limits, and one with larger ones."""
    with IsolatedDecoder.of(PARAMS.data) as usual, IsolatedDecoder.of(RAISED.data) as raised:
        SHARED.extend((usual, raised))
        yield
        SHARED.clear()


class Repository:
    """A dataset of 24 images without git and DVC around it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest_path = root / "data" / "manifest.parquet"
        self.kept = KeptBytes(str(root / "store" / "quarantine"))
        self.take([item(n) for n in range(24)], source="first")

    def take(
        self, items: list[SourceItem], *, source: str | Origin = "second", params: Params = PARAMS, **options: Any
    ) -> IngestReport:
        at = options.pop("at", NOW)
        return ingest(
            items, root=self.root, params=params, source=source, decoder=SHARED[params is RAISED], kept=self.kept,
            at=at, **options,
        )  # fmt: skip

    def release(self, *, label: str | None = None, params: Params = PARAMS, **chosen: str) -> Released:
        return release(
            filtered(self.open(), **chosen).to_pylist(), root=self.root, params=params, kept=self.kept,
            cache=self.root / "cache", label=label, person="ann", at=LATER, decoder=SHARED[params is RAISED],
        )  # fmt: skip

    @property
    def manifest(self) -> Manifest:
        return Manifest.read(self.manifest_path)

    @property
    def register(self) -> Register:
        return Register.read(self.manifest_path)

    def open(self) -> Any:
        return self.register.open(self.manifest)

    def told(self) -> list[tuple[str, str, str | None, str | None]]:
        table = self.open()
        return list(zip(*(table[c].to_pylist() for c in ("name", "reason", "label", "stored")), strict=True))

    def row(self, content: bytes) -> dict[str, Any]:
        return next(row for row in self.manifest.table.to_pylist() if row["image_id"] == name_of(content))

    def number_in(self, split: str) -> int:
        splits = {row["image_id"]: row["split"] for row in self.manifest.table.to_pylist()}
        return next(n for n in range(24) if splits[name_of(image(n))] == split)

    def bytes(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted((self.root / "data").rglob("*")) if p.is_file()}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_every_file_that_was_set_aside_is_listed_with_its_reason_and_its_time(repository: Repository) -> None:
    stored = repository.row(image(0))["label"]
    other = "dog" if stored == "cat" else "cat"
    missing = SourceItem("gone.png", b"", "cat", problem="missing-file")
    repository.take([LARGE_ITEM, item(0, other), missing, SourceItem("stray.png", image(50), None)])

    assert repository.told() == [
        ("0000.png", "label-conflict", other, stored),
        ("gone.png", "missing-file", "cat", None),
        ("stray.png", "no-label", None, None),
        ("large.png", "too-many-pixels", "cat", None),
    ]
    table = repository.open()
    assert table["at"].unique().to_pylist() == [NOW]
    assert "32 x 32 pixels, at most 400" in called(table, "large.png")[0]["detail"]
    assert counts(table)[0] == {"state": "held", "reason": "label-conflict", "files": 1}
    assert filtered(table, state="quarantined").num_rows == 3


def test_the_same_ingest_again_changes_no_byte_of_the_register(repository: Repository) -> None:
    bad = [LARGE_ITEM, item(1, "cat"), SourceItem("gone.png", b"", "cat", problem="missing-file")]
    assert repository.take(bad).noted
    before = repository.bytes()
    report = repository.take(bad, at=LATER)

    assert (report.changed, report.noted, report.quarantined, report.held) == (False, False, 2, 1)
    assert repository.bytes() == before


def test_what_is_mended_at_its_source_leaves_the_list(repository: Repository) -> None:
    gone = SourceItem("0050.png", b"", "cat", problem="missing-file")
    repository.take([gone, LARGE_ITEM])
    repository.take([gone], source="another")
    repository.take([item(50)])
    assert [(name, reason) for name, reason, *_ in repository.told()] == [
        ("0050.png", "missing-file"),  # of the other source
        ("large.png", "too-many-pixels"),
    ]
    repository.take([LARGE_ITEM], params=RAISED)
    assert [name for name, *_ in repository.told()] == ["0050.png"]


def test_an_image_over_a_limit_is_kept_and_released_when_the_limit_is_raised(repository: Repository) -> None:
    repository.take([LARGE_ITEM])
    assert repository.register.kept() == {name_of(LARGE): len(LARGE)}
    assert repository.kept.get(name_of(LARGE)) == LARGE

    refused = repository.release()
    assert [(v.outcome, v.reason) for v in refused.verdicts] == [("refused", "too-many-pixels")]
    assert "raise data.max_pixels in params.yaml" in refused.verdicts[0].detail
    assert repository.row(LARGE)["state"] == "quarantined"

    done = repository.release(params=RAISED)
    row = repository.row(LARGE)
    assert [v.outcome for v in done.verdicts] == ["released"]
    assert (row["state"], row["label"], row["label_origin"], row["source"]) == ("active", "cat", "given", "second")
    assert (row["captured_at"], row["reason"]) == (NOW, None)
    assert row["split"] in ("train", "validation", "test")
    reader = ShardReader(repository.root / "data" / "images")
    assert reader.read_verified(row["shard"], row["row"], row["image_id"]) == LARGE
    assert repository.told() == []
    assert repository.register.kept() == {}


def test_a_label_that_a_person_gives_is_recorded_as_theirs(repository: Repository) -> None:
    repository.take([LARGE_ITEM])
    repository.release(label="dog", params=RAISED)
    row = repository.row(LARGE)
    assert (row["label"], row["label_origin"], row["labelled_by"]) == ("dog", "corrected", "ann")


def test_a_file_without_a_label_comes_in_under_the_one_a_person_says(repository: Repository) -> None:
    repository.take([SourceItem("stray.png", image(50), None)])
    assert "say one with --label" in repository.release().verdicts[0].detail
    assert "'heron' is no class" in repository.release(label="heron").verdicts[0].detail
    assert [v.outcome for v in repository.release(label="dog").verdicts] == ["released"]
    assert repository.row(image(50))["label"] == "dog"
    assert repository.told() == []


def test_what_there_is_no_room_for_is_read_from_its_source_if_that_still_has_it(
    repository: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "large.png").write_bytes(LARGE)
    small = PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update={"quarantine_bytes": 4000})})
    repository.take([replace(LARGE_ITEM, name="cat/large.png")], source=Origin("photos", str(folder)), params=small)
    assert repository.register.kept() == {}

    (folder / "cat" / "large.png").write_bytes(image(901, 32))
    assert "has another file of its name now" in repository.release(params=RAISED).verdicts[0].detail
    (folder / "cat" / "large.png").unlink()
    (folder / "cat" / "else.png").write_bytes(LARGE)
    assert "has it no more" in repository.release(params=RAISED).verdicts[0].detail
    (folder / "cat" / "large.png").write_bytes(LARGE)
    assert [v.outcome for v in repository.release(params=RAISED).verdicts] == ["released"]
    assert repository.row(LARGE)["source"] == "photos"


def test_a_file_that_was_never_read_is_released_once_its_source_can_give_it(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("file,species\n0050.png,cat\n", encoding="utf-8")
    origin = Origin("list.csv", str(tmp_path / "list.csv"), ("path=file", "label=species"))
    repository.take([SourceItem("0050.png", b"", "cat", problem="missing-file")], source=origin)
    assert "cannot give it (missing-file)" in repository.release().verdicts[0].detail
    (tmp_path / "0050.png").write_bytes(image(50))
    assert [v.outcome for v in repository.release().verdicts] == ["released"]
    assert (repository.row(image(50))["label"], repository.told()) == ("cat", [])


def test_kept_bytes_that_were_damaged_are_not_taken(repository: Repository) -> None:
    repository.take([LARGE_ITEM])
    (path,) = [path for path in (repository.root / "store").rglob("*") if path.is_file()]
    path.write_bytes(LARGE[:-1])
    done = repository.release(params=RAISED)
    assert "its bytes were not kept" in done.verdicts[0].detail
    assert repository.row(LARGE)["state"] == "quarantined"


def test_a_contradiction_is_decided_for_the_given_label(repository: Repository) -> None:
    number = repository.number_in("train")
    before = repository.row(image(number))
    other = "dog" if before["label"] == "cat" else "cat"
    repository.take([item(number, other)])
    done = repository.release()

    assert [(v.outcome, v.label, v.stored) for v in done.verdicts] == [("released", other, before["label"])]
    changed = {"label": other, "label_origin": "corrected", "labelled_by": "ann"}
    assert repository.row(image(number)) == {**before, **changed}
    assert repository.told() == []


def test_a_contradiction_decided_for_the_stored_label_is_not_brought_up_again(repository: Repository) -> None:
    number = repository.number_in("train")
    before = repository.row(image(number))
    other = "dog" if before["label"] == "cat" else "cat"
    repository.take([item(number, other)])
    done = repository.release(label=before["label"])

    assert [v.outcome for v in done.verdicts] == ["settled"]
    assert repository.row(image(number)) == {**before, "label_origin": "corrected", "labelled_by": "ann"}
    assert repository.told() == []
    for source in ("second", "another"):
        assert repository.take([item(number, other)], source=source, at=LATER).held == 1
        assert repository.told() == []


def test_an_image_that_came_under_two_labels_needs_one_to_be_said(repository: Repository) -> None:
    repository.take([item(24, "cat"), item(24, "dog"), replace(item(24, "owl"), name="x.png")], add_classes=["owl"])
    done = repository.release()
    assert {v.outcome for v in done.verdicts} == {"refused"}
    assert "it came as 'dog' and 'owl': say which with --label" in done.verdicts[0].detail
    assert [v.outcome for v in repository.release(label="owl").verdicts] == ["released"]
    assert (repository.row(image(24))["label"], repository.told()) == ("owl", [])


def test_the_frozen_test_set_is_never_changed_by_a_release(repository: Repository) -> None:
    number = repository.number_in("frozen_test")
    before = repository.row(image(number))
    other = "dog" if before["label"] == "cat" else "cat"
    repository.take([item(number, other, label_origin="consensus"), replace(item(60), group=before["group_id"])])
    assert {reason for _, reason, *_ in repository.told()} == {"frozen-test", "frozen-group"}
    manifest = repository.manifest.digest()

    said = {v.reason: v for v in repository.release().verdicts}
    assert {v.outcome for v in said.values()} == {"refused"}
    assert "never changed: keep the stored label with --label" in said["frozen-test"].detail
    assert "the frozen test set takes nobody in" in said["frozen-group"].detail
    repository.release(label=other)
    repository.release(label=before["label"], reason="frozen-group")
    assert repository.manifest.digest() == manifest

    assert [v.outcome for v in repository.release(reason="frozen-test", label=before["label"]).verdicts] == ["settled"]
    assert repository.manifest.digest() == manifest
    assert [reason for _, reason, *_ in repository.told()] == ["frozen-group"]


def test_an_image_held_for_a_likeness_comes_in_when_that_counts_less(repository: Repository) -> None:
    """It keeps its place in its shard: bytes that lie twice would survive a purge."""
    x = np.linspace(-1, 1, 16)
    pixels = [128 + 60 * np.add.outer(x, x) + turn * np.subtract.outer(x, x) for turn in (-20, 0, 20)]
    one, between, other = (encode_png(p.astype(np.uint8)) for p in pixels)
    seen = [descriptor(decode(content, ImageLimits.of(PARAMS.data))) for content in (one, between, other)]
    near, far = (_apart(seen[0].tobytes(), seen[n].tobytes()) for n in (1, 2))
    assert near < far
    repository.take([SourceItem("one.png", one, "cat", group="g"), SourceItem("other.png", other, "cat", group="a")])
    assert (repository.row(one)["split"], repository.row(other)["split"]) == ("train", "test")
    alike = PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update={"near_distance": (near + far) / 2})})
    with IsolatedDecoder.of(alike.data) as decoder:
        ingest(
            [SourceItem("between.png", between, "cat", group="c"), item(70)], root=repository.root, params=alike,
            source="third", decoder=decoder, kept=repository.kept, at=NOW,
        )  # fmt: skip
    held = repository.row(between)
    assert (held["state"], held["reason"].partition(":")[0]) == ("held", "group-conflict")
    before = repository.bytes()
    assert "lower data.near_distance" in repository.release(params=alike).verdicts[0].detail
    assert repository.bytes() == before

    done = repository.release(label="dog")
    row = repository.row(between)
    assert [v.outcome for v in done.verdicts] == ["released"]
    assert (row["shard"], row["row"], row["state"], row["label"]) == (held["shard"], held["row"], "active", "dog")
    assert repository.told() == []


def test_an_image_that_its_source_puts_in_two_groups_of_two_splits_stays_out(repository: Repository) -> None:
    repository.take([item(60, group="g"), item(61, group="a")])
    assert repository.row(image(60))["split"] != repository.row(image(61))["split"]
    repository.take([item(62, group="g"), replace(item(62), group="a", name="again.png"), item(63, group="g")])
    assert [name for name, *_ in repository.told()] == ["0062.png", "0063.png"]
    assert {v.name: v.outcome for v in repository.release().verdicts} == {"0062.png": "refused", "0063.png": "refused"}
    only = [entry for entry in repository.open().to_pylist() if entry["name"] == "0063.png"]
    done = release(
        only, root=repository.root, params=PARAMS, kept=repository.kept, cache=repository.root, label=None,
        person="ann", at=LATER, decoder=SHARED[0],
    )  # fmt: skip
    assert [v.outcome for v in done.verdicts] == ["released"]  # what tied the groups together is not in any
    assert repository.row(image(63))["split"] == repository.row(image(60))["split"]
    assert [v.outcome for v in repository.release().verdicts] == ["refused"]


def test_labels_of_production_that_are_released_go_by_productions_hash(repository: Repository) -> None:
    golden = PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update={"golden_share": 1.0})})
    repository.take([replace(LARGE_ITEM, window="2026-10", model_version=1)], production=True)
    raised = golden.model_copy(update={"data": golden.data.model_copy(update={"max_pixels": 10_000})})
    entries = repository.open().to_pylist()
    release(
        entries, root=repository.root, params=raised, kept=repository.kept, cache=repository.root, label=None,
        person="ann", at=LATER, decoder=SHARED[1],
    )  # fmt: skip
    row = repository.row(LARGE)
    assert (row["split"], row["window"], row["model_version"]) == ("golden", "2026-10", 1)


def test_images_set_aside_before_there_was_a_register_are_listed_and_released(repository: Repository) -> None:
    frozen = repository.row(image(repository.number_in("frozen_test")))
    repository.take([LARGE_ITEM, replace(item(60), group=frozen["group_id"])])
    (repository.root / "data" / REGISTER_FILE).unlink()
    assert [reason for _, reason, *_ in repository.told()] == ["frozen-group", "too-many-pixels"]
    said = {v.reason: v.detail for v in repository.release(params=RAISED).verdicts}
    assert "where it came from is not known; ingest it again" in said["too-many-pixels"]
    assert "takes nobody in" in said["frozen-group"]


def test_recalled_images_are_not_listed(repository: Repository) -> None:
    repository.take([LARGE_ITEM, item(0, "dog"), item(1, "cat")])
    table = repository.manifest.table
    state = pc.if_else(pc.is_in(table["image_id"], repository.open()["image_id"].unique()), "recalled", table["state"])
    manifest = Manifest(table.set_column(11, table.schema.field("state"), state), repository.manifest.classes)
    manifest.write(repository.manifest_path)
    assert repository.told() == []


def test_a_file_is_called_by_digits_of_its_id_or_by_its_name(repository: Repository) -> None:
    repository.take([LARGE_ITEM, SourceItem("a/x.png", image(901, 32), "cat"), SourceItem("a/x.png", b"bad", "cat")])
    table = repository.open()
    assert [e["name"] for e in called(table, name_of(LARGE)[:8].upper())] == ["large.png"]
    assert called(table, "nothing.png") == []
    assert called(table, "ffffff") == []
    with pytest.raises(ConfigurationError, match=r"'a/x.png' names 2 files: [0-9a-f]{64}, [0-9a-f]{64}; say more"):
        called(table, "a/x.png")


def test_files_that_nothing_tells_of_any_more_are_removed(tmp_path: Path) -> None:
    kept = KeptBytes(str(tmp_path / "quarantine"))
    assert kept.remove_others([]) == 0
    kept.put(name_of(LARGE), LARGE)
    kept.put(name_of(b"left by a kill"), b"left by a kill")
    assert kept.remove_others([name_of(LARGE)]) == 1
    assert (kept.get(name_of(LARGE)), kept.get(name_of(b"left by a kill"))) == (LARGE, None)
    assert (kept.remove([name_of(LARGE)]), kept.remove([name_of(LARGE)])) == (1, 0)


def test_hostile_names_and_labels_are_listed_as_text(repository: Repository) -> None:
    repository.take([SourceItem("<b>&.png", b"", "\ud800\n<script>", problem="bad-label")])
    (entry,) = repository.open().to_pylist()
    assert (entry["name"], entry["label"]) == ("<b>&.png", "\\ud800\\n<script>")
    assert json.loads(entry["columns"]) == []


def test_labels_of_what_was_set_aside_follow_a_renamed_class(repository: Repository) -> None:
    number = repository.number_in("train")
    other = "dog" if repository.row(image(number))["label"] == "cat" else "cat"
    repository.take([item(number, other), LARGE_ITEM, SourceItem("stray.png", image(50), None)])
    for change in (Rename("dog", "hound"), Rename("cat", "tom")):
        Register(relabelled(repository.register.table, change)).write(repository.manifest_path)
        applied(repository.manifest, change).write(repository.manifest_path)
    now = {"dog": "hound", "cat": "tom"}
    assert {label for _, _, label, _ in repository.told()} == {now[other], "tom", None}
    assert [v.outcome for v in repository.release(reason="label-conflict").verdicts] == ["released"]
    assert repository.row(image(number))["label"] == now[other]
