"""Several labels an image on a real database: written once, drawn as numpy would draw, answered as sets, counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from components.errors import ConfigurationError, DataError
from components.labels.consensus import settle
from components.monitoring.sampling.several_labels import allocate_labels, expected_images
from components.records import (
    CONFIDENCE_BINS,
    CONFIDENCE_EDGES,
    LabelAnswer,
    LabelCounts,
    LabelOverlap,
    LabelSizes,
    LabelTask,
    ModelVersion,
    ScoredChunk,
    Window,
)
from components.store import champions, labelling, predictions
from components.store.counts.label_shares import predicted_labels
from components.store.database import Database
from components.store.draws import label_drawing
from components.store.draws.label_counting import label_counts
from components.store.draws.label_drawing import freeze_and_draw_labels, top_up_labels
from components.store.predictions import Batch

NOW = datetime(2026, 12, 3, 12, tzinfo=UTC)
SCORED = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")
LABELS = ("car", "rain", "a | b", "night", "bike")
COMMON = np.array([0.5, 0.3, 0.1, 0.05, 0.02])
SURE = CONFIDENCE_BINS - 1
Fill = Callable[..., Batch]


def label_chunk(first: int, rows: int, make_chunk: Any, *, seed: int = 0) -> ScoredChunk:
    """Return a chunk whose images carry several labels, most of them surely absent."""
    rng = np.random.default_rng([seed, first, 9])
    there = rng.random((rows, len(LABELS))) < COMMON
    sure = rng.beta(0.3, 6.0, (rows, len(LABELS)))
    probabilities = np.where(there, 1 - sure, sure).astype(np.float16)
    chunk: ScoredChunk = make_chunk(first, rows, seed=seed, classes=len(LABELS))
    return replace(
        chunk,
        probabilities=probabilities,
        predicted=probabilities.argmax(axis=1).astype(np.int16),
        confidence=probabilities.max(axis=1).astype(np.float32),
        positive=probabilities >= 0.5,
    )


@pytest.fixture
def several(database: Database, make_model: Callable[..., ModelVersion]) -> ModelVersion:
    """Model version 1, which predicts any number of LABELS."""
    made = replace(make_model(1, LABELS), several=True)
    champions.register_model(database, made)
    return made


def opened(database: Database, batch_id: str, rows: int, at: datetime = SCORED, version: int = 1) -> Batch:
    return predictions.open_batch(
        database, batch_id=batch_id, content_sha256=f"content of {batch_id}", source="test", model_version=version,
        class_list=LABELS, items=rows, scored_at=at, now=at, several=True,
    )  # fmt: skip


@pytest.fixture
def fill(database: Database, several: ModelVersion, make_chunk: Any) -> Fill:
    """A function that scores and closes one batch of images with several labels."""

    def put(batch_id: str = "b1", rows: int = 600, *, at: datetime = SCORED, seed: int = 0) -> Batch:
        batch = opened(database, batch_id, rows, at)
        half = rows // 2
        predictions.write_chunk(database, batch, label_chunk(0, half, make_chunk, seed=seed))
        predictions.write_chunk(database, batch, label_chunk(half, rows - half, make_chunk, seed=seed))
        return predictions.close_batch(database, batch, at)

    return put


def by_hand(make_chunk: Any, batches: Sequence[tuple[str, int, int]]) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Return (N, K) stratum of every image by its probabilities, its `u`, and (batch, item), from the chunks alone."""
    strata, uniforms, names = [], [], []
    for batch_id, rows, seed in batches:
        half = rows // 2
        for first, many in ((0, half), (half, rows - half)):
            chunk = label_chunk(first, many, make_chunk, seed=seed)
            p = chunk.probabilities.astype(np.float32)
            confidence = np.where(p >= 0.5, p, 1 - p)
            code = np.digitize(confidence, np.array(CONFIDENCE_EDGES, np.float32)) + CONFIDENCE_BINS * (p < 0.5)
            strata.append(code + 2 * CONFIDENCE_BINS * np.arange(len(LABELS)))
            items = range(first, first + many)
            uniforms += [predictions.uniform_of(batch_id, item) for item in items]
            names += [(batch_id, item) for item in items]
    return np.concatenate(strata), np.array(uniforms), names


