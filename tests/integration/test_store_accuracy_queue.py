"""The accuracy queue on a real database: blind to the model's answer, and closed to every label not drawn for it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from components.labels.consensus import settle
from components.monitoring.estimation.accuracy import estimate
from components.operations.labelling import export_tasks, open_tasks
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params
from components.records import LabelAnswer, LabelTask, ModelVersion, ScoredChunk, StratumCounts, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import labelling, predictions
from components.store.database import Database
from components.store.scored.batches import Batch

SCORED = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW = datetime(2026, 12, 3, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")
CLASSES = ("cat", "dog", "owl")


def up_to(limit: int) -> Callable[[StratumCounts], NDArray[np.int64]]:
    return lambda counts: np.minimum(counts.population, limit)


def draw(database: Database, limit: int) -> int:
    return labelling.freeze_and_draw(
        database, NOVEMBER, 1, allocate=up_to(limit), kind="regular", budget=limit, now=NOW
    )


def answer(database: Database, tasks: Sequence[LabelTask], said: str) -> None:
    answers = [LabelAnswer(task.task_id, said, "ann", NOW + timedelta(hours=1)) for task in tasks]
    labelling.record_answers(database, answers, now=NOW + timedelta(hours=2), settle=partial(settle, wanted=1))


def queue(database: Database, name: str) -> list[LabelTask]:
    return labelling.tasks(database, name, limit=None)


def assert_equal_counts(one: StratumCounts, other: StratumCounts) -> None:
    assert one.classes == other.classes
    for name in ("population", "labelled", "answers", "drawn", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_answers_of_the_training_queue_leave_the_accuracy_sample_as_it_was(
    database: Database, fill_batch: Callable[..., Batch]
) -> None:
    fill_batch("b1", 300)
    draw(database, 4)
    answer(database, queue(database, "accuracy")[::2], "dog")
    before = labelling.counts(database, NOVEMBER, 1)
    response = labelling.response(database, NOVEMBER, 1, 1)
    assert before.labelled.sum() > 0
    asked = labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=80, now=NOW)
    assert asked == 80
    answer(database, queue(database, "training"), "cat")
    assert labelling.new_settled_count(database) == 80 + before.labelled.sum()
    after = labelling.counts(database, NOVEMBER, 1)
    assert_equal_counts(before, after)
    assert labelling.response(database, NOVEMBER, 1, 1) == response
    assert estimate(after).accuracy == estimate(before).accuracy


def test_without_a_draw_answers_of_the_training_queue_estimate_nothing(
    database: Database, fill_batch: Callable[..., Batch]
) -> None:
    fill_batch("b1", 300)
    labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=100, now=NOW)
    answer(database, queue(database, "training"), "cat")
    counts = labelling.counts(database, NOVEMBER, 1)
    assert counts.population.sum() == 300
    assert counts.labelled.sum() == counts.answers.sum() == counts.drawn.sum() == 0
    assert estimate(counts).accuracy is None


def test_an_image_answered_for_training_is_asked_again_blind(
    database: Database, fill_batch: Callable[..., Batch]
) -> None:
    fill_batch("b1", 60)
    labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=20, now=NOW)
    known = {task.image_id for task in queue(database, "training")}
    answer(database, queue(database, "training"), "owl")
    assert draw(database, 10_000) == 60  # every prediction is drawn
    assert {task.image_id for task in queue(database, "accuracy")} > known
    assert labelling.counts(database, NOVEMBER, 1).labelled.sum() == 0
    assert labelling.response(database, NOVEMBER, 1, 1).answered == 0


def test_a_half_answered_queue_leans_toward_no_stratum(database: Database, fill_batch: Callable[..., Batch]) -> None:
    fill_batch("b1", 6000)
    drawn = draw(database, 60)
    tasks = queue(database, "accuracy")
    assert len(tasks) == drawn == 720
    answer(database, tasks[: drawn // 2], "dog")
    labelled = labelling.counts(database, NOVEMBER, 1).labelled
    assert labelled.shape == (3, 4)
    # Half of each stratum's 60, give or take four standard deviations of a coin's.
    assert labelled.min() >= 30 - 16
    assert labelled.max() <= 30 + 16


@pytest.fixture
def blind(database: Database, model: ModelVersion, make_chunk: Callable[..., ScoredChunk], tmp_path: Path) -> Services:
    """Forty small images, scored, in the image store, and twelve of them or more drawn for the accuracy queue."""
    rng = np.random.default_rng(5)
    contents = []
    for _ in range(40):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file, "PNG")
        contents.append(file.getvalue())
    ids = tuple(sha256(content).hexdigest() for content in contents)
    chunk = replace(make_chunk(0, 40, shard="2026-11/b1-00000.arrow"), image_id=ids)
    batch = predictions.open_batch(
        database, batch_id="b1", content_sha256="c", source="s", model_version=1, class_list=model.classes,
        items=40, scored_at=SCORED, now=SCORED,
    )  # fmt: skip
    images = ImageStore(str(tmp_path / "images"))
    images.put(chunk.shard, zip(ids, contents, strict=True))
    predictions.write_chunk(database, batch, chunk)
    predictions.close_batch(database, batch, SCORED)
    assert draw(database, 3) >= 12
    return Services(Workspace(tmp_path, Params(), Settings()), database, images, Registry("sqlite://", str(tmp_path)))


# Whatever the model said of the items that tasks ask about; the tasks themselves, and who is asked, stay.
_OTHER_MODEL = (
    "UPDATE label_task SET predicted = CAST(floor(3 * {0}) AS smallint), conf_bin = CAST(floor(4 * {1}) AS smallint)",
    "UPDATE prediction SET predicted = CAST(floor(3 * {0}) AS smallint), second_class = CAST(floor(3 * {1}) AS"
    " smallint), conf_bin = CAST(floor(4 * {1}) AS smallint), confidence = {0}, second_confidence = {1},"
    " ood_score = {0}, needs_review = {1} < 0.5, probabilities = decode(md5(CAST({0} AS text)), 'hex')",
)


def say_something_else(database: Database, seed: int) -> None:
    """Replace everything the model said by numbers that `seed` chooses, another one for every item."""
    hashed = "(abs(hashtext(CAST(item_no AS text) || '{0}')) % 10000 / 10000.0)"
    numbers = [hashed.format(f" {seed} {place}") for place in range(2)]
    with database.transaction() as connection:
        for statement in _OTHER_MODEL:
            connection.execute(text(statement.format(*numbers)))


def handed_out(services: Services, folder: Path) -> dict[str, bytes]:
    """Every byte an annotator gets: CSV, Label Studio's JSON and its interface, the pictures, the listed queue."""
    folder.mkdir(exist_ok=True)
    for form, name in (("csv", "tasks.csv"), ("label-studio", "tasks.json")):
        export_tasks(
            services, folder / name, queue="accuracy", form=form, images=folder / "pictures", image_url="http://host/"
        )
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {**found, "queue": json.dumps(open_tasks(services, "accuracy", 100)).encode()}


