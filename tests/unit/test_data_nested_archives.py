"""Archives in archives and in folders: read one level deep, and no cap is multiplied by nesting."""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.png import encode_png
from components.data.sources import boxes
from components.data.sources.boxes import Box
from components.data.sources.caps import ArchiveLimits
from components.data.sources.columns import ColumnNames
from components.data.sources.folders import LocalFolder
from components.data.sources.item import SourceItem
from components.data.sources.tree import archive_entries, folder_entries
from components.errors import DataError

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
PNG = encode_png(np.zeros((8, 8), np.uint8))
NAMES = ColumnNames()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "zip": zip_of,
    "tar": tar_of,
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tgz": lambda files: gzip.compress(tar_of(files)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files)),
    "tar.xz": lambda files: lzma.compress(tar_of(files)),
    "tar.zst": lambda files: zstd(tar_of(files)),
}
KINDS = pytest.mark.parametrize("kind", PACKERS)


def read(content: bytes, name: str = "in.zip", caps: ArchiveLimits | None = None) -> list[SourceItem]:
    entries = archive_entries(io.BytesIO(content), name, LIMITS, caps or ArchiveLimits(), NAMES)
    return [entry.item() for entry in entries]


def read_folder(folder: Path, caps: ArchiveLimits | None = None) -> list[SourceItem]:
    box: Box = LocalFolder(folder)
    return [entry.item() for entry in folder_entries(box, folder.name, LIMITS, caps or ArchiveLimits(), NAMES)]


def labels(items: list[SourceItem]) -> dict[str, str | None]:
    assert all(item.content == PNG for item in items if item.problem is None)
    return {item.name: item.problem or item.label for item in items}


@KINDS
def test_an_archive_in_a_class_folder_holds_images_of_that_class(tmp_path: Path, kind: str) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/0.png").write_bytes(PNG)
    (tmp_path / f"cat/more.{kind}").write_bytes(PACKERS[kind]({"1.png": PNG, "a/2.png": PNG}))
    (tmp_path / "dog").mkdir()
    (tmp_path / f"dog/all.{kind}").write_bytes(PACKERS[kind]({"1.png": PNG}))

    assert labels(read_folder(tmp_path)) == {
        "cat/0.png": "cat",
        f"cat/more.{kind}/1.png": "cat",
        f"cat/more.{kind}/a/2.png": "cat",
        f"dog/all.{kind}/1.png": "dog",
    }


@KINDS
@pytest.mark.parametrize("outer", PACKERS)
def test_an_archive_in_an_archive_is_read(kind: str, outer: str) -> None:
    inner = PACKERS[kind]({"cat/1.png": PNG, "dog/2.png": PNG})
    content = PACKERS[outer]({f"data.{kind}": inner})

    assert labels(read(content, f"in.{outer}")) == {f"data.{kind}/cat/1.png": "cat", f"data.{kind}/dog/2.png": "dog"}


@KINDS
def test_an_archive_of_nothing_but_files_is_a_class_of_its_name(tmp_path: Path, kind: str) -> None:
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.{kind}").write_bytes(PACKERS[kind]({"1.png": PNG}))
    inside = PACKERS[kind]({f"train/{name}.{kind}": PACKERS[kind]({"1.png": PNG}) for name in ("n01", "n02")})

    assert labels(read_folder(tmp_path)) == {f"cat.{kind}/1.png": "cat", f"dog.{kind}/1.png": "dog"}
    assert labels(read(inside, f"in.{kind}")) == {
        f"train/n01.{kind}/1.png": "n01",
        f"train/n02.{kind}/1.png": "n02",
    }


def test_archives_of_splits_give_the_classes_in_them(tmp_path: Path) -> None:
    (tmp_path / "train.zip").write_bytes(zip_of({"train/cat/1.png": PNG, "train/dog/1.png": PNG, "train/README": b""}))
    (tmp_path / "test.tar").write_bytes(tar_of({"cat/2.png": PNG}))

    assert labels([item for item in read_folder(tmp_path) if "README" not in item.name]) == {
        "test.tar/cat/2.png": "cat",
        "train.zip/train/cat/1.png": "cat",
        "train.zip/train/dog/1.png": "dog",
    }


def test_only_one_level_is_opened_and_deeper_ones_are_set_aside(tmp_path: Path) -> None:
    third = zip_of({"cat/1.png": PNG})
    second = zip_of({"cat/third.zip": third, "cat/2.png": PNG})
    first = zip_of({"second.zip": second})

    assert labels(read(first)) == {"second.zip/cat/2.png": "cat", "second.zip/cat/third.zip": "nested-archive"}
    assert labels(read(first, caps=ArchiveLimits(max_nesting=0))) == {"second.zip": "nested-archive"}
    assert labels(read(first, caps=ArchiveLimits(max_nesting=2)))["second.zip/cat/third.zip/cat/1.png"] == "cat"
    (tmp_path / "first.zip").write_bytes(first)
    assert labels(read_folder(tmp_path)) == {"first.zip/second.zip": "nested-archive"}


@KINDS
def test_a_damaged_archive_inside_costs_only_itself(tmp_path: Path, kind: str) -> None:
    whole = PACKERS[kind]({"1.png": PNG, "2.png": bytes(9_000)})
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").write_bytes(PNG)
    (tmp_path / f"cat/cut.{kind}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"cat/none.{kind}").write_bytes(b"no archive")
    expected = {"cat/1.png": "cat", f"cat/cut.{kind}": "unreadable", f"cat/none.{kind}": "unreadable"}

    assert labels(read_folder(tmp_path)) == expected
    files = {name: (tmp_path / name).read_bytes() for name in expected}
    assert labels(read(zip_of(files))) == expected


def test_an_archive_in_a_folder_that_may_not_be_read_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "real.zip").write_bytes(zip_of({"1.png": PNG}))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.zip").symlink_to(tmp_path / "real.zip")

    assert labels(read_folder(tmp_path / "in")) == {"link.zip": "symlink"}