def drawn_by_hand(
    stratum: np.ndarray, u: np.ndarray, base: int, sizes: np.ndarray
) -> tuple[set[int], dict[int, tuple[int, float]]]:
    """Return the images drawn and, of each stratum, how many and up to which `u`: loops over sorted lists, no more."""
    of_base = sorted(u)[base - 1] if base else -1.0
    chosen: set[int] = set()
    held = {}
    for h, wanted in enumerate(sizes.reshape(-1).tolist()):
        members = sorted((u[i], i) for i in range(len(u)) if h in stratum[i])
        taken = [one for n, one in enumerate(members) if n < wanted or one[0] <= of_base]
        chosen |= {i for _, i in taken}
        if taken:
            held[h] = len(taken), taken[-1][0]
    return chosen, held


def draw(database: Database, n: int = 120, **changes: Any) -> int:
    facts = {"allocate": partial(allocate_labels, n=n), "kind": "regular", "budget": n, "now": NOW}
    return freeze_and_draw_labels(database, NOVEMBER, 1, **{**facts, **changes})


def tasks_drawn(database: Database) -> dict[tuple[str, int], tuple[float, float, list[int]]]:
    asked = text(
        "SELECT b.id, t.item_no, t.u, t.inclusion_probability, t.strata FROM label_task t"
        " JOIN batch b ON b.number = t.batch_number WHERE t.queue = 'accuracy'"
    )
    with database.transaction() as connection:
        return {(r[0], r[1]): (r[2], r[3], list(r[4])) for r in connection.execute(asked)}


def strata_stored(database: Database) -> dict[int, tuple[int, int, float | None]]:
    asked = text("SELECT label, positive, conf_bin, population, drawn, largest_u FROM draw_label_stratum")
    with database.transaction() as connection:
        return {(r[0] * 2 + (not r[1])) * CONFIDENCE_BINS + r[2]: (r[3], r[4], r[5]) for r in connection.execute(asked)}


def test_only_labels_that_are_there_or_uncertain_are_stored_and_all_are_counted(
    database: Database, fill: Fill, make_chunk: Any
) -> None:
    fill("b1", 600)
    stratum, _, _ = by_hand(make_chunk, [("b1", 600, 0)])
    counts = label_counts(database, NOVEMBER, 1)
    expected = np.bincount(stratum.reshape(-1), minlength=counts.population.size).reshape(counts.population.shape)
    np.testing.assert_array_equal(counts.population, expected)
    assert counts.population.sum() == 600 * len(LABELS)
    with database.transaction() as connection:
        stored = connection.scalar(text("SELECT count(*) FROM label_prediction"))
        mean = connection.scalar(
            text("SELECT avg(confidence) FROM label_prediction WHERE label = 1 AND positive AND conf_bin = 3")
        )
    assert stored == counts.population.sum() - counts.population[:, 1, SURE].sum() < 600 * len(LABELS) / 2
    assert counts.confidence[1, 0, 3] == pytest.approx(mean, abs=1e-6)
    assert 0.97 <= np.nanmin(counts.confidence[:, 1, SURE]) <= np.nanmax(counts.confidence[:, 1, SURE]) <= 1
    assert predicted_labels(database, NOVEMBER, 1).tolist() == [
        [int(p), int(a)] for p, a in counts.population.sum(axis=2)
    ]


def test_a_chunk_delivered_again_changes_nothing_and_a_torn_delivery_is_completed(
    database: Database, several: ModelVersion, make_chunk: Any
) -> None:
    batch = opened(database, "b1", 300)
    whole = label_chunk(0, 300, make_chunk)
    columns = ("item_no", "image_id", "name", "predicted", "confidence", "probabilities", "positive", "ood_score")
    first = replace(
        whole,
        **{name: getattr(whole, name)[:100] for name in (*columns, "needs_review")},
        statistics={name: one[:100] for name, one in whole.statistics.items()},
    )
    assert predictions.write_chunk(database, batch, first) == 100
    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda _: predictions.write_chunk(database, batch, whole), range(4)))
    assert sorted(new) == [0, 0, 0, 200]
    predictions.close_batch(database, batch, SCORED)
    counts = label_counts(database, NOVEMBER, 1)
    assert set(counts.population.sum(axis=(1, 2)).tolist()) == {300}
    with database.transaction() as connection:
        twice = text("SELECT count(*) - count(DISTINCT (item_no, label)) FROM label_prediction")
        assert connection.scalar(twice) == 0


