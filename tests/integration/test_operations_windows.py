"""Weeks and days on a real database: drawn, labelled and judged, and no prediction in two windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from components.alerts.message import accuracy_alert
from components.errors import RefusedError
from components.labels.consensus import settle
from components.operations.alerting import open_alerts, send
from components.operations.labelling import draw_closed_windows, draw_window
from components.operations.monitoring.judging import monitor_window
from components.operations.monitoring.reactions import follow_up
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Labelling, Monitor, Params
from components.records import Decision, LabelAnswer, ModelVersion, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import champions, labelling, ledger, monitoring, predictions, requests
from components.store.database import Database
from components.store.scored.batches import Batch
from flows.commands.loop import segment_lines

CLASSES = ("cat", "dog", "owl")
A_DAY = 240  # predictions
SHARE = 0.25
Truth = Callable[[str, date], float]
Score = Callable[..., Batch]


@pytest.fixture
def open_with(database: Database, tmp_path: Path) -> Callable[..., Services]:
    """A function of the window's length that opens the workspace, as after an edit of params.yaml."""
    (tmp_path / ".perennial" / "reports").mkdir(parents=True)

    def opened(length: str, **monitor: Any) -> Services:
        params = Params(monitor=Monitor(window=length, **monitor), labelling=Labelling(share=SHARE, reference_factor=2))
        workspace = Workspace(tmp_path, params, Settings())
        return Services(workspace, database, ImageStore(str(tmp_path / "images")), Registry("sqlite://", str(tmp_path)))

    return opened


@pytest.fixture
def score(database: Database, model: ModelVersion, make_chunk: Any) -> Score:
    """A function that scores a closed batch of A_DAY predictions at noon of each day given."""
    numbers = count(1)

    def put(*days: date, version: int = 1, rows: int = A_DAY) -> None:
        for day in days:
            at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
            number = next(numbers)
            batch = predictions.open_batch(
                database, batch_id=f"b{number}", content_sha256="c", source="s", model_version=version,
                class_list=model.classes, items=rows, scored_at=at, now=at,
            )  # fmt: skip
            predictions.write_chunk(database, batch, make_chunk(0, rows, seed=number))
            predictions.close_batch(database, batch, at)

    return put


def days_between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def always(share: float) -> Truth:
    return lambda _name, _day: share


def dogs_fell(name: str, _day: date) -> float:
    return 0.5 if name == "dog" else 0.96


def answer(services: Services, at: datetime, truth: Truth, windows: Sequence[str] = ()) -> int:
    """Answer open accuracy tasks (of `windows`, or all): right in the share of cases that `truth` gives the class."""
    said = text(
        "SELECT t.id, c.classes[t.predicted + 1], CAST(b.scored_at AT TIME ZONE 'UTC' AS date), t.u, t.window_name"
        " FROM label_task t JOIN class_list c ON c.id = t.class_list_id JOIN batch b ON b.number = t.batch_number"
        " WHERE t.queue = 'accuracy' AND t.state = 'open'"
    )
    with services.database.transaction() as connection:
        rows = connection.execute(said).all()
    answers = []
    for task, predicted, day, u, window in rows:
        if windows and window not in windows:
            continue
        right = (u * 7919) % 1 < truth(predicted, day)
        other = CLASSES[(CLASSES.index(predicted) + 1) % 3]
        answers.append(LabelAnswer(task, predicted if right else other, "ann", at))
    labelling.record_answers(services.database, answers, now=at, settle=partial(settle, wanted=1))
    return len(answers)


def without_pages(services: Services, *windows: str) -> None:
    """Keep Evidently from drawing: a page that is there is not drawn again."""
    for name in windows:
        (services.workspace.reports / f"{name}-v1.html").touch()


def drawn_twice(database: Database) -> int:
    asked = text(
        "SELECT count(*) FROM (SELECT 1 FROM label_task WHERE queue = 'accuracy'"
        " GROUP BY model_version, batch_number, item_no HAVING count(*) > 1) twice"
    )
    with database.transaction() as connection:
        return int(connection.execute(asked).scalar_one())


def population(services: Services, window: str) -> int:
    return int(labelling.counts(services.database, Window.parse(window), 1).population.sum())


