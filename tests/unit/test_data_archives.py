"""Archives: the shapes of folders, and every trick a hostile one plays."""

import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.png import encode_png
from components.data.sources.caps import ArchiveLimits
from components.data.sources.columns import ColumnNames
from components.data.sources.item import SourceItem
from components.data.sources.opening import open_source
from components.data.sources.tree import archive_entries
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
    return [
        e.item()
        for e in archive_entries(io.BytesIO(content), f"x.{kind}", LIMITS, caps or ArchiveLimits(), ColumnNames())
    ]


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
    items = [e.item() for e in archive_entries(io.BytesIO(content), "x.zip", limits, ArchiveLimits(), ColumnNames())]

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


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_tar_header_that_claims_a_huge_extension_is_refused_without_reading_it(before: int) -> None:
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, 8 * 1024**3
    start = packed("tar", [(f"cat/{number}.png", b"x") for number in range(before)])[: before * 1024]

    with pytest.raises(DataError, match="a header claims"):
        read("tar", start + entry.tobuf(tarfile.GNU_FORMAT) + b"\x00" * 10_240)


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


HOSTILE_NAMES = {
    "quotes": 'cat/it\'s "1".png',
    "HTML": "cat/<img src=x onerror=alert(1)>.png",
    "newlines": "cat/a\r\nb.png",
    "right to left": "cat/\u202egnp.exe.png",
    "invisible": "cat/\u200b\ufeff1.png",
    "escape sequence": "cat/\x1b[31m1.png",
    "ten thousand characters": "cat/" + "x" * 10_000 + ".png",
    "spaces": "cat/ 1 .png",
    "SQL": "cat/'; DROP TABLE prediction; --.png",
    "format": "cat/{0.__class__}%s%n.png",
    "emoji": "cat/\U0001f408.png",
}


@KINDS
@pytest.mark.parametrize("what", HOSTILE_NAMES)
def test_a_name_is_text_that_can_be_stored_and_printed_whatever_it_holds(kind: str, what: str) -> None:
    name = HOSTILE_NAMES[what]
    (item,) = [item for item in read(kind, packed(kind, [(name, PNG), ("dog/1.png", PNG)])) if item.label == "cat"]

    assert (item.problem, item.content) == (None, PNG)
    assert item.name.isprintable()
    assert item.name == (name if name.isprintable() else item.name)
    assert item.name.encode().decode() == item.name
    assert "\n" not in item.name


@KINDS
def test_names_that_differ_in_their_case_are_different_files(kind: str) -> None:
    items = read(kind, packed(kind, [("Cat/1.png", b"1"), ("cat/1.png", b"2"), ("cat/1.PNG", b"3")]))

    assert [(item.name, item.label, item.content) for item in items] == [
        ("Cat/1.png", "Cat", b"1"),
        ("cat/1.PNG", "cat", b"3"),
        ("cat/1.png", "cat", b"2"),
    ]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_files_of_the_same_name_in_a_zip_all_come() -> None:
    items = read("zip", packed("zip", [("cat/1.png", b"first"), ("cat/1.png", b"second")]))

    assert [item.content for item in items] == [b"first", b"second"]


def quoted_overlap() -> bytes:
    """A zip whose entries share their bytes: each one's content is the other entries and the kernel (Fifield 2019)."""
    kernel = zlib.compress(bytes(1_000_000), 9, -15)
    crc = zlib.crc32(bytes(1_000_000))
    local = b"".join(
        struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(kernel), 1_000_000, 1, 0) + b"%d" % number
        for number in range(9)
    )
    body = local + kernel
    directory = b"".join(
        struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(kernel) + 31 * (8 - number), 1_000_000, 1, 0, 0,
            0, 0, 0, 31 * number,
        ) + b"%d" % number
        for number in range(9)
    )  # fmt: skip
    return body + directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, len(directory), len(body), 0)


def test_a_zip_whose_entries_overlap_is_refused() -> None:
    with pytest.raises(DataError, match="its entries overlap"):
        read("zip", quoted_overlap())