def test_what_an_annotator_gets_is_the_same_to_the_byte_whatever_the_model_said(
    blind: Services, tmp_path: Path
) -> None:
    first = handed_out(blind, tmp_path / "out")
    assert {"tasks.csv", "tasks.json", "tasks.xml", "queue"} < set(first)
    assert len(first) >= 4 + 12  # the pictures, too

    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**31 - 1))
    def check(seed: int) -> None:
        say_something_else(blind.database, seed)
        assert handed_out(blind, tmp_path / "out") == first

    check()
    asked = text("SELECT count(DISTINCT (predicted, conf_bin)) FROM label_task")
    with blind.database.transaction() as connection:
        assert connection.scalar(asked) > 3  # the model did say something else


@pytest.mark.parametrize("form", ["csv", "label-studio"])
def test_no_class_the_model_names_stands_out_in_a_file(blind: Services, tmp_path: Path, form: str) -> None:
    """Every class is named in every task, equally often and in one order: as a choice, and nowhere else."""
    file = tmp_path / "tasks"
    count = export_tasks(blind, file, queue="accuracy", form=form, images=None)["tasks"]
    content = file.read_text(encoding="utf-8")
    assert {content.count(name) for name in CLASSES} == {count}


@pytest.fixture
def tasks_of_both_queues(database: Database, fill_batch: Callable[..., Batch]) -> Database:
    fill_batch("b1", 100)
    draw(database, 2)
    labelling.fill_training_queue(database, NOVEMBER, 1, classes=(), limit=5, now=NOW)
    return database