def judged(services: Services, window: str, at: datetime) -> dict[str, Any]:
    (found,) = monitor_window(services, window, now=at)
    return found


def test_weeks_across_two_years_are_drawn_labelled_and_judged(open_with: Any, score: Score) -> None:
    services = open_with("week")
    score(*days_between(date(2026, 12, 21), date(2027, 1, 17)))
    weeks = ["2026-W52", "2026-W53", "2027-W01", "2027-W02"]
    without_pages(services, *weeks[:1], *weeks[2:])

    def truth(name: str, day: date) -> float:
        return 0.6 if name == "dog" and day >= date(2027, 1, 11) else 0.96

    now = datetime(2027, 1, 20, 6, tzinfo=UTC)
    assert draw_closed_windows(services, now=now) == weeks
    assert [population(services, week) for week in weeks] == [7 * A_DAY] * 4
    kinds = [labelling.draw_kind(services.database, Window.parse(week), 1) for week in weeks]
    assert kinds == ["reference", "regular", "regular", "regular"]
    assert drawn_twice(services.database) == 0

    assert "waiting for answers: 0 of 840" in judged(services, "2026-W52", now)["decision"]["reason"]
    answer(services, now, truth, weeks[1:])
    found = judged(services, "2026-W53", now)
    assert found["decision"]["reason"].startswith("waiting for window 2026-W52, which was drawn as the service's")
    answer(services, now, truth)
    assert "2026-W52 is the service's reference" in judged(services, "2026-W52", now)["decision"]["reason"]
    for week in weeks[1:3]:
        found = judged(services, week, now)
        assert (found["labels"], found["late"], found["drawn_elsewhere"]) == (SHARE * 7 * A_DAY, 0, {})
        assert {c["state"] for c in found["classes"]} == {"ok"}
        for c in found["classes"]:
            assert c["false_negative"]["value"] == pytest.approx(1 - c["recall"]["value"], abs=1e-5)
            assert 0 < c["false_positive"]["low"] < c["false_positive"]["value"] < c["false_positive"]["high"] < 0.1
        assert monitoring.estimates(services.database, Window.parse(week), 1) == found["classes"]
        assert found["decision"]["action"] == "none"
        assert {d["state"] for d in found["drift"]} == {"ok"}
    assert (services.workspace.reports / "2026-W53-v1.html").stat().st_size > 100_000

    assert judged(services, "2027-W02", now)["decision"]["action"] in ("ask-labels", "retrain")
    answer(services, now, truth)
    assert judged(services, "2027-W02", now)["decision"]["action"] == "retrain"
    request = requests.current_request(services.database)
    # What was called a dog and is none is an owl: dogs lose precision, owls recall.
    assert (request.window, set(request.classes)) == ("2027-W02", {"dog", "owl"})
    assert draw_closed_windows(services, now=now) == []
    # Drawn by `draw_closed_windows` and asked for again every day since: one row a window, not one a day.
    rows = ledger.history(services.database, 100, kind="draw")
    assert sorted(row["window"] for row in rows) == weeks


