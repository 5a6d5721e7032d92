from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pytest
from sqlalchemy import text

from components.errors import DataError
from components.labels.consensus import Settled, settle
from components.records import LabelAnswer, LabelTask, ModelVersion, Window
from components.store import labelling, predictions
from components.store.database import Database
from components.store.predictions import Batch

NOW = datetime(2026, 12, 3, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")
SCORED = datetime(2026, 11, 20, 12, tzinfo=UTC)


def single(answers: Sequence[tuple[str, str]]) -> Settled | None:
    return settle(answers, 1)


@pytest.fixture
def tasks(database: Database, fill_batch: Callable[..., Batch]) -> list[LabelTask]:
    fill_batch("b1", 200)
    labelling.freeze_and_draw(
        database,
        NOVEMBER,
        1,
        allocate=lambda counts: np.minimum(counts.population, 3),
        kind="regular",
        budget=36,
        now=NOW,
    )
    return labelling.tasks(database, "accuracy", None)


def says(task: LabelTask | int, answer: str, annotator: str = "ann", minute: int = 0, **more: object) -> LabelAnswer:
    task_id = task if isinstance(task, int) else task.task_id
    return LabelAnswer(task_id, answer, annotator, NOW + timedelta(minutes=minute), **more)


def record(database: Database, *answers: LabelAnswer, settle: Callable[..., Settled | None] = single) -> dict[str, int]:
    done = labelling.record_answers(database, answers, NOW, settle)
    return {name: many for name, many in done.items() if many}


def test_an_answer_dated_in_the_future_can_be_corrected(database: Database, tasks: list[LabelTask]) -> None:
    record(database, says(tasks[0], "cat", minute=10**7))
    later = NOW + timedelta(hours=1)
    labelling.record_answers(database, [LabelAnswer(tasks[0].task_id, "dog", "ann", later)], later, single)
    assert state(database, tasks[0])[:2] == ("settled", "dog")


def test_a_clock_ahead_does_not_turn_a_correction_round(database: Database, tasks: list[LabelTask]) -> None:
    record(database, says(tasks[0], "dog", minute=9), says(tasks[0], "cat", minute=8))
    assert state(database, tasks[0])[:2] == ("settled", "dog")


def state(database: Database, task: LabelTask) -> tuple[str, str | None, str | None]:
    asked = text("SELECT state, settled_answer, exported_in FROM label_task WHERE id = :id")
    with database.transaction() as connection:
        return tuple(connection.execute(asked, {"id": task.task_id}).one())


def stored_labels(database: Database) -> int:
    with database.transaction() as connection:
        return connection.scalar(text("SELECT count(*) FROM label"))


def test_a_task_shows_image_and_classes_and_not_the_models_answer(tasks: list[LabelTask]) -> None:
    assert all(task.classes == ("cat", "dog", "owl") and task.window == "2026-11" for task in tasks)
    assert not {"predicted", "confidence"} & set(LabelTask.__slots__)


def test_an_answer_settles_its_task_and_enters_the_counts(database: Database, tasks: list[LabelTask]) -> None:
    assert record(database, says(tasks[0], "dog"), says(tasks[1], "other"), says(tasks[2], "unsure")) == {
        "new": 3, "settled": 2, "adjudication": 1,
    }  # fmt: skip
    counts = labelling.counts(database, NOVEMBER, 1)
    assert counts.labelled.sum() == 2
    assert counts.answers[:, :, 1].sum() == 1
    assert counts.answers[:, :, 3].sum() == 1  # other
    assert labelling.response(database, NOVEMBER, 1, 1).answered == 3
    assert labelling.open_count(database, "accuracy") == len(tasks) - 3
    assert labelling.queue_response(database, "accuracy", "2026-11") == (3, len(tasks))
    assert labelling.queue_response(database, "training", None) == (0, 0)


def test_a_repeated_delivery_has_one_effect(database: Database, tasks: list[LabelTask]) -> None:
    answer = says(tasks[0], "dog", key="post-1")
    assert record(database, answer) == {"new": 1, "settled": 1}
    assert record(database, answer) == {"repeated": 1}
    assert record(database, says(tasks[1], "cat"), says(tasks[1], "cat")) == {"new": 1, "repeated": 1, "settled": 1}
    assert stored_labels(database) == 2


def test_one_persons_key_does_not_hide_anothers_answer(database: Database, tasks: list[LabelTask]) -> None:
    first, second = says(tasks[0], "dog", "ann", key="1"), says(tasks[0], "cat", "bob", key="1")
    assert record(database, first, second)["new"] == 2


def test_a_later_answer_of_the_same_person_replaces_and_keeps_the_first(
    database: Database, tasks: list[LabelTask]
) -> None:
    record(database, says(tasks[0], "dog"))
    assert record(database, says(tasks[0], "cat", minute=5)) == {"new": 1, "settled": 1}
    assert state(database, tasks[0])[:2] == ("settled", "cat")
    assert record(database, says(tasks[0], "owl", minute=3)) == {"new": 1}  # older than the last word
    assert state(database, tasks[0])[:2] == ("settled", "cat")
    assert stored_labels(database) == 3


def test_disagreement_waits_for_adjudication_and_is_not_trained_on(database: Database, tasks: list[LabelTask]) -> None:
    twice = partial(settle, wanted=2)
    assert record(database, says(tasks[0], "dog", "ann"), settle=twice) == {"new": 1}
    assert record(database, says(tasks[0], "cat", "bob"), settle=twice) == {"new": 1, "adjudication": 1}
    assert state(database, tasks[0]) == ("adjudication", None, None)
    assert labelling.settled_labels(database) == []
    assert record(database, says(tasks[0], "cat", "eve"), settle=twice) == {"new": 1, "settled": 1}
    assert [label.answer for label in labelling.settled_labels(database)] == ["cat"]
    assert labelling.settled_labels(database)[0].annotators == ("ann", "bob", "eve")


def test_an_answer_that_is_no_class_is_refused_with_the_whole_file(database: Database, tasks: list[LabelTask]) -> None:
    with pytest.raises(DataError, match=rf"task {tasks[1].task_id}: answer 'dgo' by 'ann'.*did you mean 'dog'"):
        record(database, says(tasks[0], "dog"), says(tasks[1], "dgo"))
    assert stored_labels(database) == 0


def test_an_answer_to_an_unknown_task_is_parked_and_matched_later(database: Database, tasks: list[LabelTask]) -> None:
    coming = max(task.task_id for task in tasks) + 1
    assert record(database, says(coming, "dog"), says(10**12, "anything")) == {"parked": 2}
    assert labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=1, now=NOW) == 1
    (task,) = labelling.tasks(database, "training", 5)
    assert task.task_id >= coming
    done = record(database)
    if task.task_id == coming:
        assert done == {"adopted": 1, "settled": 1}
        assert state(database, task)[:2] == ("settled", "dog")
    assert stored_labels(database) == 2


