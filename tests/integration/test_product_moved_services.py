"""Every embedded service can be moved out by its one address: a second machine then finds everything by the URLs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]


@dataclass(frozen=True)
class Elsewhere:
    """Services outside any workspace, filled with the product's: what an operator does once, when moving."""

    database_url: str
    tracking_uri: str
    git_url: str
    image_store: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url.replace("postgresql+psycopg2", "postgresql"),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "WORKSPACE_GIT_URL": self.git_url,
            "IMAGE_STORE_URL": self.image_store.as_uri(),
        }


@pytest.fixture(scope="module")
def elsewhere(
    product: Any,
    postgres_folder: Path,
    git: Callable[..., str],
    copy_database: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Elsewhere]:
    from components.store.postgres.embedded import EmbeddedPostgres

    folder = tmp_path_factory.mktemp("elsewhere")
    here = EmbeddedPostgres(product.state)
    there = EmbeddedPostgres(postgres_folder / "elsewhere", system_folder=postgres_folder / "system", wait_seconds=120)
    here.start()
    there.start()
    for name in ("perennial", "mlflow"):
        there.ensure_database(name)
        copy_database(product.state, postgres_folder / "elsewhere", name)
    yield Elsewhere(
        database_url=there.url("perennial"),
        tracking_uri=there.url("mlflow"),
        git_url=str(move_repository(product, folder, git)),
        image_store=folder / "images",
    )
    there.stop()


def move_repository(product: Any, folder: Path, git: Callable[..., str]) -> Path:
    """Copy the git repository and the DVC remote, and commit where the remote now is."""
    shutil.copytree(product.state / "dvc-remote", folder / "dvc-remote")
    git(folder, "clone", "--quiet", "--bare", str(product.state / "origin.git"), "origin.git")
    git(folder, "clone", "--quiet", "origin.git", "editing")
    config = folder / "editing" / ".dvc" / "config"
    config.write_text(
        config.read_text(encoding="utf-8").replace("../.perennial/dvc-remote", str(folder / "dvc-remote")),
        encoding="utf-8",
    )
    git(folder / "editing", "commit", "--quiet", "--all", "--message", "Move the DVC remote")
    git(folder / "editing", "push", "--quiet", "origin", "main")
    return folder / "origin.git"


def batches(url: str) -> dict[str, int]:
    from components.store.database import Database

    database = Database(url)
    with database.transaction() as connection:
        found = {row.id: row.rows for row in connection.execute(text("SELECT id, rows FROM batch"))}
    database.dispose()
    return found


def test_a_second_machine_works_by_the_urls_alone(
    product: Any,
    services: Any,
    elsewhere: Elsewhere,
    perennial: Callable[..., Any],
    git: Callable[..., str],
    digits: list[Any],
    archive: Callable[..., Path],
    noisy_digits: Callable[[Path, int], Path],
    tmp_path: Path,
) -> None:
    machine = tmp_path / "machine"
    here = ("--workspace", str(machine), "--json")
    # Prefect's home is no part of what is moved; the product's saves the making of another.
    environment = {**elsewhere.environment, "PREFECT_HOME": str(product.state / "prefect")}
    tags_before = git(product.root, "ls-remote", "--tags", "origin")

    made = perennial("init", str(machine), "--json", **environment)
    assert (made.code, made.json["origin"]) == (0, elsewhere.git_url)
    doctor = perennial("doctor", *here, **environment)
    assert doctor.code == 0, doctor.out
    assert doctor.json["database_url"] == environment["DATABASE_URL"]
    assert doctor.json["mlflow_tracking_uri"] == environment["MLFLOW_TRACKING_URI"]
    details = {check["name"]: check["detail"] for check in doctor.json["checks"]}
    assert details["mlflow"].startswith("champion is version 1, trained on")
    assert str(elsewhere.image_store) in details["image store"]

    ingested = perennial("ingest", str(noisy_digits(tmp_path / "later.tar", 90)), *here, **environment)
    assert ingested.code == 0, ingested.err
    assert (ingested.json["added"], ingested.json["duplicates"]) == (30, 60)
    assert ingested.json["dataset_version"] in git(machine, "tag")
    assert ingested.json["dataset_version"] in git(machine, "ls-remote", "--tags", elsewhere.git_url)

    delivery = archive(tmp_path / "delivery.tar", [(f"{n}.png", item.content) for n, item in enumerate(digits[:100])])
    scored = perennial("score", str(delivery), "--batch", "moved", *here, **environment)
    assert scored.code == 0, scored.err
    assert (scored.json["new_rows"], scored.json["model_version"]) == (100, 1)

    assert batches(elsewhere.database_url)["moved"] == 100
    assert [path.name for path in sorted(elsewhere.image_store.glob("*/moved-*"))] == [
        "moved-00000.arrow",
        "moved-00001.arrow",
    ]
    # No service of its own was started, and where it all came from knows nothing of this.
    assert not (machine / ".perennial" / "postgres.json").exists()
    assert not (machine / ".perennial" / "images").exists()
    assert "moved" not in batches(services.database.engine.url.render_as_string(hide_password=False))
    assert git(product.root, "ls-remote", "--tags", "origin") == tags_before


def test_the_visible_folder_follows_a_repository_that_was_moved(tmp_path: Path, git: Callable[..., str]) -> None:
    from components.data.versioning.versions import fast_forward
    from components.operations.workspace import init_workspace
    from components.settings import Settings

    workspace = init_workspace(tmp_path / "workspace", Settings())
    git(tmp_path, "clone", "--quiet", "--bare", workspace.origin, "moved.git")
    git(tmp_path, "clone", "--quiet", "moved.git", "somebody")
    git(tmp_path / "somebody", "commit", "--quiet", "--allow-empty", "--message", "Later work")
    git(tmp_path / "somebody", "tag", "data/2026-01-01-1")
    git(tmp_path / "somebody", "push", "--quiet", "--tags", "origin", "main")

    assert fast_forward(workspace.root, str(tmp_path / "moved.git"))
    assert git(workspace.root, "log", "-1", "--format=%s") == "Later work"
    assert git(workspace.root, "tag") == "data/2026-01-01-1"

    (workspace.root / "notes.txt").write_text("a person's own", encoding="utf-8")
    assert not fast_forward(workspace.root, str(tmp_path / "moved.git"))
    assert (workspace.root / "notes.txt").read_text(encoding="utf-8") == "a person's own"