def test_earlier_windows_of_the_same_model_stand_beside_and_decide_nothing(
    open_with: Any, score: Score, make_model: Callable[..., ModelVersion]
) -> None:
    services = open_with("week", tolerance=0.6, floor=0.1)
    champions.register_model(services.database, make_model(2))
    score(*days_between(date(2026, 11, 2), date(2026, 11, 29)))
    score(date(2026, 11, 29), version=2)
    weeks = ["2026-W45", "2026-W46", "2026-W47", "2026-W48"]
    without_pages(services, *weeks)
    (services.workspace.reports / "2026-W48-v2.html").touch()
    now = datetime(2026, 12, 2, 6, tzinfo=UTC)
    draw_closed_windows(services, now=now)
    answer(services, now, lambda name, day: 0.6 if name == "dog" and day >= date(2026, 11, 23) else 0.96)
    found = {week: monitor_window(services, week, now=now) for week in weeks}
    first = found["2026-W45"][0]
    assert (first["pooled"], first["since"]) == (None, None)
    assert [found[week][0]["pooled"]["windows"] for week in weeks[1:]] == [weeks[:2], weeks[:3], weeks[1:]]
    assert found["2026-W47"][0]["since"]["fell"] == []
    last, of_another_model = found["2026-W48"]
    assert (of_another_model["pooled"], of_another_model["since"]) == (None, None)
    assert monitoring.windows_before(services.database, Window.parse("2026-W48"), 2) == []
    assert (last["pooled"]["predictions"], last["pooled"]["labels"]) == (3 * 7 * A_DAY, 3 * SHARE * 7 * A_DAY)
    dog, together = last["classes"][1], last["pooled"]["classes"][1]
    assert together["precision"]["value"] > dog["precision"]["value"] + 0.1
    width = [c["precision"]["high"] - c["precision"]["low"] for c in (dog, together)]
    assert width[1] < width[0]
    assert last["since"]["window"] == "2026-W47"
    assert last["since"]["fell"][0].startswith("dog: precision 9")
    assert last["decision"]["action"] == "none"
    for _ in range(2):
        monitor_window(services, "2026-W48", now=now)
    (told,) = open_alerts(services, "fell/")
    assert (told["level"], told["title"]) == ("info", "Lower in 2026-W48 than in 2026-W47: dog, owl")
    assert [a["key"] for a in open_alerts(services, "")] == ["fell/2026-W48/1"]
    assert requests.current_request(services.database) is None
    lines = "\n".join(segment_lines(last))
    assert "lower than in 2026-W47 (decides nothing): dog: precision" in lines


def test_a_label_that_comes_late_counts_in_its_predictions_window(open_with: Any, score: Score) -> None:
    services = open_with("week")
    score(*days_between(date(2026, 10, 26), date(2026, 11, 15)))
    weeks = ["2026-W44", "2026-W45", "2026-W46"]
    without_pages(services, *weeks)
    now = datetime(2026, 11, 18, 6, tzinfo=UTC)
    draw_closed_windows(services, now=now)
    answer(services, now, always(0.96), weeks[:1])
    judged(services, weeks[0], now)
    later = now + timedelta(days=8)
    before = {week: judged(services, week, later) for week in weeks}
    assert [before[week]["labels"] for week in weeks] == [2 * SHARE * 7 * A_DAY, 0, 0]
    assert answer(services, later, always(0.96), weeks[1:2]) > 0
    after = {week: judged(services, week, later) for week in weeks}
    assert after["2026-W45"]["labels"] == SHARE * 7 * A_DAY
    assert after["2026-W45"]["decision"] == before["2026-W45"]["decision"]  # judged without them, and never again
    assert [after[week]["labels"] for week in (weeks[0], weeks[2])] == [
        before[w]["labels"] for w in (weeks[0], weeks[2])
    ]


def test_days_wait_for_the_reference_day_and_are_then_judged_each(open_with: Any, score: Score) -> None:
    services = open_with("day")
    days = days_between(date(2026, 10, 29), date(2026, 11, 4))
    names = [f"{day}" for day in days]
    without_pages(services, *names)
    score(*days)
    for day in days:  # every day as `daily` would: draw what has closed, judge what can be
        now = datetime(day.year, day.month, day.day, 6, tzinfo=UTC) + timedelta(days=3)
        for name in draw_closed_windows(services, now=now):
            monitor_window(services, name, now=now)
    kinds = [labelling.draw_kind(services.database, Window.parse(name), 1) for name in names]
    assert kinds == ["reference", *["regular"] * 6]
    assert monitoring.reference_level(services.database) is None
    for _ in range(2):  # with what they ask for further
        answer(services, now, always(0.96))
        for name in draw_closed_windows(services, now=now):
            monitor_window(services, name, now=now)
    assert monitoring.reference_level(services.database).window == "2026-10-29"
    assert draw_closed_windows(services, now=now) == []
    rows = ledger.history(services.database, 100, kind="judgement")
    assert {row["window"] for row in rows} == set(names[1:])
    assert {row["action"] for row in rows} <= {"none", "ask-labels"}
    assert drawn_twice(services.database) == 0


