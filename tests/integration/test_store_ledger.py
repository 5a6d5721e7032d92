from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from components.errors import ConfigurationError, ConflictError, PerennialError
from components.records import ModelVersion, Window
from components.store import alerts_log, champions, ledger, monitoring, requests
from components.store.database import Database

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OCTOBER = Window.parse("2026-10")


def note(database: Database, **changes: object) -> int:
    facts = {"kind": "gate", "actor": "test", "action": "kept", "reason": "why", "evidence": {}, "now": NOW}
    return ledger.record(database, **{**facts, **changes})


def promote(database: Database, expected: int | None, new: int, **changes: object) -> None:
    facts = {"now": NOW, "actor": "test", "reason": f"{expected} to {new}", "evidence": {}}
    champions.compare_and_set(database, expected=expected, new=new, **{**facts, **changes})


def ask(database: Database, window: str | None = None, **changes: object) -> tuple[int, bool]:
    facts = {"reason": "alarm", "classes": ("cat",), "window": window, "now": NOW, "evidence": {"n": 1}}
    return requests.open_request(database, **{**facts, **changes})


@pytest.fixture
def three_models(database: Database, make_model: Callable[..., ModelVersion]) -> Database:
    for version in (1, 2, 3):
        champions.register_model(database, make_model(version))
    return database


def test_the_ledger_gives_back_what_was_recorded_newest_first(database: Database) -> None:
    note(
        database, evidence={"p": np.float32(0.5), "bad": math.nan, "name": "a\x00b"}, classes=("cat",), window="2026-10"
    )
    note(database, kind="retrain", action="refused", model_version=7)
    newest, oldest = ledger.history(database, 10)
    assert (newest["kind"], newest["model_version"], newest["window"]) == ("retrain", 7, None)
    assert oldest["evidence"] == {"p": 0.5, "bad": None, "name": "a\\x00b"}
    assert (oldest["classes"], oldest["window"], oldest["at"]) == (["cat"], "2026-10", NOW)
    assert [row["kind"] for row in ledger.history(database, 10, kind="gate")] == ["gate"]
    assert len(ledger.history(database, 1)) == 1
    note(database, window="2026-W45")
    note(database, window="2026-W46")
    assert [row["window"] for row in ledger.history(database, 10, window="2026-W45")] == ["2026-W45"]


@pytest.mark.parametrize(
    "statement", ["UPDATE decision SET reason = 'x'", "DELETE FROM decision", "TRUNCATE decision", "TRUNCATE label"]
)
def test_the_ledger_and_the_labels_refuse_to_change(database: Database, statement: str) -> None:
    note(database)
    with pytest.raises(DBAPIError, match="append-only"), database.transaction() as connection:
        connection.execute(text(statement))
    assert len(ledger.history(database, 10)) == 1