_COLUMNS = (
    "queue", "window_name", "model_version", "class_list_id", "draw_id", "month", "batch_number", "item_no", "image_id",
    "shard_id", "shard_row", "predicted", "conf_bin", "u", "inclusion_probability", "state", "settled_answer",
    "created_at",
)  # fmt: skip


def insert_like(database: Database, queue_name: str, **changes: Any) -> None:
    """Insert a task that differs from one of the queue by its item and by `changes`."""
    changed = {"item_no": 10_000, **changes}
    chosen = ", ".join(f"CAST(:{name} AS {_TYPES[name]})" if name in changed else name for name in _COLUMNS)
    statement = text(
        f"INSERT INTO label_task ({', '.join(_COLUMNS)}) SELECT {chosen} FROM label_task"
        " WHERE queue = :like_queue ORDER BY id LIMIT 1"
    )
    with database.transaction() as connection:
        assert connection.execute(statement, {**changed, "like_queue": queue_name}).rowcount == 1


_TYPES = {
    "queue": "text", "draw_id": "bigint", "item_no": "integer", "inclusion_probability": "double precision",
    "state": "text", "settled_answer": "text",
}  # fmt: skip


@pytest.mark.parametrize("name", ["accuracy", "training"])
def test_a_task_as_the_product_makes_it_is_accepted_once(tasks_of_both_queues: Database, name: str) -> None:
    insert_like(tasks_of_both_queues, name)
    with pytest.raises(IntegrityError, match="duplicate key"):
        insert_like(tasks_of_both_queues, name)


@pytest.mark.parametrize(
    ("like", "changes"),
    [
        pytest.param("accuracy", {"draw_id": None}, id="an accuracy task of no draw"),
        pytest.param("accuracy", {"inclusion_probability": None}, id="an accuracy task of unknown probability"),
        pytest.param("accuracy", {"draw_id": None, "inclusion_probability": None}, id="an accuracy task without both"),
        pytest.param("accuracy", {"inclusion_probability": 0.0}, id="a task that could not have been drawn"),
        pytest.param("accuracy", {"inclusion_probability": 1.5}, id="a probability above one"),
        pytest.param("training", {"draw_id": 1}, id="a training task of a draw"),
        pytest.param("training", {"inclusion_probability": 0.5}, id="a training task with a probability"),
        pytest.param("training", {"queue": "accuracy"}, id="a training task among the accuracy tasks"),
        pytest.param("accuracy", {"queue": "training"}, id="an accuracy task among the training tasks"),
        pytest.param("training", {"queue": "guesses"}, id="a queue nobody knows"),
        pytest.param("accuracy", {"state": "settled"}, id="settled without a verdict"),
        pytest.param("accuracy", {"settled_answer": "dog"}, id="a verdict that is not settled"),
    ],
)
def test_the_database_refuses(tasks_of_both_queues: Database, like: str, changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="violates check constraint"):
        insert_like(tasks_of_both_queues, like, **changes)


def test_a_training_task_cannot_be_turned_into_an_accuracy_task(tasks_of_both_queues: Database) -> None:
    moved = text("UPDATE label_task SET queue = 'accuracy' WHERE queue = 'training'")
    with pytest.raises(IntegrityError, match="violates check constraint"), tasks_of_both_queues.transaction() as here:
        here.execute(moved)
    assert len(queue(tasks_of_both_queues, "training")) == 5


def test_a_probability_needs_its_draw_to_exist(tasks_of_both_queues: Database) -> None:
    with pytest.raises(IntegrityError, match="violates foreign key"):
        insert_like(tasks_of_both_queues, "accuracy", draw_id=999)
