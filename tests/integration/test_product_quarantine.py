"""What an ingest could not take, in a real workspace: listed, decided by a person, all of it in one version or none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from components.data.manifest import Manifest
from components.data.png import encode_png
from components.errors import ConfigurationError, RefusedError

if TYPE_CHECKING:
    from components.operations.services import Services
    from components.store.database import Database

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(600), pytest.mark.slow]

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOSTILE = "<b>&amp;.png"


def image(number: int, side: int = 16) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8))


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def opened(tmp_path: Path, database: Database) -> Iterator[Services]:
    """A workspace of its own whose database is on the tests' server: no service has to be started."""
    from components.operations.services import open_services
    from components.operations.workspace import init_workspace
    from components.settings import Settings

    url = database.engine.url.render_as_string(hide_password=False)
    settings = Settings(database_url=url, mlflow_tracking_uri="sqlite://")
    small = {"data": {"shard_bytes": 65_536, "max_pixels": 400, "near_distance": 0}}
    init_workspace(tmp_path / "workspace", settings, small)
    with open_services(tmp_path / "workspace", settings) as services:
        yield services


def test_what_was_set_aside_is_listed_decided_and_let_in(
    opened: Services, tmp_path: Path, git: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.data.versioning.versions import WorkspaceClone, dataset_tags
    from components.operations.ingestion import ingest_source
    from components.operations.quarantine import list_quarantine, release_files
    from components.operations.services import open_services
    from components.store.ledger import history
    from flows.cli import cli

    root, photos, large = opened.workspace.root, tmp_path / "photos", image(900, 32)
    for number in range(24):
        path = photos / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
    (photos / "cat" / "large.png").write_bytes(large)
    first = ingest_source(opened, str(photos), add_classes=(), now=NOW)
    assert (first["added"], first["quarantined"], first["dataset_version"]) == (24, 1, "data/2026-11-20-1")

    def rows() -> dict[str, dict[str, Any]]:
        return {row["image_id"]: row for row in Manifest.read(root / "data" / "manifest.parquet").table.to_pylist()}

    # An image of the training set comes again as the other class: noted in a commit, but no new dataset version.
    train = next(n for n in range(0, 24, 2) if rows()[name_of(image(n))]["split"] == "train")
    more = tmp_path / "more"
    (more / "dog").mkdir(parents=True)
    (more / "dog" / HOSTILE).write_bytes(image(train))
    second = ingest_source(opened, str(more), add_classes=(), now=NOW)
    assert (second["held"], second["dataset_version"], dataset_tags(root)) == (1, None, ["data/2026-11-20-1"])
    shutil.rmtree(photos)
    shutil.rmtree(more)

    # Listed without a service, bounded, and on a page where the person sees what is to be decided.
    run, here = CliRunner(), ["--workspace", str(root)]
    listed = run.invoke(cli, ["quarantine", "--limit", "1", "--html", str(tmp_path / "held.html"), *here])
    assert listed.exit_code == 0, listed.output
    assert "2 files await a decision in data/2026-11-20-1" in listed.stdout
    assert "… and 1 more" in listed.stdout
    page = (tmp_path / "held.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    assert "&lt;b&gt;&amp;amp;.png" in page
    assert HOSTILE not in page
    found = json.loads(run.invoke(cli, ["quarantine", "--json", *here]).stdout)
    assert [(f["reason"], f["label"], f["stored"]) for f in found["shown"]] == [
        ("label-conflict", "dog", "cat"),
        ("too-many-pixels", "cat", None),
    ]
    unknown = run.invoke(cli, ["quarantine", "show", "nothing.png", *here])
    assert isinstance(unknown.exception, ConfigurationError)
    assert "no file that was set aside is 'nothing.png'" in str(unknown.exception)
    shown = json.loads(run.invoke(cli, ["quarantine", "show", name_of(large)[:8], "--json", *here]).stdout)
    assert (shown[0]["spec"], shown[0]["kept"]) == (str(photos), len(large))

    # Together or not at all: one of the two is still over the limit.
    before = (git(root, "ls-remote", "origin"), rows())
    named = [name_of(large), f"dog/{HOSTILE}"]
    with pytest.raises(RefusedError, match=r"1 of 2 files cannot be released.*32 x 32 pixels.*raise data.max_pixels"):
        release_files(opened, named, actor="ann", now=LATER)
    assert (git(root, "ls-remote", "origin"), rows()) == before

    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["data"]["max_pixels"] = 10_000
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    git(root, "commit", "--quiet", "--all", "--message", "Take larger images")
    git(root, "push", "--quiet")
    before = (git(root, "ls-remote", "origin"), rows())
    with open_services(root, opened.workspace.settings) as services:
        tried = release_files(services, named, dry_run=True, actor="ann", now=LATER)
        assert (tried["released"], tried["dataset_version"]) == (2, None)
        with monkeypatch.context() as patch:  # the end comes just before anything is pushed
            patch.setattr(WorkspaceClone, "publish", _die)
            with pytest.raises(KeyboardInterrupt):
                release_files(services, named, actor="ann", now=LATER)
        assert (git(root, "ls-remote", "origin"), rows()) == before
        assert services.quarantine.get(name_of(large)) == large
        done = release_files(services, named, actor="ann", now=LATER)
        again = release_files(services, [name_of(large)[:12]], actor="ann", now=LATER)
        left = services.quarantine.get(name_of(large))

    assert (done["released"], done["dataset_version"]) == (2, "data/2026-11-21-1")
    assert (again["already"], again["dataset_version"]) == ([name_of(large)], None)
    now = rows()
    assert (now[name_of(large)]["state"], now[name_of(large)]["label_origin"]) == ("active", "given")
    decided = now[name_of(image(train))]
    assert (decided["label"], decided["label_origin"], decided["labelled_by"]) == ("dog", "corrected", "ann")
    assert left is None
    assert list_quarantine(opened.workspace)["files"] == 0
    (entry,) = history(opened.database, 10, kind="quarantine")
    assert (entry["action"], entry["actor"]) == ("released", "ann")
    assert entry["evidence"]["dataset_version"] == "data/2026-11-21-1"


def _die(_: Any) -> None:
    raise KeyboardInterrupt


def test_a_list_is_scored_by_the_column_that_is_named(apart: Services, digits: list[Any], tmp_path: Path) -> None:
    from components.errors import DataError
    from components.operations.batches import score_source

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(digits[number].content + b"\0")
    lines = "".join(f"{n}.png,{1 - n}.png\n" for n in (0, 1))
    (tmp_path / "list.csv").write_text(f"front,back\n{lines}", encoding="utf-8")
    spec = str(tmp_path / "list.csv")
    with pytest.raises(DataError, match="no column 'path'"):
        score_source(apart, spec, batch_id=None, now=NOW)
    scored = score_source(apart, spec, batch_id=None, columns=["path=back"], now=NOW)
    assert (scored["images"], scored["predictions"], scored["set_aside"]) == (2, 2, 0)
