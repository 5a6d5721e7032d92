"""Tasks that are asked twice: which they are, what their answers count for, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from sqlalchemy import text

from components.labels.consensus import settle
from components.records import LabelAnswer, Window
from components.store import labelling
from components.store.database import Database
from components.store.queues import checks

NOW = datetime(2026, 12, 3, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")
LONG_AGO = NOW - timedelta(days=365)
Item = tuple[int, int]


@pytest.fixture
def drawn(database: Database, fill_batch: Callable[..., object]) -> Database:
    """Two hundred predictions, some sixty of them in the accuracy sample."""
    fill_batch("b1", 200)
    labelling.freeze_and_draw(
        database, NOVEMBER, 1, allocate=lambda c: np.minimum(c.population, 6), kind="regular", budget=60, now=NOW
    )
    return database


def tasks(database: Database, queue: str) -> dict[Item, int]:
    """Return a queue's task numbers by the item they ask about."""
    asked = text("SELECT batch_number, item_no, id FROM label_task WHERE queue = :queue ORDER BY id")
    with database.transaction() as connection:
        return {(row[0], row[1]): row[2] for row in connection.execute(asked, {"queue": queue})}


def fill(database: Database, share: float) -> int:
    return checks.fill_check_queue(database, NOVEMBER, 1, share=share, now=NOW)


def answer(database: Database, task_id: int, what: str, who: str) -> None:
    given = LabelAnswer(task_id, what, who, NOW)
    labelling.record_answers(database, [given], NOW, partial(settle, wanted=1))


def test_a_share_of_the_sample_is_asked_twice_the_same_one_on_a_repeat(drawn: Database) -> None:
    sample = tasks(drawn, "accuracy")
    few = fill(drawn, 0.3)
    chosen = tasks(drawn, "check")
    assert len(chosen) == few
    assert 0.1 * len(sample) < few < 0.55 * len(sample)
    assert set(chosen) < set(sample)
    assert fill(drawn, 0.3) == few
    assert tasks(drawn, "check") == chosen
    fill(drawn, 1.0)
    assert set(tasks(drawn, "check")) == set(sample)


@pytest.mark.parametrize("queue", ["accuracy", "check"])
def test_the_number_of_a_task_does_not_tell_what_the_model_said(drawn: Database, queue: str) -> None:
    fill(drawn, 1.0)
    asked = text("SELECT predicted, conf_bin FROM label_task WHERE queue = :queue ORDER BY id")
    with drawn.transaction() as connection:
        strata = [tuple(row) for row in connection.execute(asked, {"queue": queue})]
    neighbours = sum(one == next_one for one, next_one in pairwise(strata))
    assert neighbours < len(strata) / 3  # of twelve strata, one in twelve by chance; all but eleven if told in order


def test_no_share_asks_nothing_twice(drawn: Database) -> None:
    assert fill(drawn, 0.0) == 0


def test_what_a_top_up_adds_is_checked_in_the_same_share(drawn: Database) -> None:
    before = set(tasks(drawn, "accuracy"))
    few = fill(drawn, 0.5)
    labelling.top_up(drawn, NOVEMBER, 1, np.full((3, 4), 5), now=NOW)
    added = set(tasks(drawn, "accuracy")) - before
    assert added
    more = fill(drawn, 0.5)
    assert few < more
    assert set(tasks(drawn, "check")) - before <= added


def test_pairs_are_answers_of_different_people_to_one_image(drawn: Database) -> None:
    fill(drawn, 1.0)
    sample, again = tasks(drawn, "accuracy"), tasks(drawn, "check")
    items = list(sample)
    plan = [
        ("cat", "ada", "cat", "ben"),  # agree
        ("cat", "ada", "dog", "ben"),  # differ
        ("cat", "ada", "other", "ben"),  # differ
        ("cat", "ada", "dog", "ada"),  # the same person: no second opinion
        ("cat", "ada", "unsure", "ben"),  # no verdict
        ("unsure", "ada", "cat", "ben"),  # no verdict to compare with
        ("cat", "ada", None, ""),  # not answered yet
    ]
    for item, (first, one, second, two) in zip(items, plan, strict=False):
        answer(drawn, sample[item], first, one)
        if second is not None:
            answer(drawn, again[item], second, two)
    assert checks.answer_pairs(drawn, since=LONG_AGO) == (3, 2)
    assert checks.answer_pairs(drawn, since=NOW + timedelta(seconds=1)) == (0, 0)


def test_an_answer_to_a_check_counts_for_nothing_else(drawn: Database) -> None:
    fill(drawn, 1.0)
    sample, again = tasks(drawn, "accuracy"), tasks(drawn, "check")
    for task_id in again.values():
        answer(drawn, task_id, "dog", "ben")
    assert labelling.counts(drawn, NOVEMBER, 1).labelled.sum() == 0
    assert labelling.response(drawn, NOVEMBER, 1, 1).answered == 0
    assert labelling.new_settled_count(drawn) == 0
    assert labelling.settled_labels(drawn) == []
    assert labelling.months_in_use(drawn, asked_since=NOW + timedelta(days=1)) == set()
    answer(drawn, next(iter(sample.values())), "cat", "ada")
    (label,) = labelling.settled_labels(drawn)
    assert label.answer == "cat"