def test_a_ledger_row_vanishes_with_its_transaction(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        ledger.record(connection, kind="k", actor="a", action="b", reason="c", evidence={}, now=NOW)
        raise ZeroDivisionError
    assert ledger.history(database, 10) == []


def test_registering_again_changes_nothing_and_another_artifact_is_refused(
    database: Database, make_model: Callable[..., ModelVersion]
) -> None:
    champions.register_model(database, make_model(1))
    champions.register_model(database, make_model(1))
    assert champions.models(database) == [make_model(1)]
    with pytest.raises(ConflictError, match="registered with artifact"):
        champions.register_model(database, ModelVersion(**{**_fields(make_model(1)), "artifact_sha256": "f" * 64}))


def _fields(model: ModelVersion) -> dict[str, object]:
    return {name: getattr(model, name) for name in ModelVersion.__slots__}


def test_promotion_and_rollback_move_pointer_states_and_ledger_together(three_models: Database) -> None:
    assert champions.champion(three_models) is None
    promote(three_models, None, 1)
    promote(three_models, 1, 2)
    promote(three_models, 2, 3)
    assert {m.version: m.state for m in champions.models(three_models)} == {1: "retired", 2: "previous", 3: "champion"}
    promote(three_models, 3, 2, action="rollback")
    assert {m.version: m.state for m in champions.models(three_models)} == {1: "retired", 2: "champion", 3: "previous"}
    assert champions.previous(three_models).version == 3
    history = champions.champion_history(three_models)
    assert [(h["previous"], h["version"], h["action"]) for h in history] == [
        (3, 2, "rollback"), (2, 3, "promote"), (1, 2, "promote"), (None, 1, "promote"),
    ]  # fmt: skip


@pytest.mark.parametrize(("expected", "new"), [(None, 2), (3, 2), (1, 1)])
def test_a_promotion_on_an_outdated_view_is_refused_and_leaves_no_trace(
    three_models: Database, expected: int | None, new: int
) -> None:
    promote(three_models, None, 1)
    with pytest.raises(ConflictError):
        promote(three_models, expected, new)
    assert champions.champion(three_models).version == 1
    assert len(champions.champion_history(three_models)) == 1


def test_an_unknown_version_is_named_with_the_known_ones(three_models: Database) -> None:
    with pytest.raises(ConfigurationError, match="version 9 is unknown; known: 1, 2, 3"):
        promote(three_models, None, 9)


def test_of_racing_promotions_exactly_one_wins_every_round(three_models: Database) -> None:
    current: int | None = None
    for _ in range(20):
        rivals = [version for version in (1, 2, 3) if version != current] * 3

        def attempt(version: int, expected: int | None = current) -> int | None:
            try:
                promote(three_models, expected, version)
            except ConflictError:
                return None
            return version

        with ThreadPoolExecutor(len(rivals)) as pool:
            winners = [version for version in pool.map(attempt, rivals) if version is not None]
        assert len(winners) == 1
        current = winners[0]
        assert champions.champion(three_models).version == current
        assert [m.version for m in champions.models(three_models) if m.state == "champion"] == [current]
    assert len(champions.champion_history(three_models)) == 20


def test_only_promotion_makes_and_unmakes_champions(three_models: Database) -> None:
    promote(three_models, None, 1)
    with pytest.raises(ConflictError, match="is champion"):
        champions.set_state(three_models, 1, "rejected")
    with pytest.raises(ConfigurationError, match="cannot be set by hand"):
        champions.set_state(three_models, 2, "champion")
    champions.set_state(three_models, 2, "rejected")
    assert champions.model(three_models, 2).state == "rejected"


def test_metrics_are_added_to(three_models: Database) -> None:
    champions.add_metrics(three_models, 1, {"verdict": {"passed": True}})
    assert champions.model(three_models, 1).metrics == {"accuracy": 0.9, "verdict": {"passed": True}}


def test_sixteen_monitors_make_one_request_a_window(database: Database, model: ModelVersion) -> None:
    windows = [Window.parse(f"2026-{month:02d}") for month in range(1, 11)]
    for window in windows:

        def monitor(_: int, window: Window = window) -> bool:
            with database.transaction() as connection:
                monitoring.record_judgement(connection, window, model.version, 1, {"final": True}, now=NOW)
                return requests.open_request(
                    connection, reason="alarm", classes=("cat",), window=window.name, now=NOW, evidence={},
                    model_version=model.version,
                )[1]  # fmt: skip

        with ThreadPoolExecutor(16) as pool:
            created = list(pool.map(monitor, range(16)))
        assert sum(created) == 1
        claimed = requests.claim_request(database, NOW, 10, "worker")
        requests.finish_request(database, claimed.id, "done", "promoted", NOW)
        assert not monitor(0)  # a straggler, after the retraining: its window has had its request
    with database.transaction() as connection:
        assert connection.scalar(text("SELECT count(*) FROM retrain_request")) == len(windows)


def test_a_second_request_joins_the_unfinished_one(database: Database) -> None:
    first, created = ask(database, cause="accuracy")
    assert created
    assert ask(database) == (first, False)
    current = requests.current_request(database)
    assert (current.state, current.classes, current.evidence) == ("open", ("cat",), {"n": 1, "cause": "accuracy"})
    requests.finish_request(database, first, "refused", "too soon", NOW)
    assert requests.current_request(database) is None
    assert ask(database)[1]


def expire_lease(database: Database, number: int) -> None:
    """Put a lease's end into the past, as a minute without its worker does."""
    with database.transaction() as connection:
        past = "UPDATE retrain_request SET lease_until = clock_timestamp() - interval '1 second' WHERE id = :id"
        connection.execute(text(past), {"id": number})


def test_an_alarm_sharpens_a_request_of_another_cause_until_it_is_begun(
    database: Database, model: ModelVersion
) -> None:
    opened, _ = requests.open_request(
        database, reason="enough labels", classes=(), window=None, now=NOW, evidence={}, cause="labels"
    )
    alarm = {
        "reason": "accuracy fell", "classes": ("dog",), "window": "2026-11",
        "evidence": {"cause": "accuracy", "rules": {"dog": ["recall"]}},
    }  # fmt: skip
    assert requests.open_request(database, now=NOW, **alarm) == (opened, False)
    assert requests.sharpen_request(database, opened, **alarm)
    current = requests.current_request(database)
    assert (current.reason, current.classes, current.window) == ("accuracy fell", ("dog",), "2026-11")
    assert current.evidence == {**alarm["evidence"], "opened_for": "labels"}
    later = {**alarm, "classes": ("cat",), "window": "2026-12"}
    assert not requests.sharpen_request(database, opened, **later)  # the first alarm's request stays about it
    assert requests.current_request(database).classes == ("dog",)
    requests.finish_request(database, opened, "done", "", now=NOW)
    segment = {"reason": "drift", "classes": (), "now": NOW, "evidence": {}, "cause": "drift"}
    segment["model_version"] = model.version
    before, _ = requests.open_request(database, window="2026-11", **segment)
    requests.finish_request(database, before, "refused", "", now=NOW)
    after, _ = requests.open_request(database, window="2026-12", **segment)
    assert requests.sharpen_request(database, after, **alarm)  # though that segment has made a request before
    requests.finish_request(database, after, "done", "", now=NOW)
    begun, _ = requests.open_request(
        database, reason="monthly", classes=(), window=None, now=NOW, evidence={}, cause="schedule"
    )
    assert requests.claim_request(database, now=NOW, lease_seconds=60, worker="w").id == begun
    assert not requests.sharpen_request(database, begun, **alarm)


def test_a_claim_excludes_others_until_its_lease_ends(database: Database) -> None:
    number, _ = ask(database)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: requests.claim_request(database, NOW, 60, f"w{n}"), range(8)))
    (claimed,) = [claim for claim in claims if claim is not None]
    assert (claimed.id, claimed.leased, claimed.interrupted) == (number, True, False)
    worker = claimed.claimed_by
    assert requests.renew_lease(database, number, 60, worker)
    # Whatever day the caller says it is: leases run on the server's clock.
    assert requests.claim_request(database, NOW + timedelta(days=365), 60, "late") is None
    expire_lease(database, number)
    assert requests.current_request(database).interrupted
    taken = requests.claim_request(database, NOW + timedelta(minutes=16), 60, "late")
    assert (taken.id, taken.claimed_by, taken.attempts) == (number, "late", 2)
    assert not requests.renew_lease(database, number, 60, worker)
    with pytest.raises(ConflictError, match="is claimed by late"):
        requests.finish_request(database, number, "done", "", NOW, worker=worker)
    requests.finish_request(database, number, "done", "", NOW, worker="late")
    with pytest.raises(ConflictError, match="is done"):
        requests.finish_request(database, number, "failed", "", NOW)
    with pytest.raises(ConflictError, match="does not exist"):
        requests.finish_request(database, 999, "failed", "", NOW)


