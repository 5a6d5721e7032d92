from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from sqlalchemy import text

from components.errors import ConfigurationError, ConflictError, DataError, IntegrityError
from components.records import ModelVersion, ScoredChunk, SetAside, Window
from components.store import predictions
from components.store.champions import register_model
from components.store.database import Database
from components.store.predictions import Batch, SeenFile

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OCTOBER = Window.parse("2026-10")


def open_batch(database: Database, model: ModelVersion, **changes: object) -> Batch:
    facts = {
        "batch_id": "b1",
        "content_sha256": "c1",
        "source": "folder",
        "model_version": model.version,
        "class_list": model.classes,
        "items": 100,
        "scored_at": NOW,
        "now": NOW,
    }
    return predictions.open_batch(database, **{**facts, **changes})


def count(database: Database, table: str) -> int:
    with database.transaction() as connection:
        return connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


def test_a_chunk_comes_back_as_it_was_written(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    chunk = make_chunk(0, 100)
    batch = open_batch(database, model)
    assert predictions.write_chunk(database, batch, chunk) == 100
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT * FROM prediction ORDER BY item_no")).mappings().all()
    assert [row["image_id"] for row in rows] == list(chunk.image_id)
    assert [row["name"] for row in rows] == list(chunk.name)
    stored = np.stack([np.frombuffer(row["probabilities"], "<f2") for row in rows])
    np.testing.assert_array_equal(stored, chunk.probabilities)
    np.testing.assert_array_equal(np.float32([row["confidence"] for row in rows]), chunk.confidence)
    np.testing.assert_array_equal(np.float32([row["sharpness"] for row in rows]), chunk.statistics["sharpness"])
    order = np.argsort(-chunk.probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(chunk.probabilities, order, axis=1).astype(np.float32)
    for place, rank in enumerate(("second", "third"), start=1):
        np.testing.assert_array_equal([row[f"{rank}_class"] for row in rows], order[:, place])
        np.testing.assert_array_equal(np.float32([row[f"{rank}_confidence"] for row in rows]), ranked[:, place])
    assert [row["u"] for row in rows] == [predictions.uniform_of("b1", item) for item in chunk.item_no]
    assert [row["shard_row"] for row in rows] == list(range(100))
    for row in rows:
        assert row["conf_bin"] == sum(row["confidence"] >= np.float32(edge) for edge in (0.60, 0.85, 0.97))
        assert row["u_octave"] == sum(row["u"] >= 2.0**-halvings for halvings in range(1, 21))


def test_of_two_classes_there_is_no_third(
    database: Database, make_model: Callable[..., ModelVersion], make_chunk: Callable[..., ScoredChunk]
) -> None:
    model = make_model(1, ("cat", "dog"))
    register_model(database, model)
    predictions.write_chunk(database, open_batch(database, model), make_chunk(0, 5, classes=2))
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT * FROM prediction")).mappings().all()
    assert [row["second_class"] for row in rows] == [1 - row["predicted"] for row in rows]
    assert {(row["third_class"], row["third_confidence"]) for row in rows} == {(None, None)}


def test_a_short_copy_keeps_nothing(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predictions.encode
    monkeypatch.setattr(predictions, "encode", lambda chunk, name, same, rows: whole(chunk, name, same, rows[:-1]))
    with pytest.raises(IntegrityError, match="took 99 of 100 rows"):
        predictions.write_chunk(database, open_batch(database, model), make_chunk(0, 100))
    assert count(database, "prediction") == 0


def test_a_redelivered_batch_adds_no_row(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    chunk = make_chunk(0, 100)
    predictions.write_chunk(database, open_batch(database, model), chunk)
    again = open_batch(database, model, scored_at=NOW - timedelta(days=40))
    assert again.scored_at == NOW  # fixed when the row was made, and the month partition with it
    assert predictions.write_chunk(database, again, chunk) == 0
    predictions.close_batch(database, again, NOW)
    assert predictions.write_chunk(database, again, chunk) == 0
    assert count(database, "prediction") == 100
    assert predictions.find_batch(database, "b1").rows == 100


def test_parallel_deliveries_of_one_batch_write_each_item_once(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    chunks = [make_chunk(first, 50) for first in range(0, 500, 50)]

    def deliver(order: int) -> int:
        batch = open_batch(database, model, items=500)
        mine = chunks if order % 2 == 0 else chunks[::-1]
        return sum(predictions.write_chunk(database, batch, chunk) for chunk in mine)

    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(deliver, range(4)))
    assert sum(new) == 500
    assert count(database, "prediction") == 500
    assert predictions.find_batch(database, "b1").rows == 500


def test_the_same_key_with_other_content_is_refused(database: Database, model: ModelVersion) -> None:
    open_batch(database, model)
    with pytest.raises(ConflictError, match="other content"):
        open_batch(database, model, content_sha256="c2")


def test_a_batch_stays_with_the_model_that_first_scored_it(
    database: Database, model: ModelVersion, make_model: Callable[..., ModelVersion]
) -> None:
    open_batch(database, model)
    register_model(database, make_model(2))
    assert open_batch(database, model, model_version=2).model_version == 1


@pytest.mark.parametrize(
    ("moment", "said"),
    [(NOW.replace(tzinfo=None), "has no zone"), (NOW + timedelta(hours=1), "future")],
)
def test_naive_and_future_times_are_refused(
    database: Database, model: ModelVersion, moment: datetime, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_batch(database, model, scored_at=moment)


def test_the_month_is_that_of_utc(database: Database, model: ModelVersion) -> None:
    tokyo = timezone(timedelta(hours=9))
    batch = open_batch(database, model, scored_at=datetime(2026, 11, 1, 3, tzinfo=tokyo))
    assert batch.month.isoformat() == "2026-10-01"
    assert predictions.open_batches(database, OCTOBER) == 1


def test_another_class_list_than_the_models_is_refused(database: Database, model: ModelVersion) -> None:
    with pytest.raises(ConfigurationError, match="another class list"):
        open_batch(database, model, class_list=("dog", "cat", "owl"))


def test_done_items_are_those_predicted_or_set_aside(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    batch = open_batch(database, model, items=12)
    predictions.write_chunk(database, batch, make_chunk(0, 10))
    with pytest.raises(IntegrityError, match="10 of 12"):
        predictions.close_batch(database, batch, NOW)
    aside = [SetAside(10, "a\x00b.png", "corrupt", "bad \udcff byte"), SetAside(11, "c.png", "empty", "")]
    assert predictions.write_set_aside(database, batch, aside) == 2
    assert predictions.write_set_aside(database, batch, aside) == 0
    assert predictions.written(database, batch) == set(range(12))
    assert predictions.close_batch(database, batch, NOW).state == "closed"
    assert predictions.close_batch(database, batch, NOW).state == "closed"


def test_new_rows_in_a_closed_batch_are_refused(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    batch = open_batch(database, model, items=20)
    predictions.write_chunk(database, batch, make_chunk(0, 10))
    predictions.write_set_aside(database, batch, [SetAside(n, "x", "corrupt", "") for n in range(10, 20)])
    predictions.close_batch(database, batch, NOW)
    with pytest.raises(ConflictError, match="closed"):
        predictions.write_chunk(database, batch, make_chunk(10, 10))
    assert count(database, "prediction") == 10


def test_hostile_names_are_stored_as_text(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    hostile = ("'); DROP TABLE prediction; --", 'a"b,c\nd', "\\N", "", "nul\x00.png", "ungültig-\udcff.png", "\\.")
    chunk = replace(make_chunk(0, len(hostile)), name=hostile)
    predictions.write_chunk(database, open_batch(database, model), chunk)
    with database.transaction() as connection:
        names = connection.scalars(text("SELECT name FROM prediction ORDER BY item_no")).all()
    assert names == [*hostile[:4], "nul\\x00.png", "ungültig-\\udcff.png", "\\."]


def test_nan_statistics_and_absent_ones_are_kept_apart(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    chunk = make_chunk(0, 2)
    chunk = replace(chunk, statistics={"brightness": np.array([np.nan, 0.5], np.float32)})
    predictions.write_chunk(database, open_batch(database, model), chunk)
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT brightness, contrast FROM prediction ORDER BY item_no")).all()
    assert np.isnan(rows[0][0])
    assert rows[1][0] == 0.5
    assert rows[0][1] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"predicted": np.full(5, 3, np.int16)}, "predicted is .*3"),
        ({"confidence": np.full(5, np.nan, np.float32)}, "confidence is .*nan"),
        ({"item_no": np.array([0, 1, 2, 3, 100])}, "item_no is .*100"),
        ({"item_no": np.array([0, 1, 2, 3, 3])}, "there twice"),
        ({"name": ("a",)}, "name has 1 rows"),
        ({"probabilities": np.zeros((5, 2), np.float16)}, "probabilities are"),
    ],
)
def test_a_chunk_that_contradicts_itself_is_refused(
    database: Database,
    model: ModelVersion,
    make_chunk: Callable[..., ScoredChunk],
    change: dict[str, object],
    said: str,
) -> None:
    batch = open_batch(database, model)
    with pytest.raises(DataError, match=said):
        predictions.write_chunk(database, batch, replace(make_chunk(0, 5), **change))
    assert count(database, "prediction") == 0


def test_shadow_rows_belong_to_no_segment(
    database: Database,
    model: ModelVersion,
    make_model: Callable[..., ModelVersion],
    make_chunk: Callable[..., ScoredChunk],
) -> None:
    register_model(database, make_model(2))
    batch = open_batch(database, model)
    predictions.write_chunk(database, batch, make_chunk(0, 100))
    assert predictions.write_chunk(database, batch, make_chunk(0, 100, seed=1), shadow=True, model_version=2) == 100
    found = predictions.segments(database, Window.parse("2026-11"))
    assert [(s.model_version, s.predictions, s.classes) for s in found] == [(1, 100, model.classes)]
    with pytest.raises(DataError, match="contradict"):
        predictions.write_chunk(database, batch, make_chunk(0, 100, seed=1), model_version=2)


def test_partitions_are_made_once_by_many_at_a_time(database: Database) -> None:
    month = datetime(2027, 3, 15, tzinfo=UTC).date()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: predictions.ensure_partition(database, month), range(8)))
    with database.transaction() as connection:
        made = connection.scalars(
            text("SELECT relname FROM pg_class WHERE relname LIKE 'prediction_2%' AND relkind = 'r'")
        )
        assert made.all() == ["prediction_2027_03"]


def test_files_are_taken_once_unless_they_change(database: Database) -> None:
    files = [SeenFile("a.png", 10, 1), SeenFile("b\x00.png", 20, 2)]
    assert predictions.unseen(database, files) == files
    predictions.mark_seen(database, files[1:], batch_id="b1", now=NOW)
    predictions.mark_seen(database, files[1:], batch_id="b2", now=NOW)
    assert predictions.unseen(database, [*files, SeenFile("b\x00.png", 20, 3)]) == [
        files[0],
        SeenFile("b\x00.png", 20, 3),
    ]
    assert predictions.unseen(database, []) == []


def test_images_are_located_in_their_newest_shard(
    database: Database, fill_batch: Callable[..., Batch], make_chunk: Callable[..., ScoredChunk]
) -> None:
    fill_batch("old", 10, scored_at=NOW - timedelta(days=40))
    fill_batch("new", 10)
    image = make_chunk(0, 10).image_id[3]
    places = predictions.locate_images(database, [image, "unknown"])
    assert set(places) == {image}
    assert (places[image].row, places[image].scored_at) == (3, NOW)
    october = [(NOW - timedelta(days=40)).date()]
    assert predictions.locate_images(database, [image], months=october)[image].scored_at == NOW - timedelta(days=40)
