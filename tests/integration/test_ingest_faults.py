"""Ingests that are killed, find no room, lose their remote or meet tampered bytes: real git, DVC and processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from components.data.history.integrity import md5_of
from components.data.history.kept import KeptVersion, kept_versions, recorded_at
from components.data.history.objects import DataObjects
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.quarantine.register import register_path
from components.data.shards import ShardReader
from components.data.sources.seen import stamp
from components.data.versioning.versions import configure_dvc
from components.errors import IntegrityError
from components.store.ledger import history, record

if TYPE_CHECKING:
    from components.store.database import Database
    from components.store.postgres.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.xdist_group("ingest-faults"), pytest.mark.timeout(900), pytest.mark.slow]

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
IMAGES, MANIFEST = "data/images", "data/manifest.parquet"
REGISTER = register_path(Path(MANIFEST)).as_posix()
FIRST, SECOND = range(30), range(30, 90)
KILLS = (
    "a source is read",
    "a shard is half written",
    "a shard is closed",
    "the manifest is written, not replaced",
    "the manifest is replaced",
    "dvc add has half an object",
    "dvc add is done",
    "the commit is made",
    "the tag is made",
    "dvc push has half an object",
    "the origin has locked its branch",
    "git push is done",
    "the visible folder has the commit, not the data",
    "the ledger is to be written",
    "the ledger is written",
)

AFTER = KILLS[KILLS.index("git push is done") :]


def image(number: int) -> bytes:
    """An image of noise: fourteen fill a shard."""
    return encode_png(np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8))


def archive(path: Path, numbers: range) -> Path:
    """Images in two class folders, and one file that is none."""
    files = [(f"{'ab'[number % 2]}/{number}.png", image(number)) for number in numbers]
    with tarfile.open(path, "w") as tar:
        for name, content in [*files, ("a/no-image.png", b"no image, from %d on" % numbers[0])]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


class Ingests:
    """Ingests in children of `forked_ingest.py`; see there."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked_ingest.py"))],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, root: Path, source: Path, database: Database, **job: Any) -> tuple[int, Any]:
        """Return the exit code of one ingest (a negative one is the signal it died of) and its report."""
        result = self._folder / "result.json"
        result.unlink(missing_ok=True)
        asked = {"root": str(root), "source": str(source), "database_url": url_of(database), "at": NOW.isoformat()}
        self._say([{**asked, **job, "result": str(result)}])
        (code,) = self._say("reap")
        return code, json.loads(result.read_text(encoding="utf-8")) if result.exists() else None

    def stop(self) -> None:
        self._server.communicate(timeout=60)

    def _say(self, what: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(what), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


def url_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def ingests(tmp_path_factory: pytest.TempPathFactory, environment: Callable[..., dict[str, str]]) -> Iterator[Ingests]:
    made = Ingests(tmp_path_factory.mktemp("forked"), environment())
    yield made
    made.stop()


@dataclass
class Place:
    """A workspace with one dataset version, and the archive of a second."""

    root: Path
    source: Path
    ingests: Ingests
    database: Database

    @property
    def state(self) -> Path:
        return self.root / ".perennial"

    @property
    def origin(self) -> Path:
        return self.state / "origin.git"

    def ingest(self, **job: Any) -> tuple[int, Any]:
        return self.ingests.run(self.root, self.source, self.database, **job)

    def versions(self) -> list[KeptVersion]:
        return kept_versions(self.origin, images=IMAGES, manifest=MANIFEST)


def copied(place: Path, root: Path) -> Path:
    """Copy a workspace with the links between its folder and its cache; return where its state lies."""
    subprocess.run(["cp", "--archive", str(place), str(root)], check=True)
    configure_dvc(root, root / ".perennial")
    return root


@dataclass(frozen=True)
class Outcome:
    """What an ingest that nothing disturbs leaves: the rows of the dataset, its digest, and every file there is."""

    rows: list[dict[str, Any]]
    digest: str
    files: set[str]


def outcome(place: Place) -> Outcome:
    stored = Manifest.read(place.root / MANIFEST)
    return Outcome(stored.table.to_pylist(), stored.digest(), files(place.root))


def files(root: Path) -> set[str]:
    """The files of a workspace; of git's and DVC's own only those that a killed one leaves."""
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    left = {path for path in found if path.endswith(".lock") or "/objects/tmp" in path}
    return left | {path for path in found if ".git/" not in path and not path.startswith(".dvc/tmp/")}


@dataclass(frozen=True)
class Prepared:
    """A workspace with one version, the archive of a second, and what the second leaves if nothing disturbs it."""

    root: Path
    source: Path
    expected: Outcome


def let_settle(source: Path) -> None:
    """Wait until a source's times tell its state, so that an ingest remembers its files as a later rerun does."""
    while stamp(source.name, source.stat()) is None:
        time.sleep(0.05)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, ingests: Ingests, own_database: Database) -> Prepared:
    from components.operations.workspace import init_workspace
    from components.settings import Settings

    folder = tmp_path_factory.mktemp("prepared")
    root, source = folder / "workspace", archive(folder / "second.tar", SECOND)
    init_workspace(root, Settings(), {"data": {"shard_bytes": 65536}})
    code, report = ingests.run(root, archive(folder / "first.tar", FIRST), own_database)
    assert (code, report["added"]) == (0, len(FIRST)), report
    let_settle(source)
    undisturbed = Place(copied(root, folder / "undisturbed"), source, ingests, own_database)
    code, report = undisturbed.ingest()
    assert (code, report["added"], report["dataset_version"]) == (0, len(SECOND), "data/2026-11-21-2"), report
    return Prepared(root, source, outcome(undisturbed))


