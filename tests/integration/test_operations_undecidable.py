"""Windows that hold little or nothing to measure, on a real database: a state with words, and no retraining."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from components.errors import ConfigurationError, DataError, RefusedError
from components.labels.consensus import settle
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import reference_from
from components.operations.labelling import draw_window
from components.operations.monitoring.drift_watch import set_reference_from_window, watch_drift
from components.operations.monitoring.judging import monitor_window
from components.operations.monitoring.planning import plan_labels
from components.operations.monitoring.reference import describe_reference, reset_reference
from components.operations.retraining.worth import decide
from components.operations.services import Services
from components.operations.windows import latest_closed
from components.operations.workspace import Workspace
from components.params import Params
from components.records import IMAGE_STATISTICS, LabelAnswer, ModelVersion, ScoredChunk, StratumCounts, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import champions, labelling, ledger, monitoring, predictions, requests
from components.store.database import Database
from components.store.scored.batches import Batch

SCORED = datetime(2026, 11, 20, 12, tzinfo=UTC)
CLOSED = datetime(2026, 12, 3, 6, tzinfo=UTC)
WEEK = timedelta(days=7)
NOVEMBER = Window.parse("2026-11")
NAIVE = datetime(2026, 12, 3, 6)  # noqa: DTZ001
Store = Callable[..., Batch]


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Services:
    workspace = Workspace(tmp_path, Params(), Settings())
    images = ImageStore(str(tmp_path / "images"))
    return Services(workspace, database, images, Registry("sqlite://", str(tmp_path)))


@pytest.fixture
def store(database: Database, model: ModelVersion) -> Store:
    """A function that stores a closed batch of one chunk, scored at a moment, by model 1 unless told."""

    def put(chunk: ScoredChunk, scored_at: datetime = SCORED, **more: Any) -> Batch:
        facts: dict[str, Any] = {
            "batch_id": f"{scored_at:%Y-%m-%d}", "content_sha256": "c", "source": "s", "model_version": 1,
            "class_list": model.classes, "items": len(chunk.item_no), "scored_at": scored_at, "now": scored_at,
        }  # fmt: skip
        batch = predictions.open_batch(database, **{**facts, **more})
        predictions.write_chunk(database, batch, chunk)
        return predictions.close_batch(database, batch, scored_at)

    return put


def say_what_was_right(services: Services, at: datetime, limit: int | None = None) -> int:
    """Answer open accuracy tasks as the model did; return how many."""
    tasks = labelling.tasks(services.database, "accuracy", limit=limit)
    said = text("SELECT t.id, c.classes[t.predicted + 1] FROM label_task t JOIN class_list c ON c.id = t.class_list_id")
    with services.database.transaction() as connection:
        names = {row[0]: row[1] for row in connection.execute(said)}
    answers = [LabelAnswer(task.task_id, names[task.task_id], "ann", at) for task in tasks]
    labelling.record_answers(services.database, answers, now=at, settle=partial(settle, wanted=1))
    return len(tasks)


def set_reference(services: Services, classes: tuple[str, ...] = ("cat", "dog", "owl")) -> None:
    """Make a level of about 95 % for the classes the service's reference."""
    size = len(classes)
    answers = np.zeros((size, 4, size + 1), np.int64)
    answers[np.arange(size), :, np.arange(size)], answers[:, :, size] = 190, 10
    labelled = answers.sum(axis=2)
    counts = StratumCounts(classes, 25 * labelled, labelled, answers, labelled, np.full((size, 4), 0.9))
    level = reference_from(estimate(counts), "2026-10").as_json()
    monitoring.set_reference_level(
        services.database, Window.parse("2026-10"), 1, level, reason="for the test", now=SCORED
    )


def watched(services: Services, at: datetime) -> dict[str, Any]:
    """Return what the monitor finds in November's one segment; nothing may have asked for a retraining."""
    (found,) = monitor_window(services, NOVEMBER.name, now=at)
    assert requests.current_request(services.database) is None
    assert found["decision"]["reason"]
    return found


def states(found: dict[str, Any]) -> list[str]:
    return [one["state"] for one in found["classes"]]


def test_a_window_without_predictions_has_nothing_to_judge_draw_or_plan(
    services: Services, model: ModelVersion
) -> None:
    assert monitor_window(services, NOVEMBER.name, now=CLOSED) == []
    assert draw_window(services, NOVEMBER.name, now=CLOSED)["draws"] == []
    with pytest.raises(RefusedError, match="window 2026-11 has no predictions; name another"):
        plan_labels(services, NOVEMBER.name, drop=0.1, power=0.8, trials=5, picture=None, now=CLOSED)
    counts = labelling.counts(services.database, NOVEMBER, 1)
    assert counts.population.sum() == 0
    assert estimate(counts).accuracy is None
    assert requests.current_request(services.database) is None


