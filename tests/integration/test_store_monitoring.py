from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from components.errors import ConfigurationError
from components.records import (
    ClassAccuracy,
    ClassState,
    DriftFinding,
    Interval,
    ModelVersion,
    ScoredChunk,
    Window,
)
from components.store import labelling, monitoring, predictions, reading
from components.store.champions import register_model
from components.store.counts import histograms, rollups
from components.store.database import Database
from components.store.predictions import Batch

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")


def column(database: Database, name: str) -> np.ndarray:
    with database.transaction() as connection:
        return np.array(connection.execute(text(f"SELECT {name} FROM prediction")).scalars().all(), np.float32)


def test_class_counts_follow_rows_that_arrive_late(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 300)
    assert monitoring.rollup(database, NOVEMBER) == 1
    assert monitoring.rollup(database, NOVEMBER) == 0
    np.testing.assert_array_equal(
        monitoring.class_counts(database, NOVEMBER, 1), np.bincount(column(database, "predicted").astype(int))
    )
    fill_batch("b2", 200, seed=1)
    fill_batch("b3", 100, seed=2, scored_at=NOW - timedelta(days=2))
    assert monitoring.class_counts(database, NOVEMBER, 1).sum() == 600
    assert monitoring.class_counts(database, Window.parse("2026-11-20"), 1).sum() == 500
    assert monitoring.class_counts(database, Window.parse("2026-10"), 1).tolist() == [0, 0, 0]


def test_the_rollup_keeps_counts_and_confidence_sums(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 300)
    monitoring.rollup(database, NOVEMBER)
    with database.transaction() as connection:
        day, n, total = connection.execute(text("SELECT min(day), sum(n), sum(sum_conf) FROM prediction_daily")).one()
    assert (day, n) == (NOW.date(), 300)
    assert total == pytest.approx(column(database, "confidence").sum(), rel=1e-6)


def test_concurrent_rollups_count_once(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 300)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: monitoring.rollup(database, NOVEMBER), range(6)))
    assert monitoring.class_counts(database, NOVEMBER, 1).sum() == 300


@pytest.mark.parametrize("name", ["confidence", "brightness", "bytes", "ood_score"])
def test_a_histogram_counts_half_open_cells(database: Database, fill_batch: Callable[..., Batch], name: str) -> None:
    fill_batch("b1", 300)
    values = column(database, name)  # single precision, as stored: the edges below are values, too
    edges = np.unique(np.quantile(values, [0.2, 0.5, 0.9], method="inverted_cdf"))
    expected = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    for _ in range(2):
        np.testing.assert_array_equal(monitoring.histogram(database, NOVEMBER, 1, name, edges.tolist()), expected)
    fill_batch("b2", 100, seed=1)
    assert monitoring.histogram(database, NOVEMBER, 1, name, edges).sum() == 400
    assert monitoring.histogram(database, NOVEMBER, 1, name, []).tolist() == [400]


@pytest.mark.parametrize("block", [1, 100, 4096])
def test_every_value_is_counted_however_the_stream_is_cut(
    database: Database, fill_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    fill_batch("b1", 300)
    fill_batch("b2", 200, scored_at=NOW - timedelta(days=3), seed=1)
    edges = {"brightness": [0.2, 0.5], "contrast": [0.4], "bytes": []}
    monkeypatch.setattr(histograms._Counter, "BLOCK_BYTES", block)
    counted = monitoring.histograms(database, NOVEMBER, 1, edges)
    for name, of_column in edges.items():
        cells = np.searchsorted(np.float32(of_column), column(database, name), side="right")
        np.testing.assert_array_equal(counted[name], np.bincount(cells, minlength=len(of_column) + 1))


def test_missing_values_leave_the_histogram_and_are_not_read_again(
    database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk]
) -> None:
    chunk = make_chunk(0, 4)
    chunk.statistics["contrast"][:] = [np.nan, np.inf, 0.25, -np.inf]
    batch = predictions.open_batch(
        database, batch_id="b", content_sha256="c", source="s", model_version=1, class_list=model.classes,
        items=4, scored_at=NOW, now=NOW,
    )  # fmt: skip
    predictions.write_chunk(database, batch, chunk)
    assert monitoring.histogram(database, NOVEMBER, 1, "contrast", [0.5]).tolist() == [2, 1]
    with database.transaction() as connection:
        assert connection.scalar(text("SELECT n FROM histogram_daily WHERE bin = -1")) == 1
        connection.execute(text("UPDATE prediction SET contrast = 0.9"))
    assert monitoring.histogram(database, NOVEMBER, 1, "contrast", [0.5]).tolist() == [2, 1]
    edges = monitoring.quantile_edges(database, NOVEMBER, 1, ["brightness"], 4)["brightness"]
    assert len(edges) == 3


@pytest.mark.parametrize(("name", "edges"), [("u; DROP TABLE batch", [0.5]), ("confidence", [0.5, 0.5])])
def test_an_unknown_column_and_descending_edges_are_refused(
    database: Database, model: ModelVersion, name: str, edges: list[float]
) -> None:
    with pytest.raises(ConfigurationError):
        monitoring.histogram(database, NOVEMBER, 1, name, edges)