def test_a_shadow_models_labels_belong_to_no_population(
    database: Database, fill: Fill, make_model: Callable[..., ModelVersion], make_chunk: Any
) -> None:
    batch = fill("b1", 200)
    before = label_counts(database, NOVEMBER, 1).population
    champions.register_model(database, replace(make_model(2, LABELS), several=True))
    chunk = label_chunk(0, 200, make_chunk, seed=5)
    assert predictions.write_chunk(database, batch, chunk, shadow=True, model_version=2) == 200
    np.testing.assert_array_equal(label_counts(database, NOVEMBER, 1).population, before)
    draw(database, 60)
    with database.transaction() as connection:
        assert connection.scalar(text("SELECT count(DISTINCT model_version) FROM label_task")) == 1


def test_a_chunk_must_say_which_labels_are_predicted_just_where_images_carry_several(
    database: Database, several: ModelVersion, make_model: Callable[..., ModelVersion], make_chunk: Any
) -> None:
    batch = opened(database, "b1", 10)
    chunk = label_chunk(0, 10, make_chunk)
    with pytest.raises(DataError, match="carry several labels, and it does not say"):
        predictions.write_chunk(database, batch, replace(chunk, positive=None))
    with pytest.raises(DataError, match="positive is float32"):
        predictions.write_chunk(database, batch, replace(chunk, positive=np.zeros((10, 5), np.float32)))
    champions.register_model(database, make_model(2, LABELS))
    with pytest.raises(ConfigurationError, match="another class list"):
        opened(database, "b2", 10, version=2)  # the same names, of which an image has one: another list
    single = predictions.open_batch(
        database, batch_id="b2", content_sha256="c", source="s", model_version=2, class_list=LABELS, items=10,
        scored_at=SCORED, now=SCORED,
    )  # fmt: skip
    with pytest.raises(DataError, match="are of one class each"):
        predictions.write_chunk(database, single, chunk)
    assert (champions.model(database, 1).several, champions.model(database, 2).several) == (True, False)


@pytest.mark.parametrize("n", [40, 120, 400])
def test_the_draw_is_the_one_that_numpy_makes(database: Database, fill: Fill, make_chunk: Any, n: int) -> None:
    fill("b1", 600)
    fill("b2", 300, seed=3, at=SCORED - timedelta(days=2))
    asked: list[tuple[LabelCounts, LabelOverlap, LabelSizes]] = []

    def allocate(counts: LabelCounts, overlap: LabelOverlap) -> LabelSizes:
        asked.append((counts, overlap, allocate_labels(counts, overlap, n)))
        return asked[-1][2]

    made = draw(database, n, allocate=allocate)
    (counts, overlap, sizes) = asked[0]
    stratum, u, names = by_hand(make_chunk, [("b1", 600, 0), ("b2", 300, 3)])
    assert overlap.images == 900
    np.testing.assert_array_equal(
        np.bincount(overlap.stratum, minlength=sizes.sizes.size)[np.arange(sizes.sizes.size) % 8 != 7],
        np.bincount(stratum.reshape(-1), minlength=sizes.sizes.size)[np.arange(sizes.sizes.size) % 8 != 7],
    )
    chosen, held = drawn_by_hand(stratum, u, sizes.base, sizes.sizes)
    tasks = tasks_drawn(database)
    assert made == len(tasks) == len(chosen)
    assert set(tasks) == {names[i] for i in chosen}
    stored = strata_stored(database)
    assert {h: one[1] for h, one in stored.items() if one[1]} == {h: many for h, (many, _) in held.items()}
    for i in chosen:
        _, probability, codes = tasks[names[i]]
        assert codes == (stratum[i] % 8).tolist()
        shares = [stored[h][1] / stored[h][0] for h in stratum[i]]
        assert probability == pytest.approx(max(shares))
        assert {h for h in stratum[i] if u[i] <= (stored[h][2] or -1)} == {
            h for h in stratum[i] if h in held and u[i] <= held[h][1]
        }
    least = expected_images(counts.population, overlap, LabelSizes(sizes.base, np.minimum(sizes.sizes, 2)))
    assert made == pytest.approx(max(n, least), abs=12)  # two of every stratum take more than a budget of 40


