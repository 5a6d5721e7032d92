"""Whatever a list or an archive names, nothing outside its folder is ever read, and every name can be stored."""

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.decoding.decode import ImageLimits
from components.data.sources.caps import ArchiveLimits
from components.data.sources.columns import ColumnNames
from components.data.sources.item import printable, unsafe_path
from components.data.sources.opening import open_source
from components.data.sources.tree import archive_entries
from components.errors import DataError

LIMITS = ImageLimits(max_bytes=1000, max_pixels=1000, min_side=1)
PARTS = st.sampled_from(
    ["..", ".", "", "a", "b.png", "~", "C:", "\x00", "\\", "..\\..", "link", "secret", "é", "\n", " "]
)
PATHS = st.builds("/".join, st.lists(PARTS, min_size=1, max_size=6))
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=8))
def test_a_list_reads_only_files_in_its_folder(paths: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        outside = Path(temporary)
        (outside / "secret").write_bytes(b"secret")
        folder = outside / "in"
        (folder / "a").mkdir(parents=True)
        (folder / "link").symlink_to(outside)
        (folder / "b.png").write_bytes(b"ok")
        (folder / "a/b.png").write_bytes(b"ok")
        quoted = ['"' + path.replace('"', '""') + '"' for path in paths if path.strip()]
        (folder / "list.csv").write_text("\r\n".join(["path", *quoted]), encoding="utf-8", newline="")
        items = list(open_source(str(folder / "list.csv"), limits=LIMITS, cache=outside))

    assert len(items) == len(quoted)
    assert all(item.content == (b"ok" if item.problem is None else b"") for item in items)
    for item in items:
        item.name.encode("utf-8")
        assert "\x00" not in item.name


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(PATHS | TEXT, st.binary(max_size=50)), max_size=6), st.booleans())
def test_an_archive_gives_each_file_once_under_a_name_that_stays_inside(
    files: list[tuple[str, bytes]], zipped: bool
) -> None:
    buffer = io.BytesIO()
    written = 0
    if zipped:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files:
                if name and name.isprintable() and not name.endswith("/"):
                    archive.writestr(zipfile.ZipInfo(name), content)
                    written += 1
    else:
        with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as tar:
            for name, content in files:
                if name.isprintable():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                    written += 1
    buffer.seek(0)
    items = [
        e.item()
        for e in archive_entries(buffer, "x.zip" if zipped else "x.tar", LIMITS, ArchiveLimits(), ColumnNames())
    ]

    assert len(items) <= written
    for item in items:
        assert (item.problem == "unsafe-path") == unsafe_path(item.name.replace("\\\\", "/"))
        item.name.encode("utf-8")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1500), st.sampled_from(["zip", "tar", "tar.gz"]), st.data())
def test_a_damaged_archive_is_an_error_or_gives_items(noise: bytes, kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("cat/1.png", bytes(200))
            archive.writestr("dog/2.png", bytes(range(200)))
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            for name in ("cat/1.png", "dog/2.png"):
                entry = tarfile.TarInfo(name)
                entry.size = 200
                tar.addfile(entry, io.BytesIO(bytes(200)))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, min(len(content), 2000) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content) if data.draw(st.booleans()) else noise
    try:
        items = [
            e.item() for e in archive_entries(io.BytesIO(damaged), f"x.{kind}", LIMITS, ArchiveLimits(), ColumnNames())
        ]
    except DataError:
        return
    assert all(item.problem is None or item.content == b"" for item in items)


@given(TEXT)
def test_printable_text_can_always_be_stored(text: str) -> None:
    shown = printable(text)

    shown.encode("utf-8")
    assert shown.isprintable()
    assert printable(shown) == shown
