"""Which files of the watched folder are taken: those nobody is still writing, whatever time they claim."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.operations.batches import _listing, _wanted


@pytest.mark.parametrize(
    ("modified", "looked", "taken"),
    [
        pytest.param(-3600.0, 120.0, True, id="written an hour ago"),
        pytest.param(0.0, 30.0, False, id="being written"),
        pytest.param(10.0**7, 120.0, True, id="dated in the future, changed two minutes ago"),
        pytest.param(10.0**7, 30.0, False, id="dated in the future, changed just now"),
    ],
)
def test_a_file_is_taken_a_minute_after_its_last_change(
    tmp_path: Path, modified: float, looked: float, taken: bool
) -> None:
    now = datetime.now(UTC)
    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    os.utime(file, (now.timestamp() + modified,) * 2)
    found = _listing(tmp_path, now + timedelta(seconds=looked))
    assert [one.path for one in found] == (["a.png"] if taken else [])


@pytest.mark.parametrize(
    ("name", "taken"),
    [("new.zip/cat/1.png", True), ("new.zip", True), ("old.zip/cat/1.png", False), ("new.zip.png", False)],
)
def test_what_an_unseen_archive_holds_is_taken_with_it(name: str, taken: bool) -> None:
    assert _wanted(name, {"new.zip", "a/b.png"}) == taken
