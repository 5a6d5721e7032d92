"""Files met before: known by their stamps, read again where anything may have changed, never lost."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolatedDecoder
from components.data.ingestion.ingest import IngestReport, ingest
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.sources import folders, seen
from components.data.sources.opening import open_source
from components.data.sources.seen import SeenFiles, seen_path
from components.errors import ConfigurationError
from components.params import Params

PARAMS = Params()
LIMITS = ImageLimits.of(PARAMS.data)


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files that were just written for old ones."""
    monkeypatch.setattr(seen, "RACY_NS", -1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    read: list[str] = []
    plain = folders.read_local_file

    def reading(path: Path, max_bytes: int) -> Any:
        read.append(path.name)
        return plain(path, max_bytes)

    monkeypatch.setattr(folders, "read_local_file", reading)
    return read


def picture(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8))


def put(source: Path, numbers: range) -> None:
    for n in numbers:
        path = source / ("cat", "dog")[n % 2] / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n))


def run(root: Path, source: Path, decoder: IsolatedDecoder) -> IngestReport:
    met = SeenFiles(seen_path(root / "cache", str(source)))
    items = open_source(str(source), limits=LIMITS, cache=root / "cache", seen=met)
    report = ingest(items, root=root, params=PARAMS, source="test", decoder=decoder, seen=met)
    met.save()
    return report


def test_only_what_is_new_is_read(tmp_path: Path, decoder: IsolatedDecoder, reads: list[str]) -> None:
    source, root = tmp_path / "photos", tmp_path / "workspace"
    put(source, range(30))
    first = run(root, source, decoder)
    reads.clear()
    put(source, range(30, 34))
    second = run(root, source, decoder)
    third = run(root, source, decoder)

    assert (first.added, second.added, second.duplicates, third.duplicates) == (30, 4, 30, 34)
    assert sorted(reads) == ["030.png", "031.png", "032.png", "033.png"]
    assert not third.changed


def test_a_file_that_changed_is_read_also_where_its_size_and_time_were_set_back(
    tmp_path: Path, decoder: IsolatedDecoder, reads: list[str]
) -> None:
    source, root = tmp_path / "photos", tmp_path / "workspace"
    put(source, range(30))
    run(root, source, decoder)
    changed = source / "cat" / "004.png"
    before = changed.stat()
    reads.clear()
    changed.write_bytes(picture(999))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = run(root, source, decoder)

    assert changed.stat().st_size == before.st_size
    assert reads == ["004.png"]
    assert report.added == 1


def test_a_file_that_changed_a_moment_ago_is_read_again(
    tmp_path: Path, decoder: IsolatedDecoder, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "RACY_NS", 10**15)
    source, root = tmp_path / "photos", tmp_path / "workspace"
    put(source, range(20))
    run(root, source, decoder)
    reads.clear()

    assert run(root, source, decoder).duplicates == 20
    assert len(reads) == 20


def test_what_the_data_do_not_hold_is_read_again(tmp_path: Path, decoder: IsolatedDecoder, reads: list[str]) -> None:
    source, root = tmp_path / "photos", tmp_path / "workspace"
    put(source, range(20))
    (source / "cat" / "broken.png").write_bytes(b"\x89PNG rubbish")
    first = run(root, source, decoder)
    reads.clear()
    second = run(root, source, decoder)
    shutil.rmtree(root / "data")
    reads_of_second = list(reads)
    third = run(root, source, decoder)

    assert (first.added, first.quarantined) == (20, 1)
    assert reads_of_second == ["broken.png"]
    assert (second.duplicates, second.quarantined, second.changed) == (20, 1, False)
    assert (third.added, third.quarantined) == (20, 1)


def test_an_unread_file_is_judged_like_a_read_one(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    source, root = tmp_path / "photos", tmp_path / "workspace"
    put(source, range(20))
    run(root, source, decoder)
    (source / "cat" / "000.png").rename(source / "dog" / "000.png")
    moved = run(root, source, decoder)
    again = run(root, source, decoder)

    assert moved.held == again.held == 1
    assert moved.set_aside == again.set_aside
    assert moved.set_aside[0].reason == "label-conflict"


def test_an_archive_that_did_not_change_is_not_unpacked_again(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    archive, root = tmp_path / "photos.zip", tmp_path / "workspace"
    with zipfile.ZipFile(archive, "w") as packed:
        for n in range(20):
            packed.writestr(f"{('cat', 'dog')[n % 2]}/{n}.png", picture(n))
    run(root, archive, decoder)
    met = SeenFiles(seen_path(root / "cache", str(archive)))
    items = list(open_source(str(archive), limits=LIMITS, cache=root / "cache", seen=met))

    assert {item.content for item in items} == {b""}
    known = set(Manifest.read(root / PARAMS.paths.manifest).table["image_id"].to_pylist())
    assert {item.image_id for item in items} == known
    assert run(root, archive, decoder).duplicates == 20


def test_a_failed_ingest_remembers_nothing(tmp_path: Path, decoder: IsolatedDecoder, reads: list[str]) -> None:
    source, root = tmp_path / "photos", tmp_path / "workspace"
    put(source, range(20))
    run(root, source, decoder)
    stranger = source / "heron" / "1.png"
    stranger.parent.mkdir()
    stranger.write_bytes(picture(500))
    for _ in range(2):
        reads.clear()
        with pytest.raises(ConfigurationError, match="heron"):
            run(root, source, decoder)
        assert reads == ["1.png"]


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x93NUMPY rubbish"])
def test_a_damaged_memory_costs_reading_and_nothing_else(
    tmp_path: Path, decoder: IsolatedDecoder, reads: list[str], content: bytes
) -> None:
    source, root = tmp_path / "photos", tmp_path / "workspace"
    put(source, range(20))
    run(root, source, decoder)
    seen_path(root / "cache", str(source)).write_bytes(content)
    reads.clear()

    assert run(root, source, decoder).duplicates == 20
    assert len(reads) == 20


def test_a_memory_of_another_kind_is_not_believed(tmp_path: Path) -> None:
    np.save(tmp_path / "seen.npy", np.arange(5))

    assert SeenFiles(tmp_path / "seen.npy").find(b"x" * 16) is None


def test_stamps_that_end_in_zeros_are_found(tmp_path: Path) -> None:
    met = SeenFiles(tmp_path / "seen.npy")
    stamps = [bytes([n]) * n + b"\0" * (16 - n) for n in range(1, 17)]
    for n, one in enumerate(stamps):
        met.note(one, f"{n:064x}")
    met.save()
    again = SeenFiles(tmp_path / "seen.npy")

    assert [again.find(one) for one in stamps] == [f"{n:064x}" for n in range(16)]
    assert again.find(b"\xff" * 15 + b"\0") is None