def test_a_parked_answer_that_does_not_fit_its_task_stays_parked(database: Database, tasks: list[LabelTask]) -> None:
    record(database, says(max(task.task_id for task in tasks) + 1, "zebra"))
    labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=3, now=NOW)
    assert record(database) == {}


def test_fifty_annotators_lose_no_answer(database: Database, tasks: list[LabelTask]) -> None:
    def work(number: int) -> int:
        mine = [says(task, "dog", f"p{number}") for task in tasks[::-1]]
        return sum(record(database, *mine[start : start + 7])["new"] for start in range(0, len(mine), 7))

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(work, range(50))) == 50 * len(tasks) == stored_labels(database)
    assert labelling.response(database, NOVEMBER, 1, 1).answered == len(tasks)


def test_settled_labels_say_where_the_pixels_are_and_what_the_model_said(
    database: Database, tasks: list[LabelTask]
) -> None:
    record(database, says(tasks[0], "dog"), says(tasks[1], "other"))
    (label,) = labelling.settled_labels(database)
    (place,) = labelling.places(database, [tasks[0].task_id, 10**9])
    asked = text("SELECT predicted, image_id FROM prediction WHERE item_no = :item")
    with database.transaction() as connection:
        predicted, image_id = connection.execute(asked, {"item": place.item_no}).one()
    assert (label.task_id, label.answer, label.queue) == (tasks[0].task_id, "dog", "accuracy")
    assert label.predicted == ("cat", "dog", "owl")[predicted]
    assert label.image_id == place.image_id == tasks[0].image_id == image_id
    assert (label.shard, label.row) == (place.shard, place.row)
    assert label.captured_at == SCORED
    assert (place.batch_id, place.name) == ("b1", f"folder/{place.item_no}.png")
    assert predictions.locate_tasks(database, [label.task_id])[label.task_id].shard == label.shard


