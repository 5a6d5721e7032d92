from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from components.errors import ConfigurationError, DataError
from components.records import ModelVersion, ScoredChunk, StratumCounts, Window
from components.store import labelling, predictions
from components.store.database import Database
from components.store.predictions import Batch

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")


def a_tenth(counts: StratumCounts) -> NDArray[np.int64]:
    return np.minimum(counts.population, np.maximum(2, counts.population // 10)) * (counts.population > 0)


def draw(database: Database, **changes: object) -> int:
    facts = {"allocate": a_tenth, "kind": "regular", "budget": 30, "now": NOW}
    return labelling.freeze_and_draw(database, NOVEMBER, 1, **{**facts, **changes})


def drawn(database: Database) -> dict[tuple[int, int], list[tuple[str, int, float, float]]]:
    asked = text(
        "SELECT t.predicted, t.conf_bin, b.id, t.item_no, t.u, t.inclusion_probability"
        " FROM label_task t JOIN batch b ON b.number = t.batch_number WHERE t.queue = 'accuracy' ORDER BY t.u"
    )
    found: dict[tuple[int, int], list[tuple[str, int, float, float]]] = {}
    with database.transaction() as connection:
        for row in connection.execute(asked):
            found.setdefault((row[0], row[1]), []).append(tuple(row[2:]))
    return found


def exact_weight(tasks: list[tuple[str, int, float, float]], population: int) -> Fraction:
    """The sum of 1/π with π read back as the fraction n_h / N_h that its float stands for."""
    return sum((1 / Fraction(task[3]).limit_denominator(population) for task in tasks), Fraction(0))


def test_weights_sum_to_the_population_in_every_stratum(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 400)
    fill_batch("b2", 350, seed=1, scored_at=NOW - timedelta(days=3))
    made = draw(database)
    counts = labelling.counts(database, NOVEMBER, 1)
    strata = drawn(database)
    assert counts.population.sum() == 750
    assert made == sum(len(tasks) for tasks in strata.values()) == counts.drawn.sum()
    for (predicted, conf_bin), population in np.ndenumerate(counts.population):
        tasks = strata.get((predicted, conf_bin), [])
        assert len(tasks) == counts.drawn[predicted, conf_bin]
        assert exact_weight(tasks, int(population)) == population


def test_the_smallest_u_of_each_stratum_are_drawn(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 500)
    draw(database)
    asked = text("SELECT u FROM prediction WHERE predicted = :p AND conf_bin = :b ORDER BY u LIMIT :n")
    for (predicted, conf_bin), tasks in drawn(database).items():
        with database.transaction() as connection:
            smallest = connection.scalars(asked, {"p": predicted, "b": conf_bin, "n": len(tasks)}).all()
        assert [task[2] for task in tasks] == smallest


def test_the_population_agrees_with_the_predictions(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 500)
    before = labelling.counts(database, NOVEMBER, 1)
    draw(database)
    after = labelling.counts(database, NOVEMBER, 1)
    np.testing.assert_array_equal(before.population, after.population)
    np.testing.assert_allclose(before.confidence, after.confidence)
    assert before.drawn.sum() == before.labelled.sum() == after.labelled.sum() == 0
    with database.transaction() as connection:
        mean = connection.scalar(text("SELECT avg(confidence) FROM prediction WHERE predicted = 0 AND conf_bin = 3"))
    assert after.confidence[0, 3] == pytest.approx(mean, abs=1e-6)


def test_drawing_again_returns_the_first_draw(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 300)
    first = draw(database)
    stored = drawn(database)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda _: draw(database, allocate=lambda counts: counts.population), range(4)))
    assert again == [first] * 4
    assert drawn(database) == stored


def test_concurrent_first_draws_make_one(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 300)
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: draw(database), range(6)))
    assert len(set(made)) == 1
    assert made[0] == sum(map(len, drawn(database).values()))


def test_another_database_with_the_same_batches_draws_the_same(
    database: Database, fill_batch: Callable[..., Batch]
) -> None:
    for number in range(3):  # batch numbers and order of arrival differ, what is drawn does not
        fill_batch(f"b{2 - number}", 200, seed=2 - number)
    draw(database)
    for (predicted, conf_bin), tasks in drawn(database).items():
        expected = sorted(
            (predictions.uniform_of(batch, item), batch, item)
            for batch, item in _members(database, predicted, conf_bin)
        )
        assert [(task[2], task[0], task[1]) for task in tasks] == expected[: len(tasks)]


def _members(database: Database, predicted: int, conf_bin: int) -> list[tuple[str, int]]:
    asked = text(
        "SELECT b.id, p.item_no FROM prediction p JOIN batch b ON b.number = p.batch_number"
        " WHERE p.predicted = :p AND p.conf_bin = :b"
    )
    with database.transaction() as connection:
        return [tuple(row) for row in connection.execute(asked, {"p": predicted, "b": conf_bin})]


