"""Shards: what is written is read back, or an error says what is wrong."""

import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.data import shards
from components.data.descriptor import DESCRIPTOR_BYTES
from components.data.shards import DESCRIBED_SCHEMA, ShardReader, write_shard
from components.errors import IntegrityError


def row(number: int) -> tuple[str, bytes]:
    content = b"image %d " % number * (number % 7 + 1)
    return hashlib.sha256(content).hexdigest(), content


ROWS = [row(n) for n in range(100)]


@pytest.mark.parametrize("url", [False, True])
def test_rows_come_back_as_written(tmp_path: Path, url: bool) -> None:
    folder = f"file://{tmp_path}/images" if url else tmp_path / "images"
    shard = write_shard(folder, ROWS)
    reader = ShardReader(folder)

    assert [reader.read(shard, n) for n in range(100)] == [content for _, content in ROWS]
    assert reader.read_verified(shard, 99, ROWS[99][0]) == ROWS[99][1]
    assert [path.name for path in (tmp_path / "images").iterdir()] == [shard]


def test_a_remote_shard_comes_back_as_written() -> None:
    shard = write_shard("memory://shards-test/a", ROWS, "2026-10/batch-00001.arrow")

    assert shard == "2026-10/batch-00001.arrow"
    assert ShardReader("memory://shards-test/a").read_verified(shard, 7, ROWS[7][0]) == ROWS[7][1]
    with pytest.raises(IntegrityError, match="is missing"):
        ShardReader("memory://shards-test/b").read(shard, 7)


def test_the_name_depends_on_the_ids_and_the_bytes_on_nothing_else(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a", ROWS)
    again = write_shard(tmp_path / "b", iter(ROWS))

    assert first == again
    assert len(first.removesuffix(".arrow")) == 24
    assert (tmp_path / "a" / first).read_bytes() == (tmp_path / "b" / again).read_bytes()
    assert write_shard(tmp_path / "a", ROWS[1:]) != first


def test_large_shards_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_BATCH_BYTES", 100)
    shard = write_shard(tmp_path, ROWS)
    reader = ShardReader(tmp_path)

    assert all(reader.read_verified(shard, n, image_id) == content for n, (image_id, content) in enumerate(ROWS))


def test_a_shard_of_no_rows_can_be_written_and_has_none(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, [])

    with pytest.raises(IntegrityError, match="has 0 rows"):
        ShardReader(tmp_path).read(shard, 0)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken():
        yield ROWS[0]
        raise RuntimeError("source broke off")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path, broken(), "name.arrow")

    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_replacing_keeps_the_old_shard(tmp_path: Path) -> None:
    def broken():
        yield ROWS[0]
        raise RuntimeError("source broke off")

    write_shard(tmp_path, ROWS, "name.arrow")
    with pytest.raises(RuntimeError):
        write_shard(tmp_path, broken(), "name.arrow")

    assert ShardReader(tmp_path).read("name.arrow", 5) == ROWS[5][1]


@pytest.mark.parametrize("number", [-1, 100])
def test_a_row_outside_the_shard_is_an_error(tmp_path: Path, number: int) -> None:
    shard = write_shard(tmp_path, ROWS)

    with pytest.raises(IntegrityError, match=f"has 100 rows, row {number}"):
        ShardReader(tmp_path).read(shard, number)


@pytest.mark.parametrize("keep", [0, 7, 500, -9])
def test_a_truncated_shard_is_an_error(tmp_path: Path, keep: int) -> None:
    shard = write_shard(tmp_path, ROWS)
    (tmp_path / shard).write_bytes((tmp_path / shard).read_bytes()[:keep])

    with pytest.raises(IntegrityError, match="cannot be read"):
        ShardReader(tmp_path).read(shard, 0)


def test_one_flipped_bit_in_an_image_is_found(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, ROWS)
    damaged = bytearray((tmp_path / shard).read_bytes())
    damaged[damaged.index(ROWS[3][1])] ^= 1
    (tmp_path / shard).write_bytes(damaged)

    with pytest.raises(IntegrityError, match="doctor --restore"):
        ShardReader(tmp_path).read_verified(shard, 3, ROWS[3][0])


def test_no_flipped_byte_gives_another_image_or_ends_the_process(tmp_path: Path) -> None:
    described = [(*row(n), 4, 4, bytes(DESCRIPTOR_BYTES)) for n in range(1, 4)]
    shard = write_shard(tmp_path, described, schema=DESCRIBED_SCHEMA)
    good = (tmp_path / shard).read_bytes()
    child = os.fork()  # an offset that leads out of the file would end this very process
    if not child:
        strange = 0
        for place in range(len(good)):
            flipped = good[place] ^ (0x01 if place % 2 else 0x80)
            (tmp_path / shard).write_bytes(good[:place] + bytes([flipped]) + good[place + 1 :])
            strange += not all(sound_or_named(ShardReader(tmp_path), shard, n, one) for n, one in enumerate(described))
        os._exit(min(strange, 255))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def sound_or_named(reader: ShardReader, shard: str, number: int, stored: tuple[Any, ...]) -> bool:
    """Whether an image comes back as it was, or an error says that it does not, and nothing else is raised."""
    try:
        for name in DESCRIBED_SCHEMA.names:
            column = reader.column(shard, name)
            assert column is not None
            column.to_pylist()
        return reader.read_verified(shard, number, stored[0]) == stored[1]
    except IntegrityError:
        return True
    except BaseException:
        return False


def test_another_arrow_file_is_not_a_shard(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"a": [1]})
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)

    with pytest.raises(IntegrityError, match="has columns"):
        ShardReader(tmp_path).read("x.arrow", 0)


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", "a/../../x", "", "a\x00b"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="leaves its folder"):
        ShardReader(tmp_path).read(name, 0)
    if name:
        with pytest.raises(IntegrityError, match="leaves its folder"):
            write_shard(tmp_path / "inside", ROWS, name)


def test_many_shards_are_read_by_many_threads_and_few_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_OPEN_LOCAL", 3)
    names = [write_shard(tmp_path, ROWS[n : n + 10]) for n in range(0, 100, 10)]
    reader = ShardReader(tmp_path)

    def check(number: int) -> bool:
        image_id, content = ROWS[number % 100]
        return reader.read_verified(names[number % 100 // 10], number % 10, image_id) == content

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(1000)))
    assert len(reader._open) <= 3


def test_a_reader_can_be_pickled_while_shards_are_open(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, ROWS)
    reader = ShardReader(tmp_path)
    reader.read(shard, 0)

    assert pickle.loads(pickle.dumps(reader)).read(shard, 1) == ROWS[1][1]  # noqa: S301 - our own bytes