@pytest.mark.parametrize(
    "caps",
    [
        ArchiveLimits(max_entries=25),
        ArchiveLimits(max_total_bytes=25 * len(PNG)),
        ArchiveLimits(max_name_characters=100),
    ],
)
def test_caps_are_shared_by_the_whole_tree(tmp_path: Path, caps: ArchiveLimits) -> None:
    inner = {f"{number}.png": PNG for number in range(9)}
    nested = {f"{name}.zip": zip_of(inner) for name in "abc"}  # each within the caps, together beyond
    for name, content in nested.items():
        (tmp_path / name).write_bytes(content)

    assert len(read(nested["a.zip"], caps=caps)) == 9
    with pytest.raises(DataError, match=r"split it|refused as a bomb"):
        read(tar_of(nested), "in.tar", caps)
    with pytest.raises(DataError, match=r"split it|refused as a bomb"):
        read_folder(tmp_path, caps)


def test_what_is_opened_twice_counts_once() -> None:
    nested = tar_of({"a.zip": zip_of({"1.png": PNG, "2.png": PNG}), "b.tar.gz": gzip.compress(tar_of({"3.png": PNG}))})
    caps = ArchiveLimits(max_entries=5, max_total_bytes=20_000)  # of which the inner tar's blocks are 10,240

    assert [item.name for item in read(nested, "in.tar", caps)] == ["a.zip/1.png", "a.zip/2.png", "b.tar.gz/3.png"]


def test_what_a_tree_unpacks_is_bounded_by_what_the_outermost_archive_has_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    true_spooled = boxes.spooled

    def counted(chunks, name, allowance):  # type: ignore[no-untyped-def]
        return true_spooled((written.append(len(chunk)) or chunk for chunk in chunks), name, allowance)  # type: ignore[func-returns-value]

    monkeypatch.setattr("components.data.sources.zips.spooled", counted)
    monkeypatch.setattr("components.data.sources.tars.spooled", counted)
    # Like 42.zip: sixteen archives, each of which unpacks to far more than it has packed.
    bomb = zip_of({f"{number}.png": bytes(8_000) for number in range(2_000)})
    outer = zip_of({f"{number}.zip": bomb for number in range(16)})
    started = time.process_time()
    with pytest.raises(DataError, match="refused as a bomb"):
        read(outer)

    assert time.process_time() - started < 10
    assert sum(written) < 64 * 1024**2 + 1024**2


def quine() -> bytes:
    """An archive that holds an archive of its own name, and so on: as deep as anybody goes on opening."""
    content = zip_of({"1.png": PNG})
    for _ in range(50):
        content = zip_of({"r.zip": content})
    return content


def test_an_archive_that_never_ends_is_opened_once() -> None:
    assert labels(read(quine())) == {"r.zip/r.zip": "nested-archive"}


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_bomb_is_refused_wherever_it_lies(tmp_path: Path, kind: str) -> None:
    packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
    bomb = packers[kind](bytes(80 * 1024**2))
    (tmp_path / f"bomb.tar.{kind}").write_bytes(bomb)

    with pytest.raises(DataError, match="refused as a bomb"):
        read(bomb, f"bomb.tar.{kind}")
    with pytest.raises(DataError, match="refused as a bomb"):
        read(tar_of({f"bomb.tar.{kind}": bomb}), "in.tar")
    with pytest.raises(DataError, match="refused as a bomb"):
        read_folder(tmp_path)


def test_an_xz_archive_that_asks_for_too_much_memory_is_refused() -> None:
    content = bytearray(lzma.compress(tar_of({"cat/1.png": PNG}), lzma.FORMAT_XZ))
    header = slice(12, 12 + 4 * (content[12] + 1))  # of the first block: size, flags, filter, its size, dictionary, CRC
    assert len(read(bytes(content), "x.tar.xz")) == 1
    content[16] = 40  # 4 GiB
    content[header.stop - 4 : header.stop] = zlib.crc32(content[header.start : header.stop - 4]).to_bytes(4, "little")

    with pytest.raises(DataError, match=r"not a readable .tar.xz archive \(Memory usage limit"):
        read(bytes(content), "x.tar.xz")


def test_compressed_archives_of_several_streams_are_read_to_their_end() -> None:
    tar = tar_of({"cat/1.png": PNG, "dog/2.png": PNG})
    first, second = tar[:700], tar[700:]
    for kind, pack in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}.items():
        assert len(read(pack(first) + pack(second), f"x.tar.{kind}")) == 2
        with pytest.raises(DataError, match="not a readable"):
            read(pack(first) + pack(second)[:-9], f"x.tar.{kind}")


def test_a_disk_that_is_full_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(DataError, match=r"does not fit into .* make room, or set TMPDIR"):
        read(gzip.compress(tar_of({"cat/1.png": PNG})), "x.tar.gz")


def test_the_last_gibibyte_of_a_disk_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    used = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: used._replace(free=1024**3 - 1))
    with pytest.raises(DataError, match=r"does not fit into .*less than 1073741824 bytes would be left"):
        read(gzip.compress(tar_of({"cat/1.png": PNG})), "x.tar.gz")