def test_a_top_up_contains_the_first_draw_and_reweighs_it(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 600)
    made = draw(database)
    before = drawn(database)
    population = labelling.counts(database, NOVEMBER, 1).population
    extra = np.zeros((3, 4), np.int64)
    extra[1] = 7
    extra[2, 0] = 10_000  # more than there are: the stratum gives what it has
    added = labelling.top_up(database, NOVEMBER, 1, extra, NOW)
    after = drawn(database)
    counts = labelling.counts(database, NOVEMBER, 1)
    assert added == counts.drawn.sum() - made > 0
    assert counts.drawn[2, 0] == population[2, 0]
    np.testing.assert_array_equal(counts.population, population)
    for stratum, tasks in before.items():
        assert [task[:3] for task in after[stratum]][: len(tasks)] == [task[:3] for task in tasks]
    for (predicted, conf_bin), size in np.ndenumerate(population):
        assert exact_weight(after.get((predicted, conf_bin), []), int(size)) == size
    assert labelling.top_up(database, NOVEMBER, 1, extra, NOW) == added
    assert drawn(database) == after
    assert labelling.response(database, NOVEMBER, 1, 1) == (0, made, NOW)
    assert labelling.response(database, NOVEMBER, 1, 2) == (0, added, NOW)


def test_late_rows_are_neither_counted_nor_drawn(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 300)
    draw(database)
    population = labelling.counts(database, NOVEMBER, 1).population
    fill_batch("late", 300, seed=5)
    labelling.top_up(database, NOVEMBER, 1, np.full((3, 4), 1000), NOW)
    np.testing.assert_array_equal(labelling.counts(database, NOVEMBER, 1).population, population)
    assert {task[0] for tasks in drawn(database).values() for task in tasks} == {"b1"}


def test_an_unfinished_batch_is_no_part_of_the_population(
    database: Database,
    model: ModelVersion,
    fill_batch: Callable[..., Batch],
    make_chunk: Callable[..., ScoredChunk],
) -> None:
    fill_batch("b1", 200)
    batch = predictions.open_batch(
        database, batch_id="open", content_sha256="c", source="s", model_version=1, class_list=model.classes,
        items=200, scored_at=NOW, now=NOW,
    )  # fmt: skip
    predictions.write_chunk(database, batch, make_chunk(0, 100, seed=3))
    assert labelling.counts(database, NOVEMBER, 1).population.sum() == 300
    draw(database)
    assert labelling.counts(database, NOVEMBER, 1).population.sum() == 200
    assert {task[0] for tasks in drawn(database).values() for task in tasks} == {"b1"}


def test_a_day_draws_from_its_own_rows_alone(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 200)
    fill_batch("b2", 200, seed=1, scored_at=NOW - timedelta(days=1))
    day = Window.parse("2026-11-20")
    labelling.freeze_and_draw(database, day, 1, allocate=a_tenth, kind="regular", budget=5, now=NOW)
    assert labelling.counts(database, day, 1).population.sum() == 200
    assert {task[0] for tasks in drawn(database).values() for task in tasks} == {"b1"}


def test_an_impossible_allocation_is_refused_and_nothing_is_frozen(
    database: Database, fill_batch: Callable[..., Batch]
) -> None:
    fill_batch("b1", 100)
    with pytest.raises(DataError, match=r"0\.\.N_h"):
        draw(database, allocate=lambda counts: counts.population + 1)
    assert labelling.response(database, NOVEMBER, 1, 1) is None
    with pytest.raises(ConfigurationError, match="draw first"):
        labelling.top_up(database, NOVEMBER, 1, np.ones((3, 4), np.int64), NOW)


def test_an_empty_segment_draws_nothing(database: Database, model: ModelVersion) -> None:
    assert draw(database) == 0
    counts = labelling.counts(database, NOVEMBER, 1)
    assert counts.population.sum() == 0
    assert np.isnan(counts.confidence).all()


def test_the_draw_walks_the_index_instead_of_the_table(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 20_000)
    asked = text(
        "EXPLAIN SELECT * FROM prediction WHERE month = '2026-11-01' AND model_version = 1 AND NOT shadow"
        " AND predicted = 1 AND conf_bin = 1 AND batch_number = ANY(CAST('{1}' AS bigint[]))"
        " ORDER BY u_octave, u, batch_number, item_no LIMIT 20"
    )
    with database.transaction() as connection:
        connection.execute(text("ANALYZE prediction"))
        plan = "\n".join(connection.scalars(asked))
    assert "Index Scan" in plan
    assert "Incremental Sort" in plan
