"""The layout that newcomers, DVC and Python's import system rely on."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOORS = {
    "mlflow": "components/registry/",
    "sqlalchemy": "components/store/",
    "psycopg2": "components/store/",
    "alembic": "components/store/",
    "cleanlab": "components/labels/issues.py",
    "cleanvision": "components/labels/image_issues.py",
    "evidently": "components/monitoring/drift/evidently_page.py",
    "prefect": "flows/",
    "apprise": "components/alerts/",
}


def _sources() -> list[Path]:
    return [path for folder in ("components", "flows") for path in (ROOT / folder).rglob("*.py")]


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_the_folder_named_like_mlflow_holds_no_python() -> None:
    assert (ROOT / "mlflow").is_dir()
    assert not list((ROOT / "mlflow").rglob("*.py"))


@pytest.mark.parametrize(("library", "door"), DOORS.items())
def test_each_library_is_imported_behind_its_one_door(library: str, door: str) -> None:
    users = [path.relative_to(ROOT).as_posix() for path in _sources() if library in _imported(path)]
    assert [user for user in users if not user.startswith(door)] == []
    assert users, f"nobody imports {library}; remove it from the dependencies and from this table"


def test_settings_are_read_by_entry_points_alone() -> None:
    # stages and curve.py are entry points too; git, DVC and decoders are started with an environment, no more.
    allowed = {
        "components/curve.py",
        "components/settings.py",
        "components/stages/__main__.py",
        "components/data/versioning/git.py",
        "components/data/decoding/isolation.py",
        "components/data/versioning/versions.py",
    }
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "components").rglob("*.py")
        if "os.environ" in path.read_text(encoding="utf-8") or "getenv" in path.read_text(encoding="utf-8")
    }
    assert readers == allowed


def test_no_module_or_test_folder_is_named_after_a_library() -> None:
    libraries = set(packages_distributions()) | set(sys.stdlib_module_names)
    ours = {path.stem for path in ROOT.glob("*.py")} | {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir()
    }
    assert not ours & (libraries - {"components", "flows", "tests"})


def test_no_room_is_called_utils() -> None:
    names = {part for path in _sources() for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


def test_test_folders_are_not_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_sql_is_never_made_of_format_strings() -> None:
    for path in (ROOT / "components" / "store").rglob("*.py"):  # the one room that speaks SQL
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in {
                "text",
                "execute",
            }:
                assert not any(isinstance(argument, ast.JoinedStr) for argument in node.args), f"{path}:{node.lineno}"