def test_a_large_window_is_sized_by_some_of_its_images_and_tops_up_what_it_looks_at(
    database: Database, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_drawing, "OVERLAP_IMAGES", 500)
    monkeypatch.setattr(label_drawing, "MOST_LOOKED_AT", 300)
    fill("b1", 2000)
    asked: list[LabelOverlap] = []

    def allocate(counts: LabelCounts, overlap: LabelOverlap) -> LabelSizes:
        asked.append(overlap)
        return allocate_labels(counts, overlap, 250)

    assert draw(database, allocate=allocate) == pytest.approx(250, rel=0.2)
    assert asked[0].images == 500
    assert int(asked[0].image.max()) < 500 < label_counts(database, NOVEMBER, 1).population[0].sum()
    extra = np.zeros((len(LABELS), 2, CONFIDENCE_BINS), np.int64)
    extra[4, 1, SURE] = 1500  # more than are looked at: it gives what it has
    before = label_counts(database, NOVEMBER, 1).drawn[4, 1, SURE]
    assert 0 < top_up_labels(database, NOVEMBER, 1, extra, NOW) < 400
    after = label_counts(database, NOVEMBER, 1).drawn[4, 1, SURE]
    assert before < after < before + 300


def test_drawing_again_or_at_once_is_the_first_draw(database: Database, fill: Fill) -> None:
    fill("b1", 500)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: draw(database, n), (80, 80, 80, 80)))
    assert len(set(made)) == 1
    tasks, strata = tasks_drawn(database), strata_stored(database)
    assert draw(database, 300) == made[0] == len(tasks)
    assert (tasks_drawn(database), strata_stored(database)) == (tasks, strata)


def test_late_images_and_open_batches_are_neither_counted_nor_drawn(
    database: Database, fill: Fill, make_chunk: Any
) -> None:
    fill("b1", 300)
    unfinished = opened(database, "open", 300)
    predictions.write_chunk(database, unfinished, label_chunk(0, 200, make_chunk, seed=4))
    draw(database, 60)
    fill("late", 300, seed=5)
    counts = label_counts(database, NOVEMBER, 1)
    assert set(counts.population.sum(axis=(1, 2)).tolist()) == {300}
    top_up_labels(database, NOVEMBER, 1, np.full((len(LABELS), 2, CONFIDENCE_BINS), 500), NOW)
    assert {batch for batch, _ in tasks_drawn(database)} == {"b1"}
    assert len(tasks_drawn(database)) == 300


def test_windows_that_overlap_draw_no_image_twice(database: Database, fill: Fill) -> None:
    fill("b1", 200)
    fill("b2", 200, seed=1, at=SCORED - timedelta(days=1))
    day = Window.parse("2026-11-20")
    freeze_and_draw_labels(
        database, day, 1, allocate=partial(allocate_labels, n=50), kind="regular", budget=50, now=NOW
    )
    draw(database, 50)
    assert label_counts(database, day, 1).population[0].sum() == 200
    assert label_counts(database, NOVEMBER, 1).population[0].sum() == 200
    with database.transaction() as connection:
        twice = "SELECT count(*) - count(DISTINCT (batch_number, item_no)) FROM label_task WHERE queue = 'accuracy'"
        assert connection.scalar(text(twice)) == 0


def test_a_top_up_takes_the_next_smallest_u_and_what_another_label_asked_counts_too(
    database: Database, fill: Fill, make_chunk: Any
) -> None:
    fill("b1", 600)
    made = draw(database, 100)
    before, strata = tasks_drawn(database), strata_stored(database)
    extra = np.zeros((len(LABELS), 2, CONFIDENCE_BINS), np.int64)
    extra[3, 1, SURE], extra[1, 0, 3], extra[4, 0] = 25, 10, 10_000
    added = top_up_labels(database, NOVEMBER, 1, extra, NOW)
    after, grown = tasks_drawn(database), strata_stored(database)
    assert set(after) > set(before)
    assert len(after) == made + added
    stratum, u, names = by_hand(make_chunk, [("b1", 600, 0)])
    wanted = np.zeros(extra.size, np.int64)
    for h, (population, drawn, _) in grown.items():
        wanted[h] = min(strata[h][1] + extra.reshape(-1)[h], population)
        assert drawn == wanted[h]
        assert drawn == np.count_nonzero(u[(stratum == h).any(axis=1)] <= (grown[h][2] or -1))
    chosen, _ = drawn_by_hand(stratum, u, 0, wanted)
    assert {names[i] for i in chosen} == set(after)
    assert added < 35 + 20  # some of those asked for were there already
    for i in chosen:
        assert after[names[i]][1] == pytest.approx(max(grown[h][1] / grown[h][0] for h in stratum[i]))
    assert top_up_labels(database, NOVEMBER, 1, extra, NOW) == added
    assert tasks_drawn(database) == after
    assert labelling.response(database, NOVEMBER, 1, 1) == (0, made, NOW)
    assert labelling.response(database, NOVEMBER, 1, 2) == (0, added, NOW)


