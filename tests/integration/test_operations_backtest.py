"""Half a year lived through day by day on a real database, then replayed: what was decided is decided again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from components.data.versioning.git import git
from components.errors import RefusedError
from components.labels.consensus import settle
from components.monitoring.backtests.rules import Rules, compared
from components.operations.labelling import draw_closed_windows
from components.operations.monitoring.backtesting import has_history, quiet_window, replay_history
from components.operations.monitoring.judging import monitor_window
from components.operations.retraining.readiness import due_request
from components.operations.retraining.worth import decide
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Labelling, Params, Retrain
from components.records import LabelAnswer, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import champions, labelling, ledger, predictions, requests
from components.store.database import Database
from components.store.postgres.embedded import EmbeddedPostgres

pytestmark = pytest.mark.xdist_group("backtest")  # one worker makes what the module's tests share

BEGIN = datetime(2026, 1, 1, 6, tzinfo=UTC)
CLASSES = ("cat", "dog", "owl")
FELL_IN = "2026-03"  # from here on every fourth "dog" is an owl
MONTHS = 6
LATE = 20  # one answer in so many comes only after the judgement
SAID = text(
    "SELECT t.id, t.window_name, t.image_id, t.predicted FROM label_task t JOIN class_list c ON c.id = t.class_list_id"
    " WHERE t.state = 'open' AND t.queue <> 'check'"
)
PARAMS = Params(
    labelling=Labelling(share=0.1, reference_factor=3, training_queue=40),
    # Longer than a month, so that the second alarm's retraining is held back.
    retrain=Retrain(cooldown_days=45, minimum_new_labels=30),
)


def services_at(database: Database, folder: Path) -> Services:
    workspace = Workspace(folder, PARAMS, Settings(database_url="in the test"))
    return Services(workspace, database, ImageStore(str(folder / "images")), Registry("sqlite://", str(folder)))


@pytest.fixture(scope="module")
def lived(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory, make_chunk: Any, make_model: Any
) -> Iterator[Services]:
    """The service after half a year of its daily work; nothing below writes to it."""
    folder = tmp_path_factory.mktemp("backtest")
    git("init", "--quiet", ".", cwd=folder)
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    git(*who, "commit", "--quiet", "--allow-empty", "-m", "x", cwd=folder)
    database = Database(postgres.ensure_database("backtest"))
    database.migrate()
    model = make_model(1, CLASSES)
    champions.register_model(database, model)
    git("tag", model.dataset_version, cwd=folder)
    champions.compare_and_set(database, expected=None, new=1, now=BEGIN, actor="t", reason="first", evidence={})
    services = services_at(database, folder)
    live(services, make_chunk)
    yield services
    database.dispose()


def live(services: Services, make_chunk: Any) -> None:
    months = list(_months())
    services.workspace.reports.mkdir(parents=True)
    for number, month in enumerate(months):
        # Evidently's page, there already: drawing one takes longer than all the rest.
        (services.workspace.reports / f"{month.name}-v1.html").touch()
        scored_at = month.start + timedelta(days=5)
        batch = predictions.open_batch(
            services.database, batch_id=month.name, content_sha256=month.name, source="s", model_version=1,
            class_list=CLASSES, items=3000, scored_at=scored_at, now=scored_at,
        )  # fmt: skip
        predictions.write_chunk(services.database, batch, make_chunk(0, 3000, seed=number))
        predictions.close_batch(services.database, batch, scored_at)
    for day in range(30 * MONTHS):
        now = months[0].end + timedelta(days=day, hours=6)
        if 3 <= now.day <= 12 or requests.current_request(services.database):  # else there is nothing to be done
            live_a_day(services, now)
    answer(services, months[-1].end + timedelta(days=60), everybody=True)


def _months() -> Iterator[Window]:
    window = Window.containing(BEGIN)
    for _ in range(MONTHS):
        yield window
        window = window.following()


def live_a_day(services: Services, now: datetime) -> None:
    """Do what the daily flow does, with people who answer overnight and candidates that their gate refuses at first."""
    for name in draw_closed_windows(services, now=now):
        monitor_window(services, name, now=now)
    answer(services, now + timedelta(hours=12), everybody=False)
    if due_request(services, now=now) is None or decide(services, cause="accuracy", force=False, now=now).action != (
        "retrain"
    ):
        return
    claimed = requests.claim_request(services.database, now, 60, "worker")
    assert claimed is not None
    settled = [label.task_id for label in labelling.settled_labels(services.database)]
    labelling.mark_exported(services.database, settled, "data/2026-11-01-1")
    requests.finish_request(services.database, claimed.id, "unhelpful", "", now, worker="worker")


def answer(services: Services, at: datetime, *, everybody: bool) -> None:
    """Answer the open tasks; some people answer only when `everybody` does."""
    with services.database.transaction() as connection:
        open_tasks = connection.execute(SAID).all()
    given = [
        LabelAnswer(task, truth(window, image, predicted), "ann", at)
        for task, window, image, predicted in open_tasks
        if everybody or int(image[-6:], 16) % LATE
    ]
    labelling.record_answers(services.database, given, now=at, settle=partial(settle, wanted=1))


def truth(window: str, image: str, predicted: int) -> str:
    chance = np.random.default_rng(int(image, 16) % 2**63).random(2)
    if chance[0] < 0.04:
        return "other"
    fell = window >= FELL_IN and CLASSES[predicted] == "dog" and chance[1] < 0.25
    return "owl" if fell else CLASSES[predicted]


def replayed(services: Services, **rules: Rules) -> dict[str, Any]:
    ours = compared(services.workspace.params, [])
    return replay_history(services, [*ours, *rules.values()])


def of(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(rules for rules in result["rules"] if rules["name"] == name)


def rules(name: str, **labelling_rules: Any) -> Rules:
    labelled = Labelling(**{**PARAMS.labelling.model_dump(), **labelling_rules})
    return Rules(name, PARAMS.monitor, labelled, PARAMS.retrain)


@pytest.mark.slow
def test_the_rules_in_force_decide_again_what_the_ledger_says(lived: Services) -> None:
    result = json.loads(json.dumps(replayed(lived)))
    ours = of(result, "in force")
    rows = [row for row in reversed(ledger.history(lived.database, 500)) if row["kind"] == "judgement"]
    final = {row["window"]: row for row in rows}  # the newest judgement of a window
    decided = {w["window"]: (w["action"], tuple(w["classes"]), w["reason"]) for w in ours["windows"]}
    recorded = {name: (row["action"], tuple(row["classes"]), row["reason"]) for name, row in final.items()}
    reference = next(row for row in ledger.history(lived.database, 500) if row["kind"] == "reference")["window"]
    assert recorded == {name: told for name, told in decided.items() if name != reference}
    assert next(w for w in ours["windows"] if w["window"] == reference)["reference"] == "set"
    assert result["agreement"] == {"same": MONTHS, "of": MONTHS, "differing": []}
    assert decided[FELL_IN][0] == "retrain"  # else nothing was at stake
    assert "none" in {action for action, _, _ in decided.values()}
    assert any(row["action"] == "ask-labels" for row in rows)

    begun = [r.started_at.isoformat() for r in _begun(lived)]
    assert [w["retrained_at"] for w in ours["windows"] if w["retrained_at"]] == begun
    assert ours["retrainings"] == result["recorded"]["retrainings"] == len(begun) >= 2
    assert ours["alarms"] == result["recorded"]["alarms"] > len(begun)  # the cooldown held some back
    assert ours["missing"] == 0
    assert ours["labels"] == result["recorded"]["labels"]


def _begun(services: Services) -> list[requests.RetrainRequest]:
    found = [requests.find_request(services.database, number) for number in range(1, 20)]
    return [request for request in found if request is not None and request.started_at is not None]


@pytest.mark.slow
def test_other_rules_are_judged_on_the_answers_there_are(lived: Services) -> None:
    half, triple = rules("half", share=0.05), rules("triple", share=0.3)
    result = replayed(lived, half=half, twin=rules("twin", share=0.05), triple=triple)
    ours, less, more = (of(result, name) for name in ("in force", "half", "triple"))
    assert less["windows"][0]["missing"] == 0  # only a top-up of its own can ask for what nobody was asked
    assert less["windows"][0]["labels"] == ours["windows"][0]["labels"] / 2
    assert less["labels"] < ours["labels"] < more["labels"]
    assert more["missing"] > 1000
    assert {**of(result, "twin"), "name": "half"} == less
    always, never = of(result, "always-fire"), of(result, "never-fire")
    assert [w["action"] for w in always["windows"]] == ["retrain"] * MONTHS
    assert always["retrainings"] == MONTHS
    assert (never["alarms"], never["retrainings"], never["labels"]) == (0, 0, 0)


@pytest.mark.slow
def test_the_first_answers_of_a_smaller_draw_are_those_a_real_draw_takes(lived: Services) -> None:
    """A replay at another share counts what a query over the predictions themselves, smallest u first, would draw."""
    from components.monitoring.sampling.one_class import allocate
    from components.operations.monitoring.backtesting import _segments
    from components.store import replay

    stored = replay.drawn_segments(lived.database)[3:4]
    ((segment, _),) = _segments(lived, stored, [])
    wanted = allocate(segment.counts, 120)
    drawn = text(
        "SELECT t.predicted, t.conf_bin, count(t.settled_answer) FILTER (WHERE t.settled_at <= :judged) FROM"
        " (SELECT *, row_number() OVER (PARTITION BY predicted, conf_bin ORDER BY u) AS place FROM prediction"
        "  WHERE batch_number = (SELECT number FROM batch WHERE id = :batch)) p"
        " JOIN label_task t ON t.batch_number = p.batch_number AND t.item_no = p.item_no AND t.queue = 'accuracy'"
        " WHERE p.place <= (CAST(:wanted AS int[]))[p.predicted * 4 + p.conf_bin + 1] GROUP BY 1, 2"
    )
    values = {"batch": stored[0].window, "wanted": wanted.reshape(-1).tolist(), "judged": segment.first_at}
    labelled = np.zeros_like(wanted)
    with lived.database.transaction() as connection:
        for predicted, conf_bin, many in connection.execute(drawn, values):
            labelled[predicted, conf_bin] = many
    found = segment.answered(wanted, "first")
    np.testing.assert_array_equal(found.drawn, wanted)
    np.testing.assert_array_equal(found.labelled, labelled)
    assert 0 < labelled.sum() < wanted.sum()  # late answers do not count


@pytest.mark.slow
def test_people_read_what_each_set_of_rules_would_have_done(lived: Services) -> None:
    from flows.commands.backtest import _stored_lines

    result = {**replayed(lived, triple=rules("triple", share=0.3)), "page": None}
    shown = "\n".join(_stored_lines(result))
    assert "6 judged segments, 2026-01 to 2026-06" in shown
    assert "the rules in force decide as recorded in 6 of 6 segments" in shown
    rows = [line.split() for line in shown.splitlines()]
    recorded = result["recorded"]
    assert next(row for row in rows if row[:1] == ["recorded"])[1:4] == [
        str(recorded[key]) for key in ("alarms", "retrainings", "labels")
    ]
    alarms = [row for row in rows if row[:3] == [FELL_IN, "1", "triple"]]
    assert len(alarms) == 1
    assert "the cooldown ends" in shown
    assert "waits" in shown or of(result, "in force")["waiting"] is None


@pytest.mark.slow
def test_simulated_years_are_modelled_on_the_newest_window_without_an_alarm(lived: Services) -> None:
    found = quiet_window(lived, None)
    assert found is not None
    quiet = {w["window"] for w in replayed(lived)["recorded"]["windows"] if w["action"] == "none"}
    assert found[0] == max(quiet)
    assert found[1].population.sum() == 3000
    named = quiet_window(lived, FELL_IN)
    assert named is not None
    assert named[0] == FELL_IN
    assert quiet_window(lived, "2030-01") is None


def test_without_a_judged_window_there_is_nothing_to_replay(
    database: Database, fill_batch: Callable[..., Any], tmp_path: Path
) -> None:
    services = services_at(database, tmp_path)
    fill_batch("b1", 300)
    with pytest.raises(RefusedError, match=r"no window was judged yet.*--years"):
        replayed(services)
    assert quiet_window(services, None) is None
    assert has_history(services.workspace)
    assert not has_history(Workspace(tmp_path, PARAMS, Settings()))