def test_a_zip_that_names_one_entry_many_times_is_refused() -> None:
    content = packed("zip", [("cat/1.png", PNG)])
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[start:end]
    closing = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1000, 1000, 1000 * len(entry), start, 0)

    with pytest.raises(DataError, match="its entries overlap"):
        read("zip", content[:start] + 1000 * entry + closing)


def test_a_zip_with_something_before_or_after_it_is_read() -> None:
    content = packed("zip", SHAPE.items())

    assert len(read("zip", b"#!/bin/sh\n" * 100 + content)) == 2
    with_comment = content[:-2] + (300).to_bytes(2, "little") + b"c" * 300
    assert len(read("zip", with_comment)) == 2


def test_a_zip_of_64_bits_is_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("cat/1.png", "dog/2.png"):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(PNG)
    content = buffer.getvalue()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    first = bytearray(content[start:end])
    first[20:28] = b"\xff" * 8  # the sizes are in the extra field
    name = first[46:55]
    extra = struct.pack("<2H2Q", 1, 16, len(PNG), len(PNG))
    first[30:32] = len(extra).to_bytes(2, "little")
    directory = bytes(first[:46]) + bytes(name) + extra
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), start)
    wide += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(directory), 1)
    closing = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)

    assert [item.content for item in read("zip", content[:start] + directory + wide + closing)] == [PNG]


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, b"XX"), (10, b"\xff\xff\xff\xff"), (12, b"\xff\xff\xff\x7f"), (16, b"\xff\xff\xff\xff"), (4, b"\x01\x00")],
    ids=["signature", "count", "size", "offset", "disk"],
)
def test_a_zip_whose_end_record_lies_is_refused(place: int, value: bytes) -> None:
    content = bytearray(packed("zip", SHAPE.items()))
    end = content.rindex(b"PK\x05\x06")
    content[end + place : end + place + len(value)] = value

    with pytest.raises(DataError, match=r"not a readable zip|split it"):
        read("zip", bytes(content))


@pytest.mark.parametrize("place", [0, 28, 30, 32, 42], ids=["signature", "name", "extra", "comment", "offset"])
def test_a_zip_whose_directory_is_damaged_is_refused(place: int) -> None:
    content = bytearray(packed("zip", [("cat/1.png", PNG), ("dog/2.png", PNG)]))
    start = content.index(b"PK\x01\x02")
    content[start + place] ^= 0x55

    with pytest.raises(DataError, match="not a readable zip"):
        read("zip", bytes(content))


def test_a_zip_member_whose_two_names_differ_is_set_aside() -> None:
    content = packed("zip", [("cat/1.png", PNG)])

    assert [i.problem for i in read("zip", content.replace(b"cat/1.png", b"dog/1.png", 1))] == ["unreadable"]


def test_a_zip_directory_of_millions_is_refused_before_it_is_read() -> None:
    announced = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 60_000, 60_000, 0, 0, 0)

    with pytest.raises(DataError, match=r"x.zip holds 60000 files; at most 100 .* split it"):
        read("zip", announced, ArchiveLimits(max_entries=100))


@pytest.mark.parametrize(("method", "problem"), [(zipfile.ZIP_BZIP2, None), (zipfile.ZIP_LZMA, "unreadable")])
def test_other_kinds_of_zip_members(method: int, problem: str | None) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("cat/1.png", PNG)

    assert [(item.problem, item.content) for item in read("zip", buffer.getvalue())] == [
        (problem, b"" if problem else PNG)
    ]


