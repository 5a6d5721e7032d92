"""Labels that an audit doubts, as questions: the worst ones, as long as they are doubted, and nothing said is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from components.errors import DataError
from components.labels.consensus import settle
from components.records import LabelAnswer, Window
from components.store import labelling, lineage, recalls
from components.store.database import Database
from components.store.queues.audit_queue import AuditQueue, DoubtedLabel, SettledDoubt, ask_about, settled_doubts

NOW = datetime(2026, 12, 3, tzinfo=UTC)
CLASSES = ("bird", "cat", "dog")
FIRST, SECOND = "data/2026-12-01-1", "data/2026-12-02-1"


def doubted(*numbers: int) -> list[DoubtedLabel]:
    """Return doubted labels, the lower the number the less believed."""
    return [DoubtedLabel(f"{number:064x}", "cat", "dog", number / 100) for number in numbers]


def ask(database: Database, *numbers: int, limit: int = 3, version: str = FIRST) -> AuditQueue:
    return ask_about(
        database, doubted(*numbers), classes=CLASSES, dataset_version=version, limit=limit, now=NOW
    )  # fmt: skip


def open_images(database: Database) -> list[int]:
    return [int(task.image_id, 16) for task in labelling.tasks(database, "audit", None)]


def task_of(database: Database, number: int) -> int:
    asked = text("SELECT id FROM label_task WHERE queue = 'audit' AND image_id = :image")
    with database.transaction() as connection:
        return int(connection.execute(asked, {"image": f"{number:064x}"}).scalar_one())


def say(
    database: Database, number: int, answer: str, annotator: str = "ann", *, wanted: int = 1, hour: int = 0
) -> None:
    given = LabelAnswer(task_of(database, number), answer, annotator, NOW + timedelta(hours=hour))
    labelling.record_answers(database, [given], NOW + timedelta(hours=hour), partial(settle, wanted=wanted))


def test_the_labels_believed_least_are_asked_about_worst_first(database: Database) -> None:
    assert ask(database, 30, 10, 50, 20) == (3, 0, 3)
    assert open_images(database) == [10, 20, 30]
    first = labelling.tasks(database, "audit", 1)[0]
    assert (first.queue, first.classes, first.window) == ("audit", CLASSES, FIRST)
    assert ask(database, 30, 10, 50, 20) == (0, 0, 3)


def test_nobody_is_asked_any_more_about_what_is_no_longer_among_the_worst(database: Database) -> None:
    ask(database, 10, 20, 30)
    before = task_of(database, 30)
    assert ask(database, 5, 10, 20, version=SECOND) == (1, 1, 3)
    assert open_images(database) == [5, 10, 20]
    assert labelling.tasks(database, "audit", 1)[0].window == SECOND
    assert ask(database, 30, version=SECOND) == (0, 3, 1)
    assert task_of(database, 30) == before
    assert ask(database, limit=0) == (0, 1, 0)


def test_what_people_have_said_is_not_asked_again_and_makes_room(database: Database) -> None:
    ask(database, 10, 20, 30)
    say(database, 10, "dog")
    say(database, 20, "unsure")
    assert ask(database, 10, 20, 30, 40, version=SECOND) == (1, 0, 2)
    assert open_images(database) == [30, 40]


def test_a_question_that_somebody_has_begun_to_answer_stays_the_same_question(database: Database) -> None:
    ask(database, 10, 20)
    say(database, 10, "dog", wanted=2)
    assert ask(database, 20, version=SECOND).withdrawn == 0
    assert ask(database, 10, 20, version=SECOND) == (0, 0, 2)
    assert {task.window for task in labelling.tasks(database, "audit", None)} == {FIRST, SECOND}
    say(database, 10, "dog", "ben", wanted=2)
    assert [found.answer for found in settled_doubts(database)] == ["dog"]


def test_an_answer_to_a_question_that_was_handed_out_and_withdrawn_counts(database: Database) -> None:
    ask(database, 10, 20)
    ask(database, 20)
    say(database, 10, "bird")
    assert [(int(found.image_id, 16), found.answer) for found in settled_doubts(database)] == [(10, "bird")]


def test_verdicts_are_taken_in_once_and_again_where_they_change(database: Database) -> None:
    ask(database, 10, 20, 30)
    say(database, 10, "dog")
    say(database, 20, "other")
    say(database, 30, "bad-image")
    found = settled_doubts(database)
    assert found == [
        SettledDoubt(task_of(database, 10), f"{10:064x}", "dog", FIRST, ("ann",)),
        SettledDoubt(task_of(database, 20), f"{20:064x}", "other", FIRST, ("ann",)),
    ]
    assert labelling.settled_labels(database) == []
    assert labelling.new_settled_count(database) == 2
    labelling.mark_exported(database, [verdict.task_id for verdict in found], SECOND)
    assert settled_doubts(database) == []
    say(database, 20, "bird", hour=1)
    assert [verdict.answer for verdict in settled_doubts(database)] == ["bird"]


def test_a_recalled_image_is_neither_asked_about_nor_learnt_from(database: Database) -> None:
    ask(database, 10, 20)
    say(database, 10, "dog")
    with database.transaction() as connection:
        recalls.recall(connection, [f"{n:064x}" for n in (10, 20, 30)], reason="wish", actor="ann", now=NOW)
    assert settled_doubts(database) == []
    assert open_images(database) == []
    say(database, 20, "dog")
    assert settled_doubts(database) == []
    assert ask(database, 10, 20, 30, 40) == (1, 0, 1)


def test_other_queues_do_not_count_what_an_audit_asks(database: Database, fill_batch: Callable[..., object]) -> None:
    ask(database, 10, 20)
    say(database, 10, "dog")
    fill_batch("b1", 50)
    assert labelling.months_in_use(database, asked_since=NOW - timedelta(days=400)) == set()
    assert labelling.open_count(database, "training") == 0
    made = labelling.fill_training_queue(
        database, Window.parse("2026-11"), 1, classes=("cat",), limit=5, now=NOW
    )  # fmt: skip
    assert (made, labelling.open_count(database, "training"), labelling.open_count(database, "audit")) == (5, 5, 1)


def test_lineage_tells_what_was_asked_about_an_image_nobody_predicted(database: Database) -> None:
    ask(database, 10)
    say(database, 10, "dog")
    asked = lineage.tasks_of(database, [f"{10:064x}"])[0]
    assert (asked.queue, asked.window, asked.model_version, asked.batch, asked.item_no) == (
        "audit", FIRST, None, None, None,
    )  # fmt: skip
    assert (asked.verdict, [answer.annotator for answer in asked.answers]) == ("dog", ["ann"])


def test_labels_of_another_class_list_are_refused(database: Database) -> None:
    with pytest.raises(DataError, match="fish"):
        ask_about(
            database, [DoubtedLabel("0" * 64, "cat", "fish", 0.1)], classes=CLASSES, dataset_version=FIRST, limit=3,
            now=NOW,
        )  # fmt: skip


@pytest.mark.parametrize("queue", ["accuracy", "training", "check"])
def test_only_an_audit_asks_about_an_image_that_was_not_predicted(database: Database, queue: str) -> None:
    ask(database, 10)
    change = text("UPDATE label_task SET queue = :queue")
    with pytest.raises(IntegrityError, match="label_task"), database.transaction() as connection:
        connection.execute(change, {"queue": queue})