def test_an_exported_label_is_exported_again_only_when_it_changes(database: Database, tasks: list[LabelTask]) -> None:
    record(database, says(tasks[0], "dog"))
    assert labelling.new_settled_count(database) == 1
    labelling.mark_exported(database, [tasks[0].task_id], "data/2026-12-03-1")
    assert labelling.settled_labels(database) == []
    assert labelling.new_settled_count(database) == 0
    assert labelling.new_settled_count(database, since=NOW) == 1
    assert labelling.new_settled_count(database, since=NOW + timedelta(seconds=1)) == 0
    record(database, says(tasks[0], "dog", "bob", minute=1))
    assert labelling.settled_labels(database) == []
    record(database, says(tasks[0], "cat", "ann", minute=2), says(tasks[0], "cat", "bob", minute=2))
    assert [label.answer for label in labelling.settled_labels(database)] == ["cat"]


def test_the_training_queue_takes_least_confident_images_of_the_classes_and_as_many_by_chance(
    database: Database, tasks: list[LabelTask]
) -> None:
    taken = {task.image_id for task in tasks}
    with database.transaction() as connection:
        doubtful = text(
            "SELECT image_id FROM prediction WHERE predicted = 1 OR second_class = 1 ORDER BY confidence, u"
        )
        unsure = [image for image in connection.scalars(doubtful) if image not in taken]
        by_chance = text("SELECT image_id FROM prediction WHERE predicted = 1 ORDER BY u")
        drawn = [image for image in connection.scalars(by_chance) if image not in taken]
    assert labelling.fill_training_queue(database, NOVEMBER, 1, classes=("dog",), limit=5, now=NOW) == 5
    chosen = {task.image_id for task in labelling.tasks(database, "training", None)}
    assert set(unsure[:3]) <= chosen
    assert chosen - set(unsure[:3]) == set([image for image in drawn if image not in unsure[:3]][:2])
    assert labelling.fill_training_queue(database, NOVEMBER, 1, classes=("dog",), limit=5, now=NOW) == 0
    assert labelling.fill_training_queue(database, NOVEMBER, 1, classes=("dog",), limit=8, now=NOW) == 3
    assert not taken & {task.image_id for task in labelling.tasks(database, "training", None)}
    with pytest.raises(DataError, match="does not know"):
        labelling.fill_training_queue(database, NOVEMBER, 1, classes=("emu",), limit=5, now=NOW)


def test_a_training_answer_never_counts_for_accuracy(database: Database, tasks: list[LabelTask]) -> None:
    labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=3, now=NOW)
    record(database, *(says(task, "dog") for task in labelling.tasks(database, "training", None)))
    assert labelling.counts(database, NOVEMBER, 1).labelled.sum() == 0
    assert labelling.new_settled_count(database) == 3


def test_the_same_image_predicted_twice_is_asked_for_training_once(
    database: Database, fill_batch: Callable[..., Batch], model: ModelVersion
) -> None:
    fill_batch("b1", 50)
    fill_batch("b2", 50)
    labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=100, now=NOW)
    images = [task.image_id for task in labelling.tasks(database, "training", None)]
    assert len(images) == len(set(images)) == 50


def test_an_answer_without_a_zone_is_refused(database: Database, tasks: list[LabelTask]) -> None:
    naive = LabelAnswer(tasks[0].task_id, "dog", "ann", NOW.replace(tzinfo=None))
    with pytest.raises(Exception, match="has no zone"):
        record(database, naive)
    assert stored_labels(database) == 0