def test_a_bzip2_member_that_is_larger_than_it_says_takes_no_memory() -> None:
    import tracemalloc

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("cat/1.png", bytes(300_000_000))
    content = buffer.getvalue().replace((300_000_000).to_bytes(4, "little"), (9_000).to_bytes(4, "little"))
    tracemalloc.start()
    items = read("zip", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [item.problem for item in items] == ["unreadable"]
    assert peak < 10_000_000


def test_a_sparse_tar_member_is_set_aside_and_its_map_is_not_followed() -> None:
    entry = tarfile.TarInfo("cat/1.png")
    entry.type, entry.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"00000000000\x00"
    header[398:410] = b"00000001000\x00"
    header[483:495] = b"00000002000\x00"  # the size it would have with its holes: 1024
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    content = bytes(header) + bytes(512) + packed("tar", [("dog/1.png", PNG)])

    assert [(item.name, item.problem) for item in read("tar", content)] == [
        ("cat/1.png", "unreadable"),
        ("dog/1.png", None),
    ]


def test_a_sparse_map_in_an_extended_header_is_not_read_without_end() -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "9"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("cat/1.png")
        entry.pax_headers, entry.size = headers, 4_000_000
        tar.addfile(entry, io.BytesIO(b"99999999\n" + b"0\n" * 2_000_000))

    with pytest.raises(DataError, match="a header claims"):
        read("tar", buffer.getvalue())


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["GNU", "PAX"])
def test_long_names_of_both_kinds_are_read_and_judged(form: int) -> None:
    long = "cat/" + "é" * 3_000 + ".png"
    outside = "../" * 200 + "etc/passwd"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in (long, outside):
            entry = tarfile.TarInfo(name)
            entry.size = len(PNG)
            tar.addfile(entry, io.BytesIO(PNG))

    assert [(item.name, item.problem) for item in read("tar", buffer.getvalue())] == [
        (outside, "unsafe-path"),
        (long, None),
    ]


def pax(kind: bytes, *records: tuple[str, bytes]) -> bytes:
    body = b""
    for key, value in records:
        line = b" %s=%s\n" % (key.encode(), value)
        length = len(line) + len(str(len(line) + len(str(len(line)))))
        body += b"%d%s" % (length, line)
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = kind, len(body)
    return entry.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (("path", b"../../evil.png"), [("../../evil.png", "unsafe-path")]),
        (("path", b"/etc/passwd"), [("/etc/passwd", "unsafe-path")]),
        (("path", b"cat/\xff.png"), [("cat/\\udcff.png", None)]),
        (("linkpath", b"/etc/passwd"), [("cat/1.png", None)]),
        (("hdrcharset", b"BINARY"), [("cat/1.png", None)]),
        (("mtime", b"nan"), [("cat/1.png", None)]),
        (("uid", b"9" * 400), [("cat/1.png", None)]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_an_extended_header_renames_and_does_no_more(
    record: tuple[str, bytes], expected: list[tuple[str, str | None]]
) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE):
        items = read("tar", pax(kind, record) + packed("tar", [("cat/1.png", PNG)]))
        assert [(item.name, item.problem) for item in items] == expected


@pytest.mark.parametrize("size", [b"-512", b"99999999999999999999", b"1e9", b"x", b"0x10"])
def test_an_extended_header_with_a_false_size_is_refused_or_gives_nothing(size: bytes) -> None:
    content = pax(tarfile.XHDTYPE, ("size", size)) + packed("tar", [("cat/1.png", PNG), ("dog/1.png", PNG)])
    try:
        items = read("tar", content)
    except DataError as error:
        assert "not a readable tar" in str(error)
        return
    assert all(item.content in (b"", PNG) for item in items)


def test_a_record_whose_length_lies_is_refused_or_ignored() -> None:
    for body in (b"0 path=x\n", b"99999 path=x\n", b"x path=x\n", b"5 a=b\n" * 1000, b"\xff" * 512):
        entry = tarfile.TarInfo("pax")
        entry.type, entry.size = tarfile.XHDTYPE, len(body)
        content = entry.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)
        try:
            items = read("tar", content + packed("tar", [("cat/1.png", PNG)]))
        except DataError:
            continue
        assert len(items) <= 1


def test_headers_for_all_later_files_do_not_pile_up() -> None:
    import tracemalloc

    parts = [
        pax(tarfile.XGLTYPE, *((f"key{number}.{n}", b"x" * 1000) for n in range(500)))
        + packed("tar", [(f"cat/{number}.png", PNG)])[:1024]
        for number in range(100)
    ]
    content = b"".join(parts) + bytes(1024)  # 50 MB of headers
    tracemalloc.start()
    items = read("tar", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(items) == 100
    assert peak < 8_000_000
    chain = b"".join(pax(tarfile.XGLTYPE, (f"key{n}", b"x" * 900)) for n in range(2000))
    with pytest.raises(DataError, match="not a readable tar"):
        read("tar", chain + packed("tar", [("cat/1.png", PNG)]))
