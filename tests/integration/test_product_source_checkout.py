"""Flows commit; so they never work in Perennial's own source, where a person's work lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ("history",),
        ("doctor",),
        ("down",),
        ("retrain",),
        ("ingest", "digits"),
        ("score", "digits"),
        ("monitor",),
        ("label", "draw"),
        ("rollback", "--reason", "no"),
        ("serve",),
    ],
    ids=" ".join,
)
def test_no_command_works_in_the_source_checkout(
    command: tuple[str, ...], source_checkout: Path, perennial: Callable[..., Any], git: Callable[..., str]
) -> None:
    before = git(source_checkout, "rev-parse", "HEAD")
    refused = perennial(*command, "--workspace", str(source_checkout))
    assert refused.code == 3
    assert refused.err.startswith(f"perennial: {source_checkout} is Perennial's source, not a workspace; make one with")
    assert len(refused.err.splitlines()) == 1
    assert git(source_checkout, "rev-parse", "HEAD") == before
    assert git(source_checkout, "status", "--porcelain", "--ignored") == ""


def test_no_workspace_is_made_of_the_source_checkout(
    source_checkout: Path, perennial: Callable[..., Any], git: Callable[..., str]
) -> None:
    refused = perennial("init", str(source_checkout))
    assert refused.code == 3
    assert "choose another folder" in refused.err
    assert git(source_checkout, "status", "--porcelain", "--ignored") == ""


def test_nothing_is_committed_from_a_folder_inside_the_source_checkout(
    source_checkout: Path, git: Callable[..., str]
) -> None:
    from components.data.versioning.git import commit_all
    from components.errors import RefusedError

    inside = source_checkout / "mine"
    inside.mkdir()
    (inside / "file").touch()
    before = git(source_checkout, "rev-parse", "HEAD")
    with pytest.raises(RefusedError, match="is Perennial's source"):
        commit_all(inside, "Never")
    assert git(source_checkout, "rev-parse", "HEAD") == before


@pytest.fixture
def source_checkout(tmp_path: Path, git: Callable[..., str]) -> Path:
    """A repository that looks like Perennial's own, so that a failure of this test harms nobody's."""
    root = tmp_path / "source"
    (root / "components").mkdir(parents=True)
    (root / "flows").mkdir()
    for name in ("components/records.py", "flows/cli.py", "dvc.yaml", "params.yaml"):
        (root / name).touch()
    git(root, "init", "--quiet", ".")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Source")
    return root