def test_a_window_without_predictions_is_no_drift(services: Services, store: Store, make_chunk: Any) -> None:
    store(make_chunk(0, 200), SCORED - timedelta(days=30))
    october = Window.parse("2026-10")
    (segment,) = predictions.segments(services.database, october)
    set_reference_from_window(services, october, segment, now=SCORED)
    found = watch_drift(services, NOVEMBER, segment, now=SCORED)
    assert {one.column for one in found} == {"predicted", "confidence", *IMAGE_STATISTICS}
    assert {one.state for one in found} == {"undecided: 0 rows on one side, fewer than 50"}
    assert not any(one.drifted for one in found)


def brightness(chunk: ScoredChunk, value: float) -> ScoredChunk:
    return replace(chunk, statistics={**chunk.statistics, "brightness": np.full(len(chunk.item_no), value, np.float32)})


@pytest.mark.parametrize(
    ("before", "now", "state", "drifted"),
    [
        pytest.param(0.3, 0.3, "undecided: constant, all rows fall into one cell", False, id="constant in both"),
        pytest.param(0.3, 0.4, "ok", True, id="constant in both, another value"),
        pytest.param(0.3, None, "ok", True, id="constant in the reference"),
        pytest.param(None, 0.3, "ok", True, id="constant in the window"),
        pytest.param(None, np.nan, "undecided: 0 rows on one side, fewer than 50", False, id="missing in the window"),
        pytest.param(
            np.nan, None, "undecided: 0 rows on one side, fewer than 50", False, id="missing in the reference"
        ),
    ],
)
def test_brightness_that_does_not_vary_is_a_finding_and_not_a_failure(
    services: Services,
    store: Store,
    make_chunk: Any,
    before: float | None,
    now: float | None,
    state: str,
    drifted: bool,
) -> None:
    october = Window.parse("2026-10")
    for seed, value, scored_at in ((1, before, SCORED - timedelta(days=30)), (2, now, SCORED)):
        chunk = make_chunk(0, 400, seed=seed)
        store(chunk if value is None else brightness(chunk, value), scored_at)
    (segment,) = predictions.segments(services.database, october)
    set_reference_from_window(services, october, segment, now=SCORED)
    found = {one.column: one for one in watch_drift(services, NOVEMBER, segment, now=SCORED)}
    assert (found["brightness"].state, found["brightness"].drifted) == (state, drifted)
    assert found["contrast"].state == "ok"
    assert not found["contrast"].drifted
    assert monitoring.findings(services.database, NOVEMBER, 1) == sorted(found.values(), key=lambda one: one.column)


def test_a_sample_nobody_answers_is_judged_not_measurable_once_and_retrains_nothing(
    services: Services, store: Store, make_chunk: Any
) -> None:
    store(make_chunk(0, 400))
    set_reference(services)
    assert "no sample drawn yet" in watched(services, CLOSED)["decision"]["reason"]
    draw_window(services, NOVEMBER.name, now=CLOSED)
    assert "waiting for answers: 0 of" in watched(services, CLOSED + timedelta(days=6))["decision"]["reason"]
    for _ in range(2):
        found = watched(services, CLOSED + WEEK)
        assert found["decision"]["action"] == "none"
        assert "no settled labels" in found["decision"]["reason"]
        assert states(found) == ["not-measurable"] * 3
    assert [row["action"] for row in ledger.history(services.database, 10, kind="judgement")] == ["none"]


def test_without_a_reference_a_sample_nobody_answers_sets_none(
    services: Services, store: Store, make_chunk: Any
) -> None:
    store(make_chunk(0, 400))
    draw_window(services, NOVEMBER.name, now=CLOSED)
    found = watched(services, CLOSED + WEEK)
    assert states(found) == ["not-measurable"] * 3
    assert monitoring.reference_level(services.database) is None


def test_one_answer_is_too_few_to_judge_by(services: Services, store: Store, make_chunk: Any) -> None:
    store(make_chunk(0, 400))
    set_reference(services)
    draw_window(services, NOVEMBER.name, now=CLOSED)
    assert say_what_was_right(services, CLOSED, limit=1) == 1
    found = watched(services, CLOSED + WEEK)
    assert found["decision"]["action"] in ("none", "ask-labels")
    assert sorted(states(found)) == ["insufficient", "not-measurable", "not-measurable"]
    (told,) = [one["reasons"] for one in found["classes"] if one["state"] == "insufficient"]
    assert any("nobody answered" in reason for reason in told)
    assert found["overall"] is None


def test_a_model_with_a_class_the_reference_does_not_know_is_judged_in_the_others(
    services: Services, store: Store, make_chunk: Any, make_model: Callable[..., ModelVersion]
) -> None:
    classes = ("cat", "dog", "yak")
    champions.register_model(services.database, make_model(2, classes))
    store(make_chunk(0, 3000), model_version=2, class_list=classes)
    set_reference(services)
    draw_window(services, NOVEMBER.name, now=CLOSED)
    assert say_what_was_right(services, CLOSED) > 100
    found = watched(services, CLOSED + WEEK)
    assert found["decision"]["action"] == "none"
    assert dict(zip(classes, states(found), strict=True)) == {"cat": "ok", "dog": "ok", "yak": "no-reference"}

    held_to = describe_reference(services)
    assert held_to is not None
    assert held_to["reason"] == "window 2026-11 is the first to measure yak"
    levels = {one["name"]: one["precision"] for one in held_to["classes"]}
    assert (round(levels["cat"], 9), round(levels["yak"], 9)) == (0.95, 1.0)
    watched(services, CLOSED + 2 * WEEK)
    assert [row["action"] for row in ledger.history(services.database, 9, "reference")] == ["extended"]


