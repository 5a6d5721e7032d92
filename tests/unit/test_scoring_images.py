import hashlib
import uuid
from datetime import date
from pathlib import Path

import pytest

from components.errors import IntegrityError
from components.scoring.images import ImageStore, shard_name

OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)


def row(content: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(content).hexdigest(), content


@pytest.fixture(params=["path", "file", "memory"])
def url(request, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://store-{uuid.uuid4()}"
    return str(tmp_path / "store") if request.param == "path" else (tmp_path / "store").as_uri()


def test_what_was_put_is_got_back_by_row(url):
    shard = shard_name(OCTOBER, "batch", 3)
    assert shard == "2026-10/batch-00003.arrow"
    ImageStore(url).put(shard, [row(b"one"), row(b"two")])
    store = ImageStore(url)
    assert [store.get(shard, 0), store.get(shard, 1)] == [b"one", b"two"]
    assert store.get(shard, 1, row(b"two")[0]) == b"two"


def test_other_bytes_than_the_predictions_are_refused(url):
    store = ImageStore(url)
    shard = shard_name(OCTOBER, "batch", 0)
    store.put(shard, [row(b"one")])
    with pytest.raises(IntegrityError):
        store.get(shard, 0, row(b"two")[0])
    with pytest.raises(IntegrityError):
        store.get(shard, 1)
    with pytest.raises(IntegrityError):
        store.get(shard_name(OCTOBER, "never", 0), 0)


def test_a_month_is_deleted_whole_and_alone(url):
    store = ImageStore(url)
    for month in (NOVEMBER, OCTOBER):
        store.put(shard_name(month, "batch", 0), [row(b"one")])
        store.get(shard_name(month, "batch", 0), 0)
    assert store.months() == [OCTOBER, NOVEMBER]
    assert store.delete_month(OCTOBER)
    assert not store.delete_month(OCTOBER)
    assert store.months() == [NOVEMBER]
    assert store.get(shard_name(NOVEMBER, "batch", 0), 0) == b"one"
    with pytest.raises(IntegrityError):
        store.get(shard_name(OCTOBER, "batch", 0), 0)


def test_a_store_that_does_not_exist_yet_has_no_months(url):
    assert ImageStore(url).months() == []


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "", "x" * 200, "Nul\0", ".hidden", "ünïcode"])
def test_a_hostile_batch_id_never_chooses_a_path(key, tmp_path):
    shard = shard_name(OCTOBER, key, 1)
    month, _, file = shard.partition("/")
    assert month == "2026-10"
    assert file == f"{hashlib.sha256(key.encode()).hexdigest()}-00001.arrow"
    store = ImageStore(str(tmp_path / "store"))
    store.put(shard, [row(b"one")])
    assert store.get(shard, 0) == b"one"


@pytest.mark.parametrize("shard", ["../x.arrow", "2026-10/../../x.arrow", "/etc/passwd", "2026-10/x", "x.arrow", ""])
def test_a_shard_name_we_did_not_make_is_refused(shard, tmp_path):
    store = ImageStore(str(tmp_path / "store"))
    with pytest.raises(IntegrityError, match="no such file"):
        store.get(shard, 0)
    with pytest.raises(IntegrityError, match="no such file"):
        store.put(shard, [row(b"one")])


def test_an_erased_image_leaves_every_other_in_its_row(url):
    store = ImageStore(url)
    shard = shard_name(OCTOBER, "batch", 0)
    rows = [row(content) for content in (b"one", b"two", b"one", b"three")]  # the same image twice
    store.put(shard, rows)
    store.get(shard, 0)
    assert store.erase(shard, {rows[0][0], "f" * 64}) == 2
    assert [store.get(shard, n, rows[n][0]) for n in (1, 3)] == [b"two", b"three"]
    for gone in (0, 2):
        with pytest.raises(IntegrityError, match="was recalled; its bytes are erased"):
            store.get(shard, gone, rows[gone][0])
    assert store.erase(shard, {rows[0][0]}) == 0
    assert ImageStore(url).get(shard, 3) == b"three"
    assert store.erase(shard_name(OCTOBER, "batch", 1), {rows[0][0]}) == 0


def test_the_shards_of_a_batch_are_told_from_those_of_its_namesakes(url):
    store = ImageStore(url)
    assert store.shards_of(OCTOBER, "batch") == []
    for batch, chunk in (("batch", 0), ("batch", 123456), ("batch-00001", 0), ("batc", 0), ("a/b", 1)):
        store.put(shard_name(OCTOBER, batch, chunk), [row(b"one")])
    assert store.shards_of(OCTOBER, "batch") == [shard_name(OCTOBER, "batch", n) for n in (0, 123456)]
    assert store.shards_of(OCTOBER, "a/b") == [shard_name(OCTOBER, "a/b", 1)]
    assert store.shards_of(NOVEMBER, "batch") == []
    assert store.holds(shard_name(OCTOBER, "batch", 0))
    assert not store.holds(shard_name(OCTOBER, "batch", 1))