def test_a_reference_day_nobody_answers_holds_the_service_up_for_a_week_at_most(open_with: Any, score: Score) -> None:
    services = open_with("day")
    score(date(2026, 11, 2), date(2026, 11, 3))
    without_pages(services, "2026-11-02", "2026-11-03")
    now = datetime(2026, 11, 6, 6, tzinfo=UTC)
    draw_closed_windows(services, now=now)
    answer(services, now, always(0.96), ["2026-11-03"])
    assert "waiting for window 2026-11-02" in judged(services, "2026-11-03", now)["decision"]["reason"]
    later = now + timedelta(days=7)
    assert "2026-11-03 is the service's reference" in judged(services, "2026-11-03", later)["decision"]["reason"]


def test_after_months_weeks_begin_where_the_last_drawn_month_ended(open_with: Any, score: Score) -> None:
    months = open_with("month")
    score(*days_between(date(2026, 10, 12), date(2026, 11, 15)))
    without_pages(months, "2026-10", "2026-W44", "2026-W45", "2026-W46")
    drawn_at = datetime(2026, 11, 3, 6, tzinfo=UTC)
    assert draw_closed_windows(months, now=drawn_at) == ["2026-10"]
    score(date(2026, 10, 28))  # too late for October's draw, and no week's either

    weeks, now = open_with("week"), datetime(2026, 11, 18, 6, tzinfo=UTC)
    assert draw_closed_windows(weeks, now=now) == ["2026-10", "2026-W44", "2026-W45", "2026-W46"]
    assert [population(weeks, name) for name in ("2026-10", "2026-W44", "2026-W45")] == [20 * A_DAY, A_DAY, 7 * A_DAY]
    assert drawn_twice(weeks.database) == 0
    answer(weeks, now, always(0.96))
    october = judged(weeks, "2026-10", now)  # drawn before the change, and judged all the same
    assert (october["late"], october["drawn_elsewhere"]) == (A_DAY, {})
    assert "is the service's reference" in october["decision"]["reason"]
    rest = judged(weeks, "2026-W44", now)
    assert (rest["late"], rest["drawn_elsewhere"]) == (0, {"2026-10": 7 * A_DAY})
    assert rest["decision"]["action"] in ("none", "ask-labels")  # of 60 labels, and judged by them
    drawn = next(r for r in ledger.history(weeks.database, 50, kind="draw") if r["window"] == "2026-W44")
    assert drawn["reason"].endswith(f"; {7 * A_DAY} predictions were drawn in 2026-10 and are judged there")

    with pytest.raises(
        RefusedError, match=r"2026-W43 has nothing left to draw: model 1: 1680 .* were drawn in 2026-10"
    ):
        draw_window(weeks, "2026-W43", now=now)
    assert "nothing is judged in window 2026-W43" in judged(weeks, "2026-W43", now)["decision"]["reason"]


def test_after_weeks_a_month_begins_where_the_last_drawn_week_ended(open_with: Any, score: Score) -> None:
    weeks = open_with("week")
    score(*days_between(date(2026, 11, 2), date(2026, 11, 30)))
    without_pages(weeks, "2026-W45", "2026-W46", "2026-11")
    assert draw_closed_windows(weeks, now=datetime(2026, 11, 18, 6, tzinfo=UTC)) == ["2026-W45", "2026-W46"]
    months, now = open_with("month"), datetime(2026, 12, 3, 6, tzinfo=UTC)
    assert draw_closed_windows(months, now=now) == ["2026-W45", "2026-W46", "2026-11"]
    assert population(months, "2026-11") == 15 * A_DAY
    assert drawn_twice(months.database) == 0
    found = judged(months, "2026-11", now)
    assert found["drawn_elsewhere"] == {"2026-W45": 7 * A_DAY, "2026-W46": 7 * A_DAY}


def test_overlapping_windows_drawn_at_once_share_no_prediction(open_with: Any, score: Score) -> None:
    services = open_with("week")
    score(*days_between(date(2026, 11, 1), date(2026, 11, 14)))
    now = datetime(2026, 12, 3, 6, tzinfo=UTC)
    names = ["2026-11", "2026-W45", "2026-W46", "2026-11-05"] * 2

    def draw_it(name: str) -> None:
        try:
            draw_window(services, name, now=now)
        except RefusedError as refusal:
            assert "has nothing left to draw" in str(refusal)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(draw_it, names))
    assert drawn_twice(services.database) == 0
    with services.database.transaction() as connection:
        counted = connection.execute(text("SELECT count(*), count(DISTINCT batch_number) FROM draw_batch")).one()
    assert tuple(counted) == (14, 14)