def test_a_person_may_reset_the_reference_to_a_window_that_can_be_one(
    services: Services, store: Store, make_chunk: Any
) -> None:
    set_reference(services)
    store(make_chunk(0, 400))

    def reset(window: str) -> dict[str, Any]:
        return reset_reference(services, window, reason="checked by hand", actor="ada", now=CLOSED)

    with pytest.raises(RefusedError, match="window 2026-10 cannot be the reference: it has no predictions"):
        reset("2026-10")
    draw_window(services, NOVEMBER.name, now=CLOSED)
    with pytest.raises(RefusedError, match="it has no settled labels"):
        reset(NOVEMBER.name)
    say_what_was_right(services, CLOSED)
    found = reset(NOVEMBER.name)
    assert (found["window"], found["actor"], found["reason"]) == ("2026-11", "ada", "checked by hand")
    assert [round(one["precision"], 9) for one in found["classes"]] == [1.0, 1.0, 1.0]
    assert describe_reference(services) == found


def test_a_chunk_with_a_confidence_of_nan_is_refused_and_nothing_of_it_is_stored(
    services: Services, store: Store, make_chunk: Any
) -> None:
    chunk = make_chunk(0, 50)
    chunk.confidence[7] = np.nan
    with pytest.raises(DataError, match=r"row 7: confidence is .*nan.*, not within 0..1"):
        store(chunk)
    assert labelling.counts(services.database, NOVEMBER, 1).population.sum() == 0


def test_a_batch_dated_in_the_future_is_refused_beyond_what_clocks_differ_by(
    services: Services, store: Store, make_chunk: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"scored_at 2026-11-20T12:06:00\+00:00 lies in the future"):
        store(make_chunk(0, 10), SCORED + timedelta(minutes=6), now=SCORED)
    assert predictions.segments(services.database, NOVEMBER) == []
    assert store(make_chunk(0, 10), SCORED + timedelta(minutes=4), now=SCORED).rows == 10


def test_a_window_that_lies_ahead_cannot_be_drawn_and_judges_nothing(
    services: Services, store: Store, make_chunk: Any
) -> None:
    store(make_chunk(0, 100))
    for now in (SCORED, NOVEMBER.end + timedelta(hours=47, minutes=59)):
        with pytest.raises(RefusedError, match="window 2026-11 closes at 2026-12-03 00:00 UTC"):
            draw_window(services, NOVEMBER.name, now=now)
        assert "closes at 2026-12-03 00:00 UTC" in watched(services, now)["decision"]["reason"]
    assert monitor_window(services, "2099-01", now=CLOSED) == []
    assert latest_closed(services, CLOSED) == NOVEMBER


MOMENTS: dict[str, Callable[[Services], object]] = {
    "the moment of monitoring": lambda s: monitor_window(s, NOVEMBER.name, now=NAIVE),
    "the moment of a draw": lambda s: draw_window(s, NOVEMBER.name, now=NAIVE),
    "the moment of a draw of the latest window": lambda s: draw_window(s, None, now=NAIVE),
    "the moment that asks for the latest window": lambda s: latest_closed(s, NAIVE),
    "the moment of a retraining": lambda s: decide(s, cause="accuracy", force=False, now=NAIVE),
    "the start of a month of attempts": lambda s: requests.attempts_since(s.database, NAIVE),
    "the moment of a claim": lambda s: requests.claim_request(s.database, NAIVE, 60, "w"),
    "the moment since when labels count": lambda s: labelling.new_settled_count(s.database, since=NAIVE),
    "the moment of a training queue": lambda s: labelling.fill_training_queue(
        s.database, NOVEMBER, 1, classes=(), limit=5, now=NAIVE
    ),
    "the moment of a drift reference": lambda s: monitoring.set_drift_reference(
        s.database, 1, NOVEMBER.name, {}, now=NAIVE
    ),
}


@pytest.mark.parametrize("use", MOMENTS.values(), ids=MOMENTS)
def test_a_time_without_a_zone_is_refused_and_leaves_nothing_behind(
    services: Services, store: Store, make_chunk: Any, use: Callable[[Services], object]
) -> None:
    store(make_chunk(0, 100))
    with pytest.raises(ConfigurationError, match="has no zone; write it with one"):
        use(services)
    assert labelling.open_count(services.database, "accuracy") == 0
    assert labelling.open_count(services.database, "training") == 0
    assert monitoring.drift_reference(services.database, 1) is None
    assert ledger.history(services.database, 10) == []


@pytest.mark.parametrize("moment", ["scored_at", "now"])
def test_a_batch_without_a_zone_is_refused(store: Store, make_chunk: Any, moment: str) -> None:
    with pytest.raises(ConfigurationError, match="has no zone"):
        store(make_chunk(0, 10), **{moment: NAIVE})
