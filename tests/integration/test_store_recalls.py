"""What a recall means in the database: nobody is asked, nothing is learnt, no sample shows the image; numbers stay."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from components.labels.consensus import settle
from components.records import LabelAnswer, LabelTask, Window
from components.store import labelling, lineage, reading, recalls
from components.store.database import Database
from components.store.queues import checks
from components.store.scored.batches import Batch

NOW = datetime(2026, 12, 3, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")


def draw(database: Database, most: int = 3) -> list[LabelTask]:
    labelling.freeze_and_draw(
        database, NOVEMBER, 1, allocate=lambda counts: np.minimum(counts.population, most), kind="regular", budget=36,
        now=NOW,
    )  # fmt: skip
    return labelling.tasks(database, "accuracy", None)


def take_back(database: Database, *image_ids: str) -> list[str]:
    return recalls.recall(database, image_ids, reason="asked for", actor="ann", now=NOW)


def answer(database: Database, task: LabelTask, what: str) -> dict[str, int]:
    given = LabelAnswer(task.task_id, what, "bob", NOW + timedelta(hours=1))
    return labelling.record_answers(database, [given], NOW + timedelta(hours=2), lambda some: settle(some, 1))


def states(database: Database) -> dict[str, int]:
    asked = text("SELECT state, count(*) AS many FROM label_task GROUP BY state")
    with database.transaction() as connection:
        return {row.state: row.many for row in connection.execute(asked)}


@pytest.fixture
def batch(fill_batch: Callable[..., Batch]) -> Batch:
    return fill_batch("b1", 200)


def test_unanswered_tasks_are_withdrawn_and_wait_for_nobody(database: Database, batch: Batch) -> None:
    first, *others = draw(database)
    assert recalls.count_open_tasks(database, [first.image_id]) == {first.image_id: 1}
    assert take_back(database, first.image_id) == [first.image_id]
    assert [task.task_id for task in labelling.tasks(database, "accuracy", None)] == [t.task_id for t in others]
    assert states(database) == {"open": len(others), "withdrawn": 1}
    response = labelling.response(database, NOVEMBER, 1, 1)
    assert response is not None
    assert (response.answered, response.drawn) == (1, len(others) + 1)
    assert recalls.count_open_tasks(database, [first.image_id]) == {}


def test_an_answer_that_comes_too_late_is_kept_and_settles_nothing(database: Database, batch: Batch) -> None:
    first, *_ = draw(database)
    take_back(database, first.image_id)
    done = answer(database, first, "cat")
    assert (done["new"], done["settled"]) == (1, 0)
    (told,) = lineage.tasks_of(database, [first.image_id])
    assert (told.state, told.verdict, [given.answer for given in told.answers]) == ("withdrawn", None, ["cat"])


def test_a_verdict_stays_a_verdict_about_accuracy_and_teaches_nothing(database: Database, batch: Batch) -> None:
    first, second, *_ = draw(database)
    answer(database, first, "cat")
    answer(database, second, "dog")
    take_back(database, first.image_id)
    assert [label.image_id for label in labelling.settled_labels(database)] == [second.image_id]
    assert labelling.new_settled_count(database) == 1
    assert labelling.counts(database, NOVEMBER, 1).labelled.sum() == 2


def test_what_is_drawn_of_a_recalled_image_is_withdrawn_from_the_start(
    database: Database, batch: Batch, fill_batch: Callable[..., Batch]
) -> None:
    everybody = [f"{0:04x}{item:060x}" for item in range(200)]
    take_back(database, *everybody[:50])
    draw(database, most=200)
    drawn = states(database)
    assert drawn == {"open": 150, "withdrawn": 50}  # the sample is the sample; 50 of it are asked of nobody
    assert not {t.image_id for t in labelling.tasks(database, "accuracy", None)} & set(everybody[:50])
    checks.fill_check_queue(database, NOVEMBER, 1, share=1.0, now=NOW)
    assert len(labelling.tasks(database, "check", None)) == 150


def test_the_training_queue_asks_about_none(database: Database, batch: Batch) -> None:
    everybody = [f"{0:04x}{item:060x}" for item in range(200)]
    take_back(database, *everybody[:199])
    labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=200, now=NOW)
    assert [task.image_id for task in labelling.tasks(database, "training", None)] == everybody[199:]


def test_no_sample_shows_it_and_its_prediction_stays(database: Database, batch: Batch) -> None:
    everybody = [f"{0:04x}{item:060x}" for item in range(200)]
    take_back(database, *everybody[:150])
    shown = {place.image_id for place in reading.sample_places(database, NOVEMBER, 500)}
    assert shown == set(everybody[150:])
    assert {image.place.image_id for image in reading.sample_images(database, NOVEMBER, 1, 500)} == shown
    assert {place.image_id for place, _ in reading.logged_answers(database, NOVEMBER, 1, 500)} == shown
    assert len(lineage.predictions_of(database, everybody)) == 200


def test_pixels_of_withdrawn_tasks_are_kept_for_nobody(database: Database, batch: Batch) -> None:
    tasks = draw(database)
    answer(database, tasks[0], "cat")
    assert labelling.months_in_use(database, asked_since=NOW - timedelta(days=1)) == {batch.month}
    take_back(database, *(task.image_id for task in tasks))
    assert labelling.months_in_use(database, asked_since=NOW - timedelta(days=1)) == set()


def test_the_first_recall_of_an_image_is_the_one_that_counts(database: Database, batch: Batch) -> None:
    image = f"{0:060x}".rjust(64, "0")
    assert take_back(database, image) == [image]
    later = NOW + timedelta(days=1)
    assert recalls.recall(database, [image], reason="again", actor="bob", now=later) == []
    noted = recalls.recalled(database, [image, "f" * 64])[image]
    assert (noted.reason, noted.actor, noted.recalled_at) == ("asked for", "ann", NOW)
    assert recalls.recalled_among(database, [image, "f" * 64]) == {image}
    assert recalls.set_recalled_in(database, [image], "data/2026-12-03-1") == [image]
    assert recalls.set_recalled_in(database, [image], "data/2026-12-04-1") == []
    assert recalls.recalled(database, [image])[image].dataset_version == "data/2026-12-03-1"


def test_every_place_of_the_pixels_is_known(database: Database, fill_batch: Callable[..., Batch]) -> None:
    first = fill_batch("b1", 20)
    fill_batch("b2", 20, scored_at=first.scored_at - timedelta(days=40))
    image = f"{0:04x}{7:060x}"
    places = recalls.stored_pixels(database, [image])
    assert {place.image_id for place in places} == {image}
    assert {place.row for place in places} == {7}
    assert recalls.scored_at(database, [image]) == [first.scored_at - timedelta(days=40), first.scored_at]


def test_a_prediction_is_told_with_all_that_was_asked_about_it(database: Database, batch: Batch) -> None:
    tasks = draw(database)
    answer(database, tasks[0], "owl")
    (place,) = labelling.places(database, [tasks[0].task_id])
    (told,) = lineage.predictions_of_item(database, place.batch_id, place.item_no)
    assert (told.batch, told.item_no, told.image_id, told.model_version) == ("b1", place.item_no, place.image_id, 1)
    assert told.predicted in ("cat", "dog", "owl")
    (asked,) = lineage.tasks_of_item(database, "b1", place.item_no)
    assert (asked.queue, asked.state, asked.verdict) == ("accuracy", "settled", "owl")
    assert [(given.annotator, given.answer) for given in asked.answers] == [("bob", "owl")]
    assert lineage.predictions_of_item(database, "b1", 200) == []
    assert lineage.batch_count(database, "b1") == 200
    assert lineage.batch_count(database, "b") is None
    assert lineage.batches_from(database, "b") == ["b1"]
    assert lineage.served(database, 1).predictions == 200
    assert lineage.served(database, 2) == lineage.Served(0, 0, None, None)


def test_digits_find_the_images_that_begin_with_them(database: Database, batch: Batch) -> None:
    found = lineage.scored_images_from(database, f"{7:064x}"[:-1])
    assert len(found) == 3
    assert set(found) <= {f"{item:064x}" for item in range(16)}
    assert lineage.scored_images_from(database, f"{7:064x}") == [f"{7:064x}"]
    assert lineage.scored_images_from(database, "f" * 12) == []