def test_quantile_edges_cut_into_equal_shares(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 1000)
    edges = monitoring.quantile_edges(database, NOVEMBER, 1, ["brightness"], 10)["brightness"]
    counts = monitoring.histogram(database, NOVEMBER, 1, "brightness", edges)
    assert len(edges) == 9
    assert np.abs(counts - 100).max() <= 2
    assert len(monitoring.quantile_edges(database, Window.parse("2025-01"), 1, ["brightness"], 10)["brightness"]) == 0


def test_sampled_rows_are_bounded_named_and_always_the_same(
    database: Database, fill_batch: Callable[..., Batch]
) -> None:
    fill_batch("b1", 500)
    rows = monitoring.sample_rows(database, NOVEMBER, 1, 100)
    assert 80 <= len(rows["predicted"]) <= 100
    assert set(rows["predicted"]) <= {"cat", "dog", "owl"}
    assert {"confidence", "ood_score", "brightness", "bytes"} < set(rows)
    again = monitoring.sample_rows(database, NOVEMBER, None, 100)
    np.testing.assert_array_equal(rows["confidence"], again["confidence"])
    assert len(monitoring.sample_rows(database, Window.parse("2025-01"), None, 10)["predicted"]) == 0


def test_a_small_share_found_by_the_index_is_the_one_a_pass_over_the_table_finds(
    database: Database, fill_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        fill_batch(f"b{n}", 500, seed=n)
    fill_batch("older", 500, scored_at=NOW - timedelta(days=40))
    found = []
    for share in (0.0, 1.1):  # never by the index, always
        monkeypatch.setattr(rollups, "INDEXED_SHARE", share)
        found.append(monitoring.sample_rows(database, NOVEMBER, 1, 60))
    assert 40 <= len(found[0]["predicted"]) <= 60
    assert found[0]["predicted"] == found[1]["predicted"]
    for name in ("confidence", "brightness", "bytes"):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_many_rows_of_a_large_window_are_read_by_pages_of_that_window_alone(
    database: Database, fill_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        fill_batch(f"b{n}", 2000, seed=n)
    fill_batch("earlier this month", 2000, seed=4, scored_at=NOW - timedelta(days=3))
    fill_batch("older", 2000, seed=5, scored_at=NOW - timedelta(days=40))
    whole = rollups.sample(database, NOVEMBER, 1, ["confidence", "brightness"], 20_000)
    monkeypatch.setattr(rollups, "INDEXED_SHARE", 1.1)
    monkeypatch.setattr(rollups, "FEWEST_BY_PAGE", 1)
    some, again = (rollups.sample(database, NOVEMBER, 1, ["confidence", "brightness"], 2000) for _ in range(2))
    np.testing.assert_array_equal(some["confidence"], again["confidence"])
    assert 1000 < len(some["confidence"]) <= 2000
    rows = {name: set(zip(of["confidence"], of["brightness"], strict=True)) for name, of in
            (("whole", whole), ("some", some))}  # fmt: skip
    assert rows["some"] < rows["whole"]
    assert len(rows["whole"]) > 9000
    today = rollups.sample(database, Window.parse(NOW.date().isoformat()), 1, ["confidence", "brightness"], 1000)
    assert set(zip(today["confidence"], today["brightness"], strict=True)) < rows["whole"]
    assert 500 < len(today["confidence"]) <= 1000


def test_memory_does_not_grow_with_the_table(database: Database, fill_batch: Callable[..., Batch]) -> None:
    def peak() -> int:
        tracemalloc.start()
        try:
            monitoring.class_counts(database, NOVEMBER, 1)
            monitoring.histogram(database, NOVEMBER, 1, "brightness", [0.2, 0.5])
            monitoring.sample_rows(database, NOVEMBER, 1, 200)
            labelling.counts(database, NOVEMBER, 1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    fill_batch("b1", 1000)
    peak()
    small = peak()
    fill_batch("b2", 20_000, seed=1)
    assert peak() < small + 1_000_000


def accuracy(name: str, value: float) -> dict[str, object]:
    interval = Interval(value, value - 0.1, value + 0.05)
    return ClassAccuracy(name, 100, 20, interval, None, ClassState.OK, ("fine",)).as_json()


def test_estimates_keep_every_version_and_repeat_none(database: Database, model: ModelVersion) -> None:
    first = [accuracy("cat", 0.9), accuracy("dog", 0.8)]
    assert monitoring.estimates(database, NOVEMBER, 1) == []
    assert monitoring.save_estimates(database, NOVEMBER, 1, first, now=NOW) == 1
    assert monitoring.save_estimates(database, NOVEMBER, 1, first, now=NOW) == 1
    assert monitoring.estimates(database, NOVEMBER, 1) == first
    second = [accuracy("cat", 0.85), accuracy("dog", 0.8)]
    assert monitoring.save_estimates(database, NOVEMBER, 1, second, now=NOW, overall={"value": float("nan")}) == 2
    assert monitoring.save_estimates(database, NOVEMBER, 1, second, now=NOW, overall={"value": float("nan")}) == 2
    assert monitoring.estimates(database, NOVEMBER, 1) == second
    with database.transaction() as connection:
        assert connection.scalar(text("SELECT count(*) FROM accuracy_estimate")) == 4


def test_findings_are_replaced_by_newer_ones(database: Database, model: ModelVersion) -> None:
    finding = DriftFinding("brightness", 0.5, 0.01, False, 0.4, "ok", 10, 20)
    undecided = DriftFinding("contrast", None, float("nan"), False, state="constant")
    monitoring.save_findings(database, NOVEMBER, 1, [finding, undecided], now=NOW)
    newer = DriftFinding("brightness", 0.001, 0.2, True, 1e-9, "ok", 30, 20)
    monitoring.save_findings(database, NOVEMBER, 1, [newer], now=NOW)
    monitoring.save_findings(database, NOVEMBER, 1, [], now=NOW)
    found = monitoring.findings(database, NOVEMBER, 1)
    assert found == [newer, DriftFinding("contrast", None, None, False, state="constant")]


def test_a_reference_belongs_to_its_class_list(
    database: Database, model: ModelVersion, make_model: Callable[..., ModelVersion]
) -> None:
    assert monitoring.reference_level(database) is None
    monitoring.set_reference_level(database, NOVEMBER, 1, {"cat": 0.9}, reason="first", now=NOW)
    more = make_model(2, ("cat", "dog", "emu", "owl"))
    register_model(database, more)
    assert monitoring.reference_level(database, more.classes) is None
    monitoring.set_reference_level(database, NOVEMBER, 2, {"cat": 0.8}, reason="reset", now=NOW, actor="ann")
    assert monitoring.reference_level(database, model.classes).level == {"cat": 0.9}
    newest = monitoring.reference_level(database)
    assert (newest.level, newest.window, newest.actor, newest.classes) == ({"cat": 0.8}, "2026-11", "ann", more.classes)


def test_a_drift_reference_is_frozen(database: Database, model: ModelVersion) -> None:
    assert monitoring.drift_reference(database, 1) is None
    assert monitoring.set_drift_reference(database, 1, "2026-10", {"predicted": [1, 2]}, now=NOW)
    assert not monitoring.set_drift_reference(database, 1, "2026-11", {"predicted": [9, 9]}, now=NOW)
    found = monitoring.drift_reference(database, 1)
    assert (found.window, found.payload) == ("2026-10", {"predicted": [1, 2]})


def test_a_segment_is_judged_once_a_round(database: Database, model: ModelVersion) -> None:
    def judge(number: int) -> bool:
        return monitoring.record_judgement(database, NOVEMBER, 1, 1, {"by": number}, now=NOW)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(judge, range(8))) == 1
    assert monitoring.record_judgement(database, NOVEMBER, 1, 2, {"by": "second"}, now=NOW)
    assert [one.round_no for one in monitoring.judgements(database, NOVEMBER, 1)] == [1, 2]


def test_windows_wait_until_their_last_round_is_judged(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 100)
    fill_batch("b0", 100, seed=1, scored_at=NOW - timedelta(days=40))
    assert monitoring.windows_to_judge(database, "month") == ["2026-10", "2026-11"]
    assert monitoring.windows_to_judge(database, "day") == ["2026-10-11", "2026-11-20"]
    monitoring.record_judgement(database, Window.parse("2026-10"), 1, 1, {}, now=NOW)
    assert monitoring.windows_to_judge(database, "month") == ["2026-11"]
    labelling.freeze_and_draw(
        database, NOVEMBER, 1, allocate=lambda c: np.minimum(c.population, 1), kind="regular", budget=12, now=NOW
    )
    labelling.top_up(database, NOVEMBER, 1, np.ones((3, 4), np.int64), NOW)
    monitoring.record_judgement(database, NOVEMBER, 1, 1, {}, now=NOW)
    assert monitoring.windows_to_judge(database, "month") == ["2026-11"]
    monitoring.record_judgement(database, NOVEMBER, 1, 2, {}, now=NOW)
    assert monitoring.windows_to_judge(database, "month") == []
    with database.transaction() as connection:
        assert connection.scalars(text("SELECT judged_at FROM draw")).all() == [NOW, NOW]


def test_a_batch_is_read_back_in_item_order(database: Database, fill_batch: Callable[..., Batch]) -> None:
    batch = fill_batch("b1", 30)
    answers = reading.batch_answers(database, batch)
    assert [name for name, _ in answers] == [f"folder/{item}.png" for item in range(30)]
    assert {answer for _, answer in answers} <= {"cat", "dog", "owl"}
    assert reading.needing_review(database, batch) == (column(database, "confidence") < 0.7).sum()
    assert reading.items_set_aside(database, batch) == []
    places = reading.sample_places(database, NOVEMBER, 10)
    assert len({place.image_id for place in places}) == 10