@pytest.fixture(scope="module")
def own_database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    from components.store.database import Database

    made = Database(postgres.ensure_database("ingest_faults"), connect_wait_seconds=10)
    made.migrate()
    yield made
    made.dispose()


@pytest.fixture
def place(prepared: Prepared, ingests: Ingests, database: Database, tmp_path: Path) -> Place:
    """A copy of the prepared workspace, with a database that knows of its version."""
    record(
        database, kind="ingest", actor="ingest", action="added", reason="30 images from first.tar", now=NOW,
        evidence={"dataset_version": "data/2026-11-21-1"},
    )  # fmt: skip
    return Place(copied(prepared.root, tmp_path / "workspace"), prepared.source, ingests, database)


def assert_published_is_whole(place: Place) -> None:
    """Every published version can be had from the remote alone: its manifest, its shards, every image of it."""
    remote = DataObjects(place.root, place.state / "dvc-remote")
    for version in place.versions():
        assert version.images is not None
        listed = remote.folder(version.images)
        register = recorded_at(place.origin, version.tag, REGISTER)
        assert register is not None
        for name in (version.manifest, version.images, register, *listed.values()):
            assert md5_of(remote.cached(name)) == name.removesuffix(".dir")
        for row in Manifest.read(remote.cached(version.manifest)).select().to_pylist():
            shard = remote.cached(listed[row["shard"]])
            ShardReader(shard.parent).read_verified(shard.name, row["row"], row["image_id"])


def age(root: Path) -> None:
    """Do to what is half copied what an hour does."""
    for path in root.rglob("*.tmp"):
        os.utime(path, (0, 0))


def assert_finished(place: Place, expected: Outcome) -> None:
    """A rerun gave what one run gives: the same images, labels and splits, each version once, no file more or less."""
    found = outcome(place)
    assert (found.rows, found.digest) == (expected.rows, expected.digest)
    assert found.files == expected.files
    assert_published_is_whole(place)
    reader = ShardReader(place.root / IMAGES)
    for row in found.rows:
        assert row["shard"] is None or reader.read_verified(row["shard"], row["row"], row["image_id"])
    told = [row for row in history(place.database, 100, kind="ingest") if row["action"] == "added"]
    assert [row["evidence"]["dataset_version"] for row in told] == [f"data/2026-11-21-{n}" for n in (2, 1)]
    assert [version.tag for version in place.versions()] == [f"data/2026-11-21-{n}" for n in (1, 2)]


@pytest.mark.parametrize("step", KILLS)
def test_an_ingest_that_is_killed_loses_nothing_and_its_rerun_finishes(
    place: Place, prepared: Prepared, step: str
) -> None:
    hook = place.origin / "hooks" / "reference-transaction"
    if step == "the origin has locked its branch":
        hook.write_text('#!/bin/sh\n[ "$1" = prepared ] && kill -9 0\n')
        hook.chmod(0o755)
    code, _ = place.ingest(die_at=step)
    assert code == -signal.SIGKILL
    hook.unlink(missing_ok=True)
    assert_published_is_whole(place)
    published = [version.tag for version in place.versions()]
    assert published == [f"data/2026-11-21-{n}" for n in ((1, 2) if step in AFTER else (1,))]
    age(place.state)

    code, report = place.ingest()
    assert (code, report["dataset_version"]) == (0, None if step in AFTER else "data/2026-11-21-2"), report
    assert_finished(place, prepared.expected)