def test_an_impossible_allocation_or_top_up_is_refused_and_nothing_is_frozen(database: Database, fill: Fill) -> None:
    fill("b1", 100)
    for size in (LabelSizes(101, np.zeros((5, 2, 4), np.int64)), LabelSizes(1, np.full((5, 2, 4), 101))):
        with pytest.raises(DataError, match=r"within 0\.\.N_h"):
            draw(database, allocate=lambda _counts, _overlap, size=size: size)
    with pytest.raises(ConfigurationError, match="draw first"):
        top_up_labels(database, NOVEMBER, 1, np.ones((5, 2, 4), np.int64), NOW)
    draw(database, 20)
    with pytest.raises(DataError, match="a top-up must be"):
        top_up_labels(database, NOVEMBER, 1, np.ones((5, 4), np.int64), NOW)
    with pytest.raises(DataError, match="label_counts"):
        labelling.counts(database, NOVEMBER, 1)


def test_an_empty_segment_draws_nothing(database: Database, several: ModelVersion) -> None:
    assert draw(database) == 0
    assert label_counts(database, NOVEMBER, 1).population.sum() == 0


def truth_of(task: tuple[str, int]) -> list[str]:
    rng = np.random.default_rng([task[1], 77])
    return [name for name, share in zip(LABELS, COMMON, strict=True) if rng.random() < share]


def answer_all(database: Database, written: Callable[[list[str]], str]) -> dict[int, tuple[str, int]]:
    """Answer every open accuracy task as `truth_of` has it; return where each task lies."""
    asked = text(
        "SELECT t.id, b.id, t.item_no FROM label_task t JOIN batch b ON b.number = t.batch_number"
        " WHERE t.queue = 'accuracy' AND t.state = 'open'"
    )
    with database.transaction() as connection:
        places = {row[0]: (row[1], row[2]) for row in connection.execute(asked)}
    answers = [LabelAnswer(task, written(truth_of(place)), "ann", NOW) for task, place in places.items()]
    labelling.record_answers(database, answers, now=NOW, settle=partial(settle, wanted=1))
    return places


def test_answers_count_for_a_label_only_within_the_limits_of_its_strata(
    database: Database, fill: Fill, make_chunk: Any
) -> None:
    fill("b1", 600)
    draw(database, 120)

    def written(labels: list[str]) -> str:
        if "a | b" in labels and len(labels) > 1:
            return " | ".join(f'"{name}"' for name in reversed(labels))
        return " | ".join(labels) or "none of them"

    answer_all(database, written)
    counts = label_counts(database, NOVEMBER, 1)
    stratum, u, names = by_hand(make_chunk, [("b1", 600, 0)])
    stored, tasks = strata_stored(database), tasks_drawn(database)
    labelled, present = (np.zeros(counts.population.size, np.int64) for _ in range(2))
    left_out = 0
    for i, name in enumerate(names):
        if name not in tasks:
            continue
        for k, h in enumerate(stratum[i]):
            if stored[h][2] is not None and u[i] <= stored[h][2]:
                labelled[h] += 1
                present[h] += LABELS[k] in truth_of(name)
            else:
                left_out += 1
    np.testing.assert_array_equal(counts.labelled.reshape(-1), labelled)
    np.testing.assert_array_equal(counts.present.reshape(-1), present)
    np.testing.assert_array_equal(counts.labelled, counts.drawn)
    assert left_out > 100
    assert (counts.tasks, counts.settled) == (len(tasks), len(tasks))


def queue(database: Database) -> list[LabelTask]:
    return labelling.tasks(database, "accuracy", None)


def settled(database: Database, task: int) -> tuple[str, str | None]:
    asked = text("SELECT state, settled_answer FROM label_task WHERE id = :id")
    with database.transaction() as connection:
        return tuple(connection.execute(asked, {"id": task}).one())


def says(database: Database, task: int, wanted: int = 1, **answers: str) -> dict[str, int]:
    given = [LabelAnswer(task, said, who, NOW) for who, said in answers.items()]
    return labelling.record_answers(database, given, now=NOW, settle=partial(settle, wanted=wanted))


