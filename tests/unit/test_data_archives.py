"""Archives: the shapes of folders, and every trick a hostile one plays."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from components.data.decode import ImageLimits
from components.data.png import encode_png
from components.data.sources.archives import ArchiveLimits, read_archive
from components.data.sources.item import SourceItem
from components.data.sources.opening import open_source
from components.errors import DataError

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
PNG = encode_png(np.zeros((8, 8), np.uint8))
SHAPE = {"dog/2.png": PNG, "cat/1.png": PNG + b"1", "cat/.hidden": b"", "__MACOSX/cat/1.png": b""}


def packed(kind: str, files: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files:
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind in ("tgz", "tar.gz") else "w") as tar:
            for name, content in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read(kind: str, content: bytes, caps: ArchiveLimits | None = None) -> list[SourceItem]:
    return list(read_archive(io.BytesIO(content), f"x.{kind}", LIMITS, caps or ArchiveLimits()))


KINDS = pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz"])


@KINDS
def test_an_archive_gives_what_its_folder_would(kind: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{kind}").write_bytes(packed(kind, SHAPE.items()))
    items = list(open_source(str(tmp_path / f"a.{kind}"), limits=LIMITS, cache=tmp_path))

    assert items == [SourceItem("cat/1.png", PNG + b"1", "cat"), SourceItem("dog/2.png", PNG, "dog")]


@KINDS
def test_an_archive_behind_a_url_is_read(kind: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file(f"/archives-test/a.{kind}", packed(kind, SHAPE.items()))
    items = list(open_source(f"memory://archives-test/a.{kind}", limits=LIMITS, cache=tmp_path))

    assert [item.name for item in items] == ["cat/1.png", "dog/2.png"]


@KINDS
def test_a_folder_around_everything_is_no_class(kind: str) -> None:
    files = [(f"photos/{part}/{label}/1.png", PNG) for part in ("train", "test") for label in ("cat", "dog")]

    assert [item.label for item in read(kind, packed(kind, files))] == ["cat", "dog", "cat", "dog"]


@KINDS
@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png", "~/evil.png"]
)
def test_a_name_that_would_leave_the_folder_is_set_aside(kind: str, name: str) -> None:
    items = read(kind, packed(kind, [(name, PNG), ("cat/1.png", PNG), ("dog/1.png", PNG)]))
    evil = [item for item in items if item.problem]

    assert [(item.problem, item.content, item.label) for item in evil] == [("unsafe-path", b"", None)]
    assert [item.label for item in items if not item.problem] == ["cat", "dog"]


@KINDS
def test_an_oversized_member_is_set_aside(kind: str) -> None:
    items = read(kind, packed(kind, [("cat/a.png", bytes(range(250)) * 41), ("cat/b.png", PNG)]))

    assert [item.problem for item in items] == ["too-many-bytes", None]


def test_links_and_devices_in_a_tar_are_set_aside() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, kind in enumerate(
            [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
        ):
            entry = tarfile.TarInfo(f"cat/{number}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)

    assert [item.problem for item in read("tar", buffer.getvalue())] == [
        "symlink",
        "symlink",
        "unreadable",
        "unreadable",
        "unreadable",
    ]


def test_a_link_in_a_zip_is_set_aside() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("cat/1.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")

    assert [item.problem for item in read("zip", buffer.getvalue())] == ["symlink"]


def test_a_nul_in_a_zip_name_is_set_aside_and_shown() -> None:
    content = packed("zip", [("cat/aXb.png", PNG)]).replace(b"aXb", b"a\x00b")

    assert [(item.problem, "\x00" in item.name) for item in read("zip", content)] == [("unsafe-path", False)]


def test_an_encrypted_or_damaged_zip_member_is_set_aside() -> None:
    content = packed("zip", [("cat/1.png", PNG), ("cat/2.png", PNG)])
    directory = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
    encrypted = content[: directory + 8] + b"\x01" + content[directory + 9 :]
    flipped = bytearray(content)
    flipped[45] ^= 0xFF

    assert [item.problem for item in read("zip", encrypted)] == ["unreadable", None]
    assert [item.problem for item in read("zip", bytes(flipped))] == ["unreadable", None]


def test_a_zip_bomb_is_set_aside_unread_by_its_ratio() -> None:
    limits = ImageLimits(max_bytes=50_000_000, max_pixels=10_000, min_side=4)
    content = packed("zip", [("cat/bomb.png", b"\x00" * 20_000_000), ("cat/ok.png", PNG)])
    items = list(read_archive(io.BytesIO(content), "x.zip", limits, ArchiveLimits()))

    assert [item.problem for item in items] == ["too-many-bytes", None]


def test_a_zip_member_larger_than_it_says_is_set_aside() -> None:
    content = packed("zip", [("cat/1.png", bytes(range(250)) * 60)])
    true_size, lie = (15_000).to_bytes(4, "little"), (9_000).to_bytes(4, "little")
    assert content.count(true_size) == 2

    assert [item.problem for item in read("zip", content.replace(true_size, lie))] == ["unreadable"]


def test_a_gzip_bomb_is_refused() -> None:
    content = packed("tar.gz", [("cat/1.png", b"\x00" * 70_000_000)])

    with pytest.raises(DataError, match="refused as a bomb"):
        read("tar.gz", content)


@KINDS
@pytest.mark.parametrize("caps", [ArchiveLimits(max_entries=2), ArchiveLimits(max_total_bytes=3_000)])
def test_too_many_or_too_large_files_refuse_the_archive(kind: str, caps: ArchiveLimits) -> None:
    content = packed(kind, [(f"cat/{n}.png", bytes(range(250)) * 5) for n in range(3)])

    with pytest.raises(DataError, match=r"split it|refused as a bomb"):
        read(kind, content, caps)


@KINDS
def test_what_is_no_archive_is_an_error(kind: str) -> None:
    whole = packed(kind, SHAPE.items())
    for content in (b"", b"not an archive" * 100, whole[: len(whole) // 3]):
        with pytest.raises(DataError, match="not a readable"):
            read(kind, content)


def test_a_tar_header_that_claims_a_huge_extension_is_refused_without_reading_it() -> None:
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, 8 * 1024**3
    content = entry.tobuf(tarfile.GNU_FORMAT) + b"\x00" * 10_240

    with pytest.raises(DataError, match="a header claims"):
        read("tar", content)


def test_a_tar_that_points_backwards_is_refused() -> None:
    start = packed("tar", [("cat/1.png", PNG)])[: 512 + 512 * -(-len(PNG) // 512)]
    header = bytearray(tarfile.TarInfo("cat/2.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (2**16 - 512).to_bytes(2, "big")  # -512 in base 256: the same header, again
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)

    # Before 3.11.4 tarfile itself stops at such a header.
    with pytest.raises(DataError, match=r"entry 2 points back|no end mark after entry 1"):
        read("tar", start + bytes(header) + b"\x00" * 1024)


def test_files_of_the_same_name_all_come_in_a_fixed_order() -> None:
    content = packed("tar", [("cat/1.png", b"first"), ("cat/1.png", b"second")])

    assert [item.content for item in read("tar", content)] == [b"first", b"second"]