def test_a_day_of_few_rows_does_not_become_the_drift_reference(open_with: Any, score: Score) -> None:
    services = open_with("day")
    score(date(2026, 11, 2), rows=20)
    score(date(2026, 11, 3))
    now = datetime(2026, 11, 6, 6, tzinfo=UTC)
    assert {d["state"] for d in judged(services, "2026-11-02", now)["drift"]} == {"undecided: no drift reference yet"}
    assert "window 2026-11-03 is it from now on" in judged(services, "2026-11-03", now)["drift"][0]["state"]


def test_a_fall_of_a_model_that_serves_no_more_retrains_nothing(
    open_with: Any, score: Score, make_model: Callable[..., ModelVersion]
) -> None:
    services = open_with("week")
    champions.compare_and_set(
        services.database,
        expected=None,
        new=1,
        now=datetime(2026, 11, 1, tzinfo=UTC),
        actor="t",
        reason="",
        evidence={},
    )
    score(*days_between(date(2026, 11, 2), date(2026, 11, 15)))
    without_pages(services, "2026-W45", "2026-W46")
    now = datetime(2026, 11, 18, 6, tzinfo=UTC)
    draw_closed_windows(services, now=now)
    answer(services, now, always(0.96), ["2026-W45"])
    answer(services, now, dogs_fell)
    judged(services, "2026-W45", now)
    champions.register_model(services.database, make_model(2))
    champions.compare_and_set(services.database, expected=1, new=2, now=now, actor="t", reason="", evidence={})
    judged(services, "2026-W46", now)
    answer(services, now, dogs_fell)
    for _ in range(2):
        decision = judged(services, "2026-W46", now)["decision"]
        assert decision["action"] == "refused"
        assert decision["reason"].endswith("not retrained: model 1 serves no more, model 2 does")
    assert requests.current_request(services.database) is None
    assert open_alerts(services, "") == []


def test_a_fall_that_lasts_for_days_is_told_once_a_month_and_asks_for_images_once(open_with: Any, score: Score) -> None:
    services = open_with("day")
    days = days_between(date(2026, 11, 2), date(2026, 11, 4))
    score(*days, rows=4 * A_DAY)
    without_pages(services, *(f"{day}" for day in days))
    now = datetime(2026, 11, 8, 6, tzinfo=UTC)
    draw_closed_windows(services, now=now)

    def truth(name: str, day: date) -> float:
        return 0.1 if name == "dog" and day > days[0] else 0.96

    for _ in range(2):
        answer(services, now, truth)
        for day in days:
            judged(services, f"{day}", now)
    rows = ledger.history(services.database, 100, kind="judgement")
    alarmed = {row["window"] for row in rows if row["action"] == "retrain"}
    assert alarmed == {"2026-11-03", "2026-11-04"}
    assert [alert["key"] for alert in open_alerts(services, "accuracy/")] == ["accuracy/2026-11-03/1"]
    assert {task.window for task in labelling.tasks(services.database, "training", limit=None)} == {"2026-11-03"}
    judged(services, "2026-11-04", now + timedelta(days=28))
    assert len(open_alerts(services, "accuracy/")) == 2


def test_a_quiet_window_closes_no_alert_about_a_later_one(open_with: Any, model: ModelVersion) -> None:
    services, now = open_with("day"), datetime(2026, 11, 10, tzinfo=UTC)
    asked = Decision("retrain", ("dog",), "accuracy fell")
    send(services, accuracy_alert("2026-11-06", 1, (), asked), now=now)
    quiet = partial(follow_up, services, version=1, classes=(), decision=Decision("none"), note="", now=now)
    quiet(window=Window.parse("2026-11-05"))
    assert len(open_alerts(services, "accuracy/")) == 1
    quiet(window=Window.parse("2026-11-07"))
    assert open_alerts(services, "accuracy/") == []