def test_sets_are_settled_label_by_label_and_stored_in_the_order_of_the_list(database: Database, fill: Fill) -> None:
    fill("b1", 200)
    draw(database, 40)
    assert {task.several for task in queue(database)} == {True}
    one, two, three, four, five, six = (task.task_id for task in queue(database)[:6])
    says(database, one, ann="bike | car")
    assert settled(database, one) == ("settled", '["car","bike"]')
    says(database, two, ann="none of them")
    assert settled(database, two) == ("settled", "[]")
    says(database, three, wanted=3, ann="car | rain", bob="rain | night", eve="rain")
    assert settled(database, three) == ("settled", '["rain"]')
    says(database, four, wanted=2, ann="car | rain", bob="rain")  # one says car, one does not
    assert settled(database, four) == ("adjudication", None)
    says(database, five, ann="unsure")
    assert settled(database, five) == ("adjudication", None)
    says(database, six, wanted=2, ann="car")
    assert settled(database, six) == ("open", None)
    with database.transaction() as connection:
        stored = connection.scalars(text("SELECT answer FROM label ORDER BY id")).all()
    assert stored[:3] == ['["car","bike"]', "[]", '["car","rain"]']
    assert label_counts(database, NOVEMBER, 1).settled == 3
    with pytest.raises(DataError, match=r"task \d+, by 'ann': answer 'car \| cow' is not allowed: 'cow' is no label"):
        says(database, six, ann="car | cow")
    with pytest.raises(DataError, match="'unsure' stands alone"):
        says(database, six, ann="car | unsure")
    assert labelling.new_settled_count(database) == 3
    taught = {label.task_id: label.answer for label in labelling.settled_labels(database)}
    assert taught == {one: '["car","bike"]', two: "[]", three: '["rain"]'}


def test_a_settled_set_keeps_its_pixels_and_one_that_is_unsure_teaches_nothing(database: Database, fill: Fill) -> None:
    fill("b1", 100)
    draw(database, 30)
    later = NOW + timedelta(days=1)
    one, two = (task.task_id for task in queue(database)[:2])
    says(database, one, ann="unsure")
    assert labelling.settled_labels(database) == []
    assert labelling.months_in_use(database, asked_since=later) == set()
    says(database, two, ann="none of them")
    assert [label.answer for label in labelling.settled_labels(database)] == ["[]"]
    assert len(labelling.months_in_use(database, asked_since=later)) == 1


def test_a_set_that_waited_for_its_task_is_read_once_the_task_is_there(database: Database, fill: Fill) -> None:
    fill("b1", 200)
    done = says(database, 3, ann="bike | car", bob="no such label")
    assert (done["parked"], done["settled"]) == (2, 0)
    draw(database, 40)
    done = says(database, 5, ann="car")
    assert (done["adopted"], done["settled"]) == (1, 2)
    assert settled(database, 3) == ("settled", '["car","bike"]')


def test_images_to_learn_from_are_the_uncertain_and_some_predicted_of_the_labels_asked_for(
    database: Database, fill: Fill
) -> None:
    fill("b1", 600)
    draw(database, 40)
    asked = labelling.fill_training_queue(database, NOVEMBER, 1, classes=("night",), limit=20, now=NOW)
    assert asked == 20
    of_night = text(
        "SELECT count(*) FROM label_task t JOIN label_prediction p ON p.batch_number = t.batch_number"
        " AND p.item_no = t.item_no AND p.label = 3 WHERE t.queue = 'training'"
    )
    with database.transaction() as connection:
        assert connection.scalar(of_night) == 20
        both = "SELECT count(*) - count(DISTINCT image_id) FROM label_task"
        assert connection.scalar(text(both)) == 0


def test_the_draw_walks_the_index_of_labels(database: Database, fill: Fill) -> None:
    fill("b1", 20_000)
    asked = text(
        "EXPLAIN SELECT u FROM label_prediction WHERE month = '2026-11-01' AND model_version = 1 AND NOT shadow"
        " AND label = 0 AND positive = true AND conf_bin = 3 AND batch_number = ANY(CAST('{1}' AS bigint[]))"
        " ORDER BY u_octave, u, batch_number, item_no LIMIT 20"
    )
    with database.transaction() as connection:
        connection.execute(text("ANALYZE label_prediction"))
        plan = "\n".join(connection.scalars(asked))
    assert "Index Scan" in plan
    assert "Incremental Sort" in plan
