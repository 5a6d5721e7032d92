"""Recall and erasure in a real workspace: the bytes are nowhere, all other bytes are where they were, nobody waits."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.errors import ConfigurationError, DataError, IntegrityError, RefusedError

if TYPE_CHECKING:
    from components.data.sources.item import SourceItem
    from components.operations.services import Services
    from components.records import ModelVersion, ScoredChunk

pytestmark = [pytest.mark.xdist_group("recall"), pytest.mark.timeout(1800), pytest.mark.slow]

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CLASSES = ("a", "b", "c")
SMALL = {
    "data": {"shard_bytes": 65536},
    "preprocess": {"size": 28, "channels": 1},
    "audit": {"folds": 2, "epochs": 1},
    "train": {"epochs": 1},
}
DAMAGED = b"\x89PNG\r\n\x1a\n and no more of it"
KILLS = (
    "a shard is written",
    "the commit is pushed",
    "the visible folder follows",
    "versions are noted",
    "pictures are emptied",
    "the remote is emptied",
    "the cache is emptied",
    "the end is noted",
)


def png(number: int) -> bytes:
    """Return an image of noise: no two share a byte sequence by chance, and 65,536 bytes of shard hold about twenty."""
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def item(number: int) -> SourceItem:
    from components.data.sources.item import SourceItem

    return SourceItem(name=f"{CLASSES[number % 3]}/{number}.png", content=png(number), label=CLASSES[number % 3])


@dataclass
class Shelf:
    """A workspace with two dataset versions, one registered model and one batch; images are taken from it in turn."""

    root: Path
    services: Services
    taken: set[str] = field(default_factory=set)

    @property
    def database(self) -> Any:
        return self.services.database

    def take(self, *, split: str, scored: bool = False) -> tuple[str, bytes]:
        """Return the id and the bytes of an active image that no test had, from the items that were scored or not."""
        rows = {row["image_id"]: row for row in self.manifest().select(split).to_pylist()}
        for number in range(20) if scored else range(20, 90):
            image_id = name_of(png(number))
            if image_id in rows and image_id not in self.taken:
                self.taken.add(image_id)
                return image_id, png(number)
        raise AssertionError(f"no {split} image is left")

    def manifest(self) -> Manifest:
        return Manifest.read(self.root / "data" / "manifest.parquet")

    def recall(self, *image_ids: str, purge: bool = False) -> dict[str, Any]:
        from components.operations.erasure.recall import recall

        return recall(self.services, list(image_ids), reason="asked for", actor="ann", purge=purge, now=NOW)

    def erase(self, *image_ids: str) -> dict[str, Any]:
        from components.operations.erasure.erasing import erase

        return erase(self.services, list(image_ids), reason="asked for", actor="ann", now=NOW)

    def lineage(self, thing: str) -> dict[str, Any]:
        from components.operations.lineage.traced import lineage_of

        return lineage_of(self.services, thing)

    def holding(self, content: bytes) -> list[str]:
        """Return the files anywhere in the workspace, its remote and its image store that hold these bytes."""
        return [str(p) for p in self.root.rglob("*") if p.is_file() and content in p.read_bytes()]

    def tags(self) -> list[str]:
        from components.data.versioning.versions import dataset_tags

        return dataset_tags(self.root)

    def decisions(self, image_id: str) -> list[str]:
        from components.store.ledger import history

        rows = history(self.database, 200, kind="recall")[::-1]
        return [row["action"] for row in rows if image_id in json.dumps(row["evidence"], default=str)]


@pytest.fixture(scope="module")
def shelf(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., ModelVersion], make_chunk: Callable[..., Any]
) -> Iterator[Shelf]:
    from components.data.sources.item import SourceItem
    from components.data.versioning.git import head
    from components.operations.ingestion import ingest_items
    from components.operations.services import discard_services, open_services
    from components.operations.workspace import init_workspace
    from components.settings import Settings
    from components.store import champions

    root = tmp_path_factory.mktemp("shelf") / "workspace"
    init_workspace(root, Settings(), SMALL)
    try:
        with open_services(root, Settings()) as services:
            bad = SourceItem(name="a/bad.png", content=DAMAGED, label="a")
            ingest_items(services, [*map(item, range(60)), bad], source="first", now=NOW)
            made = ingest_items(services, map(item, range(60, 90)), source="second", now=NOW)
            assert (made["added"], made["dataset_version"]) == (30, "data/2026-11-21-2")
            audit_now(services)
            model = make_model(1, CLASSES)
            champions.register_model(
                services.database, replace(model, dataset_version=made["dataset_version"], git_commit=head(root))
            )
            score_some(services, make_chunk, "morning", [*range(20), 500, 501])
            yield Shelf(root, services)
    finally:
        discard_services(root, Settings())


def audit_now(services: Services) -> None:
    """Run the audit as the flow does: a stage of the graph, its tables and its page with pictures committed."""
    from components.data.versioning.versions import reproduce
    from components.operations.audit import commit_audit
    from components.operations.ingestion import exclusive_clone

    with exclusive_clone(services, "audit") as clone:
        commit_audit(clone, before=True)
        reproduce(clone.root, "audit", echo=io.StringIO())
        commit_audit(clone, before=False)


def score_some(
    services: Services, make_chunk: Callable[..., ScoredChunk], batch_id: str, numbers: list[int], close: bool = True
) -> None:
    """Log predictions of these images, random ones, with their pixels in the image store as scoring puts them there."""
    from components.scoring.images import shard_name
    from components.store import predictions

    batch = predictions.open_batch(
        services.database, batch_id=batch_id, content_sha256=batch_id, source="camera", model_version=1,
        class_list=CLASSES, items=len(numbers), scored_at=NOW, now=NOW,
    )  # fmt: skip
    shard = shard_name(batch.month, batch_id, 0)
    rows = [(name_of(png(n)), png(n)) for n in numbers]
    services.images.put(shard, rows)
    if close:
        chunk = make_chunk(0, len(numbers), classes=3, shard=shard)
        predictions.write_chunk(services.database, batch, replace(chunk, image_id=tuple(name for name, _ in rows)))
        predictions.close_batch(services.database, batch, NOW)


def assert_all_else_is_there(shelf: Shelf, gone: set[str], folder: Path) -> None:
    """Restore every version and read every image of it, byte by byte; exactly `gone` and the recalled are missing."""
    from components.data.versioning.versions import restore_dataset

    reader = ShardReader(shelf.root / "data" / "images")
    for row in shelf.manifest().select().to_pylist():
        reader.read_verified(row["shard"], row["row"], row["image_id"])
    for number, tag in enumerate(shelf.tags()[:2]):
        place = folder / str(number)
        targets = {"data/manifest.parquet": place / "manifest.parquet", "data/images": place / "images"}
        place.mkdir(parents=True)
        missing = restore_dataset(shelf.root, tag, targets)
        old, kept = Manifest.read(place / "manifest.parquet"), ShardReader(place / "images")
        ours = {name_of(png(n)) for n in range((60, 90)[number])}
        assert set(missing) >= gone & ours
        assert set(old.select()["image_id"].to_pylist()) == ours - set(missing)
        for row in old.select().to_pylist():
            kept.read_verified(row["shard"], row["row"], row["image_id"])


# Lineage


def test_an_image_tells_where_it_came_from_and_what_became_of_it(shelf: Shelf, tmp_path: Path) -> None:
    image_id, content = shelf.take(split="train", scored=True)
    found = shelf.lineage(image_id)
    assert (found["data"]["source"], found["data"]["split"], found["data"]["group_images"]) == ("first", "train", 1)
    assert found["data"]["label_origin"] == "given"
    assert (found["dataset_versions"]["first"], found["dataset_versions"]["count"]) == ("data/2026-11-21-1", 2)
    (model,) = found["models"]
    assert (model["version"], model["use"], model["dataset_version"]) == (1, "trained on it", "data/2026-11-21-2")
    (logged,) = found["predictions"]
    assert (logged["batch"], logged["model_version"], logged["source"]) == ("morning", 1, "camera")
    assert logged["predicted"] in CLASSES
    file = tmp_path / "copy.png"
    file.write_bytes(content)
    for way in (image_id[:12], image_id.upper(), str(file), f"file:{file}", f"image:{image_id[:20]}"):
        assert shelf.lineage(way)["image_id"] == image_id
    later = name_of(png(70))
    assert shelf.lineage(later)["dataset_versions"]["first"] == "data/2026-11-21-2"


def test_a_prediction_leads_back_to_data_code_and_run(shelf: Shelf, git: Callable[..., str]) -> None:
    found = shelf.lineage("morning:3")
    assert (found["kind"], found["item_no"], found["image_id"]) == ("prediction", 3, name_of(png(3)))
    assert found["pixels_stored"]
    assert found["model"]["dataset_version"] == "data/2026-11-21-2"
    assert found["model"]["mlflow_run"] == "run-1"
    lock = git(shelf.root, "show", f"{found['model']['git_commit']}:code.lock")
    assert found["model"]["code_lock"] == lock
    assert found["image"]["data"]["name"].endswith("/3.png")
    assert shelf.lineage("prediction:morning:3") == found
    never = shelf.lineage("morning:20")  # scored, never ingested
    assert never["image"]["data"] is None


def test_a_model_and_a_version_tell_what_they_were_made_of(shelf: Shelf) -> None:
    model = shelf.lineage("model:1")
    assert model == shelf.lineage("1")
    assert (model["dataset_version"], model["parent"], model["mlflow_run"]) == ("data/2026-11-21-2", None, "run-1")
    assert sum(model["images"].values()) == 90
    assert model["served"]["predictions"] == 22
    dataset = shelf.lineage("data/2026-11-21-1")
    assert dataset["states"] == {"active": 60, "quarantined": 1}
    assert (dataset["before"], dataset["models"]) == (None, [])
    second = shelf.lineage("dataset:data/2026-11-21-2")
    assert [one["version"] for one in second["models"]] == [1]
    assert (second["before"], second["images_before"], second["images"]) == ("data/2026-11-21-1", 61, 91)


@pytest.mark.parametrize(
    ("thing", "error", "words"),
    [
        ("f" * 64, DataError, "is unknown: it was neither ingested nor scored here"),
        ("f" * 12, DataError, "is unknown"),
        ("f" * 11, ConfigurationError, "neither a readable file nor an image id or its first 12"),
        ("no/such/file.png", ConfigurationError, "neither a readable file nor"),
        ("evening:3", DataError, "there is no batch 'evening'"),
        ("morning:22", DataError, "has 22 items, numbered from 0"),
        ("model:7", ConfigurationError, "model version 7 is unknown"),
        ("data/2026-11-21-9", DataError, "dataset version 'data/2026-11-21-9' is unknown"),
    ],
)
def test_what_is_not_there_is_told(shelf: Shelf, thing: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        shelf.lineage(thing)


def test_lineage_answers_while_somebody_else_holds_the_workspace(shelf: Shelf, perennial: Callable[..., Any]) -> None:
    with shelf.database.advisory_lock("workspace", 1.0):
        started = time.monotonic()
        told = perennial("lineage", "morning:3", "--workspace", str(shelf.root), "--json")
        seconds = time.monotonic() - started
    assert told.code == 0, told.err
    assert told.json["batch"] == "morning"
    assert seconds < 20  # Prefect alone would take ten, the lock half an hour


def test_lineage_changes_nothing(shelf: Shelf, git: Callable[..., str]) -> None:
    before = (git(shelf.root, "rev-parse", "HEAD"), git(shelf.root, "status", "--porcelain"), shelf.tags())
    for thing in ("morning:3", "model:1", shelf.tags()[0], name_of(png(3))):
        shelf.lineage(thing)
    assert (git(shelf.root, "rev-parse", "HEAD"), git(shelf.root, "status", "--porcelain"), shelf.tags()) == before


# Recall


def test_the_list_says_what_a_recall_touches_and_does_nothing(shelf: Shelf, perennial: Callable[..., Any]) -> None:
    image_id, content = shelf.take(split="frozen_test")
    before = shelf.tags()
    told = perennial("recall", image_id[:16], "--workspace", str(shelf.root), "--json")
    assert told.code == 0, told.err
    (found,) = told.json
    assert (found["image_id"], found["split"], found["bytes"]) == (image_id, "frozen_test", len(content))
    assert found["models_measured"] == [1]
    assert any("in the frozen test set" in note for note in found["notes"])
    assert shelf.tags() == before
    assert shelf.lineage(image_id)["recalled"] is None


def test_a_mark_takes_an_image_out_of_use_and_a_second_one_does_nothing(shelf: Shelf) -> None:
    from components.operations.ingestion import ingest_items
    from components.store import labelling

    image_id, content = shelf.take(split="train", scored=True)
    labelling.fill_training_queue(shelf.database, _window(), 1, classes=(), limit=30, now=NOW)
    assert image_id in {task.image_id for task in labelling.tasks(shelf.database, "training", None)}
    done = shelf.recall(image_id)
    assert done["dataset_version"] == shelf.tags()[-1]
    assert done["images"][0]["open_tasks"] == 1
    assert image_id not in shelf.manifest().select()["image_id"].to_pylist()
    assert image_id not in {task.image_id for task in labelling.tasks(shelf.database, "training", None)}
    assert shelf.decisions(image_id) == ["recalled"]
    assert shelf.recall(image_id)["dataset_version"] == done["dataset_version"]
    assert shelf.decisions(image_id) == ["recalled"]
    again = ingest_items(shelf.services, [replace(item(0), content=content)], source="again", now=NOW)
    assert (again["added"], again["held"], again["reasons"]) == (0, 1, {"recalled": 1})
    assert shelf.holding(content)  # marked, not erased
    changes = shelf.lineage(image_id)["dataset_versions"]["changes"]
    assert [change["state"] for change in changes] == ["active", "recalled"]


def test_erased_bytes_are_nowhere_and_every_version_still_restores(shelf: Shelf, tmp_path: Path) -> None:
    image_id, content = shelf.take(split="train", scored=True)
    neighbour = png(19)
    assert {part for path in shelf.holding(content) for part in ("images", "dvc-cache", "dvc-remote") if part in path}
    shard = next(row["shard"] for row in shelf.manifest().table.to_pylist() if row["image_id"] == image_id)
    purged = shelf.recall(image_id, purge=True)
    assert list(purged["shards"]) == [shard]
    assert not (shelf.root / "data" / "images" / shard).exists()
    assert shelf.holding(content)  # of older versions

    erased = shelf.erase(image_id)
    assert len(erased["objects"]) - erased["audit_pages"] == 1
    assert erased["pictures"] == 1
    assert erased["being_scored"] == []
    assert shelf.holding(content) == []
    assert len(shelf.holding(neighbour)) >= 3
    assert_all_else_is_there(shelf, {image_id}, tmp_path)
    assert shelf.decisions(image_id) == ["recalled", "purged", "erased"]
    told = shelf.lineage(image_id)
    assert told["recalled"]["erased_at"] is not None
    assert len(told["predictions"]) == 1  # numbers stay
    assert shelf.lineage(shelf.tags()[0])["erased_since"] == [image_id]
    assert image_id in shelf.lineage("model:1")["recalled_since"]
    again = shelf.erase(image_id)
    assert (again["objects"], again["pictures"], again["pages"]) == ([], 0, [])
    assert shelf.decisions(image_id) == ["recalled", "purged", "erased"]


def test_training_on_an_old_version_goes_on_without_what_was_erased(shelf: Shelf) -> None:
    from components.data.decoding.decode import ImageLimits
    from components.data.versioning.versions import past_checkout
    from components.model.images.dataset import StoredImages, load_learning
    from components.params import load_params

    image_id, _ = shelf.take(split="train")
    shelf.recall(image_id, purge=True)
    shelf.erase(image_id)
    workspace = shelf.services.workspace
    targets = ["data/images.dvc", "data/manifest.parquet.dvc"]
    with past_checkout(
        origin=workspace.origin, state=workspace.state, commit=shelf.tags()[0], targets=targets
    ) as root:  # fmt: skip
        params = load_params(root / "params.yaml")
        stored = StoredImages(
            Manifest.read(root / "data" / "manifest.parquet"), ShardReader(root / "data" / "images"),
            ImageLimits.of(params.data),
        )  # fmt: skip
        learning = load_learning(stored, params.preprocess, params.train)
    ids = learning.rows["image_id"].to_pylist()
    assert image_id not in ids
    assert len(ids) > 30
    assert len(learning.data) == len(ids)


def test_two_images_of_one_shard_go_one_after_the_other(shelf: Shelf, tmp_path: Path) -> None:
    first, content = shelf.take(split="train")
    row = next(row for row in shelf.manifest().table.to_pylist() if row["image_id"] == first)
    second = next(
        other["image_id"]
        for other in shelf.manifest().select().to_pylist()
        if other["shard"] == row["shard"] and other["image_id"] != first
    )
    shelf.taken.add(second)
    (other,) = [png(n) for n in range(90) if name_of(png(n)) == second]
    shelf.recall(first, purge=True)
    shelf.recall(second, purge=True)
    shelf.erase(second)  # the older shard, which held both, goes with it
    assert shelf.holding(other) == []
    shelf.erase(first)
    assert shelf.holding(content) == []
    assert_all_else_is_there(shelf, {first, second}, tmp_path)


def test_a_quarantined_image_and_one_never_ingested_stay_out_for_good(shelf: Shelf) -> None:
    from components.operations.ingestion import ingest_items

    bad, never = name_of(DAMAGED), name_of(png(500))
    done = shelf.recall(bad, never, purge=True)
    notes = {one["image_id"]: " ".join(one["notes"]) for one in done["images"]}
    assert "quarantined" in notes[bad]
    assert "never ingested" in notes[never]
    erased = shelf.erase(bad, never)
    assert (erased["objects"], erased["pictures"], erased["kept"]) == ([], 1, 1)
    assert shelf.holding(png(500)) == shelf.holding(DAMAGED) == []
    late = replace(item(500), name="a/500.png", label="a")
    again = ingest_items(shelf.services, [late], source="again", now=NOW)
    assert (again["added"], again["reasons"]) == (0, {"recalled": 1})


def test_an_image_that_a_batch_under_way_left_is_emptied_and_the_end_waits_for_it(
    shelf: Shelf, make_chunk: Callable[..., ScoredChunk]
) -> None:
    from components.store import predictions, recalls

    image_id, content = shelf.take(split="train")
    score_some(shelf.services, make_chunk, "under-way", [int(n) for n in range(90) if png(n) == content], close=False)
    assert any("/images/2026-11/under-way" in path for path in shelf.holding(content))
    shelf.recall(image_id, purge=True)
    assert shelf.erase(image_id)["being_scored"] == ["under-way"]
    assert shelf.holding(content) == []
    assert recalls.recalled(shelf.database, [image_id])[image_id].erased_at is None
    batch = predictions.find_batch(shelf.database, "under-way")
    predictions.write_set_aside(shelf.database, batch, [_aside(0)])
    predictions.close_batch(shelf.database, batch, NOW)
    assert shelf.erase(image_id)["being_scored"] == []
    assert recalls.recalled(shelf.database, [image_id])[image_id].erased_at == NOW


def test_pages_that_may_show_it_go(shelf: Shelf) -> None:
    image_id, _ = shelf.take(split="train", scored=True)
    reports = shelf.services.workspace.reports
    reports.mkdir(exist_ok=True)
    for page in ("2026-11-v1-drift.html", "2026-10-v1-drift.html", "2026-11-v1.html", "runbook.html"):
        (reports / page).write_text("a page", encoding="utf-8")
    shelf.recall(image_id, purge=True)
    assert shelf.erase(image_id)["pages"] == ["2026-11-v1-drift.html"]
    assert len(list(reports.iterdir())) == 3


def test_an_audits_page_that_shows_it_goes_from_data_and_runs(
    shelf: Shelf, make_model: Callable[..., ModelVersion], git: Callable[..., str]
) -> None:
    import pyarrow.parquet as pq

    from components.pages.page import data_uri
    from components.store import champions

    services, folder = shelf.services, shelf.root / "artifacts" / "audit"
    if not (folder / "audit.html").exists():  # an earlier test's image was on it
        audit_now(services)
    found = pq.read_table(folder / "findings.parquet").to_pylist()
    image_id = next(row["image_id"] for row in found if row["image_id"] not in shelf.taken)
    shelf.taken.add(image_id)
    (content,) = [png(n) for n in range(90) if name_of(png(n)) == image_id]
    picture = data_uri(Image.open(io.BytesIO(content))).encode()
    run = services.registry.start_run({})
    services.registry.log_artifacts(run, folder, "audit")
    commit = git(shelf.root, "rev-parse", "HEAD")
    model = replace(make_model(2, CLASSES), run_id=run, git_commit=commit, dataset_version=shelf.tags()[-1])
    champions.register_model(services.database, model)
    assert {part for p in shelf.holding(picture) for part in Path(p).parts} >= {"dvc-cache", "dvc-remote", "mlflow"}

    shelf.recall(image_id, purge=True)
    assert "audit:" not in (shelf.root / "dvc.lock").read_text(encoding="utf-8")
    erased = shelf.erase(image_id)
    assert (erased["audit_pages"], erased["models_with_audit_pages"]) == (1, [2])
    assert shelf.holding(picture) == shelf.holding(content) == []
    assert [path.name for path in (shelf.root / ".perennial" / "mlflow").rglob("findings.parquet")]
    again = shelf.erase(image_id)
    assert (again["objects"], again["audit_pages"], again["models_with_audit_pages"]) == ([], 0, [])


def test_nothing_is_removed_while_the_visible_folder_cannot_follow(shelf: Shelf) -> None:
    image_id, content = shelf.take(split="train")
    notes = shelf.root / "notes.txt"
    notes.write_text("a person's own", encoding="utf-8")
    shelf.recall(image_id, purge=True)
    with pytest.raises(RefusedError, match="has local changes and could not follow"):
        shelf.erase(image_id)
    assert {"dvc-cache", "dvc-remote"} <= {part for p in shelf.holding(content) for part in Path(p).parts}
    notes.unlink()
    shelf.erase(image_id)
    assert shelf.holding(content) == []


def test_what_is_not_purged_is_not_erased(shelf: Shelf) -> None:
    image_id, content = shelf.take(split="validation")
    with pytest.raises(RefusedError, match="recall it with --purge first"):
        shelf.erase(image_id)
    shelf.recall(image_id)
    with pytest.raises(RefusedError, match="recall it with --purge first"):
        shelf.erase(image_id)
    assert shelf.holding(content)


def test_what_killed_commands_left_goes_too(shelf: Shelf) -> None:
    image_id, content = shelf.take(split="train")
    row = next(row for row in shelf.manifest().table.to_pylist() if row["image_id"] == image_id)
    shard = shelf.root / "data" / "images" / row["shard"]
    left = shelf.root / ".perennial" / "past-left" / "workspace" / "data" / "images" / row["shard"]
    work = shelf.root / ".perennial" / "work" / "killed" / row["shard"]
    cached = shelf.root / ".perennial" / "dvc-cache" / "files" / "md5" / "00" / ".half.tmp"
    remote = shelf.root / ".perennial" / "dvc-remote" / "files" / "md5" / "00" / ("0" * 30)
    for place in (left, work, cached, remote):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(shard.read_bytes())
    shelf.recall(image_id, purge=True)
    shelf.erase(image_id)
    assert shelf.holding(content) == []


@pytest.mark.parametrize("step", KILLS)
def test_one_that_is_killed_is_finished_by_a_rerun(shelf: Shelf, forked: Any, step: str, tmp_path: Path) -> None:
    image_id, content = shelf.take(split="train", scored=step == "pictures are emptied")
    job = {"operation": "erase", "root": str(shelf.root), "image_id": image_id, "at": NOW.isoformat()}
    forked.start({**job, "die_before": step})
    assert forked.finish()[0] == [-signal.SIGKILL]

    assert image_id not in {task["image_id"] for task in _asked(shelf)}
    forked.start(job)
    assert forked.finish()[0] == [0]
    assert shelf.holding(content) == []
    assert sorted(set(shelf.decisions(image_id))) == ["erased", "purged", "recalled"]
    assert len(shelf.decisions(image_id)) == 3
    assert shelf.lineage(image_id)["recalled"]["erased_at"] is not None
    assert_all_else_is_there(shelf, {image_id}, tmp_path)


def test_the_command_does_all_of_a_list_and_says_so(
    shelf: Shelf, perennial: Callable[..., Any], tmp_path: Path
) -> None:
    first, content = shelf.take(split="train")
    second, other = shelf.take(split="train")
    listed = tmp_path / "list.txt"
    listed.write_text(f"# whose owners asked\n{first}\n\n{second[:12]}\n", encoding="utf-8")
    here = ("--workspace", str(shelf.root))
    arguments = ("recall", "--file", str(listed), "--apply", "--purge", "--purge-history", "--reason", "asked for")
    told = perennial(*arguments, *here)
    assert (told.code, told.out) == (2, "")
    assert "removes bytes for good" in told.err
    assert shelf.holding(content)
    told = perennial(*arguments, "--yes", "--json", *here)
    assert told.code == 0, told.err
    assert [one["image_id"] for one in told.json["images"]] == sorted([first, second])
    assert shelf.holding(content) == shelf.holding(other) == []
    shown = perennial("lineage", first, *here)
    assert "(erased): asked for" in shown.out
    unknown = perennial("recall", first, "f" * 64, "--apply", "--reason", "x", *here)
    assert unknown.code == 1
    assert "is unknown: it was neither ingested nor scored here" in unknown.err


def _window() -> Any:
    from components.records import Window

    return Window.parse("2026-11")


def _aside(number: int) -> Any:
    from components.records import SetAside

    return SetAside(number, "0.png", "recalled", "this image was recalled; it is not scored")


def _asked(shelf: Shelf) -> list[dict[str, Any]]:
    from components.store import labelling

    tasks = [*labelling.tasks(shelf.database, "training", None), *labelling.tasks(shelf.database, "accuracy", None)]
    return [{"image_id": task.image_id} for task in tasks]


def test_objects_are_found_and_removed_where_the_remote_was_moved_to(tmp_path: Path) -> None:
    from components.data.history.objects import DataObjects
    from components.data.versioning.versions import configure_dvc, dvc
    from components.operations.workspace import init_workspace
    from components.settings import Settings

    workspace = init_workspace(tmp_path / "workspace", Settings())
    dvc("remote", "modify", "store", "url", str(tmp_path / "elsewhere"), cwd=workspace.root)
    configure_dvc(workspace.root, workspace.state)
    objects = DataObjects.of(workspace.root)
    kept, name = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in (b"kept", b"gone")]
    for md5, content in ((kept, b"kept"), (name, b"gone")):
        place = tmp_path / "elsewhere" / "files" / "md5" / md5[:2] / md5[2:]
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    assert objects.in_remote([kept, name, "0" * 32]) == {kept: 4, name: 4}
    assert objects.file(name).read_bytes() == b"gone"  # fetched into the cache
    objects.remove_from_remote([name, "0" * 32])
    objects.remove_from_cache([name, "0" * 32])
    assert (objects.in_remote([kept, name]), objects.in_cache([kept, name])) == ({kept: 4}, {})
    place = tmp_path / "elsewhere" / "files" / "md5" / kept[:2] / kept[2:]
    place.write_bytes(b"else")
    with pytest.raises(IntegrityError, match="holds other bytes"):
        objects.file(kept)
    with pytest.raises(DataError, match="neither sound in"):
        objects.file(name)