def test_a_lock_in_the_visible_folder_holds_nobody_up(place: Place) -> None:
    before = Manifest.read(place.root / MANIFEST).digest()
    lock = place.root / ".git" / "index.lock"
    lock.touch()
    code, report = place.ingest()
    assert (code, report["dataset_version"]) == (0, "data/2026-11-21-2"), report
    assert Manifest.read(place.root / MANIFEST).digest() == before  # whoever holds it is at work there
    assert examined(place, restore=False) == "2 dataset versions are sound"  # an older one in the folder is no damage
    lock.unlink()
    code, report = place.ingest()
    assert (code, report["dataset_version"]) == (0, None), report


# No room


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own size, where this user may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    with (disk / "ballast").open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - left))


def assert_no_room(code: int, told: Any, place: Place) -> None:
    assert (code, told["error"]) == (1, "NoSpaceError"), told
    assert "\n" not in told["said"]
    assert str(place.root) in told["said"]
    assert "free some space and run this again" in told["said"]
    assert [version.tag for version in place.versions()] == ["data/2026-11-21-1"]
    assert_published_is_whole(place)


def test_a_disk_that_is_full_at_any_step_is_named_and_loses_nothing(
    place: Place, prepared: Prepared, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        small = Place(copied(prepared.root, disk / "workspace"), place.source, place.ingests, place.database)
        steps = []
        for left in (120_000, 900_000, 1_200_000):
            fill(disk, left)
            code, told = small.ingest()
            assert_no_room(code, told, small)
            steps.append(next(step for step in ("git clone", "dvc add", "dvc push") if step in told["said"]))
        assert len(set(steps)) > 1, steps
        (disk / "ballast").unlink()
        age(small.state)
        code, told = small.ingest()
        assert code == 0, told
        assert_finished(small, prepared.expected)


def test_a_shard_that_may_not_grow_is_named_and_leaves_no_part(place: Place, prepared: Prepared) -> None:
    before = files(place.root)
    code, told = place.ingest(most_bytes=60_000)
    assert_no_room(code, told, place)
    assert "File too large" in told["said"]
    assert files(place.root) == before
    code, told = place.ingest()
    assert code == 0, told
    assert_finished(place, prepared.expected)


# No remote


def test_a_remote_or_an_origin_that_is_gone_is_named_before_anything_is_done(place: Place, prepared: Prepared) -> None:
    remote, away = place.state / "dvc-remote", place.state / "away"
    before = files(place.root)
    remote.rename(away)
    for empty in (False, True):  # renamed; or the place where it is mounted
        if empty:
            remote.mkdir()
        code, told = place.ingest()
        assert (code, told["error"]) == (1, "ServiceError")
        assert f"the DVC remote {remote} does not hold the newest dataset version" in told["said"]
        assert "Bring it back and run this again" in told["said"]
        assert list(remote.rglob("*")) == []
    remote.rmdir()
    away.rename(remote)

    place.origin.rename(away)
    code, told = place.ingest()
    assert (code, told["error"]) == (1, "ServiceError")
    assert f"{place.origin} is where flows keep the workspace's versions" in told["said"]
    assert "Bring it back, or set WORKSPACE_GIT_URL" in told["said"]
    away.rename(place.origin)

    assert files(place.root) == before
    code, told = place.ingest()
    assert code == 0, told
    assert_finished(place, prepared.expected)


def test_a_remote_that_is_lost_during_the_push_publishes_nothing(place: Place, prepared: Prepared) -> None:
    remote = place.state / "dvc-remote"
    code, told = place.ingest(lose_remote=str(remote))
    assert (code, told["error"]) == (1, "ServiceError")
    assert f"the DVC remote is {remote}: see that it is there" in told["said"]
    assert [version.tag for version in place.versions()] == ["data/2026-11-21-1"]
    remote.unlink()
    remote.with_name("moved-away").rename(remote)
    code, told = place.ingest()
    assert code == 0, told
    assert_finished(place, prepared.expected)


def test_a_remote_that_is_lost_for_good_is_filled_from_the_cache_as_the_error_says(place: Place) -> None:
    from components.data.versioning.versions import dvc

    shutil.rmtree(place.state / "dvc-remote")
    assert "dvc push --all-commits" in place.ingest()[1]["said"]
    dvc("push", "--all-commits", cwd=place.root)
    assert_published_is_whole(place)
    assert place.ingest()[0] == 0
    assert_published_is_whole(place)


# Tampered bytes


def flip(path: Path, place: int) -> None:
    """Flip a byte as a failing disk does: the file is as protected as before."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def of_a_training_image(place: Place) -> tuple[Path, str, int]:
    """A shard of the visible folder, an image of the training set in it, and where its bytes lie."""
    row = Manifest.read(place.root / MANIFEST).select("train").to_pylist()[0]
    path = place.root / IMAGES / row["shard"]
    content = ShardReader(path.parent).read_verified(row["shard"], row["row"], row["image_id"])
    return path, row["image_id"], path.read_bytes().index(content) + len(content) // 2


def assert_nothing_is_learnt(place: Place, image_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.model.images.dataset import StoredImages, load_learning
    from components.params import load_params

    params = load_params(place.root / "params.yaml")
    monkeypatch.chdir(place.root)
    with pytest.raises(
        IntegrityError, match=f"shard .* should be image {image_id} and is .*perennial doctor --restore"
    ):
        load_learning(StoredImages.of(params), params.preprocess, params.train)


def examined(place: Place, *, restore: bool) -> str:
    from components.operations.doctor import examine_data
    from components.operations.workspace import open_workspace
    from components.settings import Settings

    return examine_data(open_workspace(place.root, Settings()), restore=restore)


def test_a_flipped_byte_of_a_shard_is_named_not_learnt_from_and_restored(
    place: Place, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, image_id, at = of_a_training_image(place)
    good = shard.read_bytes()
    flip(shard, at)  # a link to the cache's
    assert_nothing_is_learnt(place, image_id, monkeypatch)
    named = f"{IMAGES}/{shard.name} in the {{}} .* with 1 images such as {image_id}"
    for where in ("cache", "workspace"):
        with pytest.raises(IntegrityError, match=named.format(where)):
            examined(place, restore=False)
    code, told = place.ingest()  # of other images: it does not spread
    assert code == 0, told
    assert_published_is_whole(place)
    assert examined(place, restore=True).startswith("restored: ")
    assert shard.read_bytes() == good
    assert examined(place, restore=False) == "2 dataset versions are sound"
    code, told = place.ingest()  # with which the visible folder follows
    assert (code, told["dataset_version"]) == (0, None), told
    assert_finished(place, prepared.expected)

    remote = DataObjects(place.root, place.state / "dvc-remote").cached(md5_of(shard) or "")
    flip(remote, at)
    with pytest.raises(IntegrityError, match=named.format("remote")):
        examined(place, restore=False)
    examined(place, restore=True)
    assert_published_is_whole(place)


def test_a_flipped_byte_of_the_manifest_stops_the_next_ingest(place: Place, prepared: Prepared) -> None:
    (version,) = place.versions()
    cached = DataObjects(place.root, place.state / "dvc-cache").cached(version.manifest)
    flip(cached, cached.stat().st_size // 2)
    code, told = place.ingest()
    assert (code, told["error"]) == (1, "IntegrityError")
    assert f"{MANIFEST} is not what was versioned: {cached}" in told["said"]
    assert "perennial doctor --restore" in told["said"]
    assert examined(place, restore=True).startswith("restored: ")
    code, told = place.ingest()
    assert code == 0, told
    assert_finished(place, prepared.expected)


def test_a_flipped_byte_of_the_remote_is_not_brought_to_another_machine(place: Place, prepared: Prepared) -> None:
    shard, _, at = of_a_training_image(place)
    remote = DataObjects(place.root, place.state / "dvc-remote").cached(md5_of(shard) or "")
    flip(remote, at)
    shutil.rmtree(place.state / "dvc-cache")
    shutil.rmtree(place.root / "data")
    code, told = place.ingest()
    assert (code, told["error"]) == (1, "IntegrityError")
    assert f"{IMAGES}/{shard.name} cannot be had" in told["said"]
    assert [version.tag for version in place.versions()] == ["data/2026-11-21-1"]


def test_a_shard_that_changes_while_an_ingest_is_under_way_is_not_committed(place: Place) -> None:
    code, told = place.ingest(flip=f"{IMAGES}/*.arrow")
    assert (code, told["error"]) == (1, "IntegrityError")
    assert "changed while it was in use" in told["said"]
    assert [version.tag for version in place.versions()] == ["data/2026-11-21-1"]
    assert_published_is_whole(place)