def test_a_worker_that_was_only_slow_keeps_its_claim(database: Database) -> None:
    number, _ = ask(database)
    requests.claim_request(database, NOW, 60, "slow")
    expire_lease(database, number)
    assert requests.renew_lease(database, number, 60, "slow")
    assert requests.claim_request(database, NOW, 60, "late") is None


def test_attempts_count_what_began_and_was_not_refused(database: Database) -> None:
    outcomes = [("refused", False), ("refused", True), ("failed", True), ("unhelpful", True), ("done", True)]
    for days, (outcome, begins) in enumerate(outcomes):
        number, _ = ask(database)
        if begins:
            requests.claim_request(database, NOW + timedelta(days=days), 10, "w")
        requests.finish_request(database, number, outcome, "", NOW + timedelta(days=days))
    assert requests.attempts_since(database, NOW) == 3
    assert requests.attempts_since(database, NOW + timedelta(days=4)) == 1
    assert requests.last_attempt(database).started_at == NOW + timedelta(days=4)
    assert requests.last_attempt(database).state == "done"


def test_an_open_alert_is_counted_and_a_recovered_one_may_come_again(database: Database) -> None:
    def alarm(body: str) -> bool:
        return alerts_log.record_alert(database, "accuracy/cat", level="PAGE", title="cat", body=body, now=NOW)

    assert [alarm("1"), alarm("2")] == [True, False]
    (row,) = alerts_log.recent_alerts(database, 5)
    assert (row["times"], row["body"], row["state"]) == (2, "2", "open")
    assert alerts_log.recover_alert(database, "accuracy/cat", NOW)
    assert not alerts_log.recover_alert(database, "accuracy/cat", NOW)
    assert alarm("3")
    assert [row["state"] for row in alerts_log.recent_alerts(database, 5)] == ["open", "recovered"]


def test_of_concurrent_equal_alerts_one_is_new(database: Database) -> None:
    def alarm(_: int) -> bool:
        return alerts_log.record_alert(database, "k", level="PAGE", title="t", body="b", now=NOW)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(alarm, range(8))) == 1


def test_every_refusal_is_one_of_ours(database: Database) -> None:
    with pytest.raises(PerennialError):
        champions.model(database, 1)
