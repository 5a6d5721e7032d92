from __future__ import annotations

import ast
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg2 import sql
from sqlalchemy import text

from components import store
from components.errors import BusyError, ConfigurationError, ServiceError
from components.store.database import MIGRATIONS, SCHEMA_REVISION, Database, within
from components.store.postgres.embedded import EmbeddedPostgres
from components.store.predictions import Batch
from components.store.tables import METADATA

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def empty(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Database:
    name = f"empty_{os.getpid()}_{abs(hash(request.node.name)) % 10**8}"
    database = Database(postgres.ensure_database(name), connect_wait_seconds=5)
    request.addfinalizer(database.dispose)
    return database


def test_migrations_and_table_definitions_agree(database: Database) -> None:
    from alembic.autogenerate import compare_metadata

    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, METADATA)
    # Constraints, comments and indexes live in the migrations alone; tables and columns must be the same in both.
    kinds = {"add_table", "remove_table", "add_column", "remove_column", "modify_type", "modify_nullable"}
    flat = [one for many in differences for one in (many if isinstance(many, list) else [many])]
    assert [one for one in flat if one[0] in kinds] == []


def test_every_table_says_what_it_is_for(database: Database) -> None:
    asked = text(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        " AND obj_description(oid) IS NULL AND relname <> 'alembic_version'"
    )
    with database.transaction() as connection:
        assert connection.scalars(asked).all() == []


def test_the_named_revision_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


def test_concurrent_migrations_apply_once(empty: Database) -> None:
    assert empty.revision() is None
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: empty.migrate(), range(4)))
    assert empty.revision() == SCHEMA_REVISION


def test_predictions_of_the_first_schema_are_kept(
    empty: Database, database: Database, fill_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import command

    fill_batch("b1", 50)
    fill_batch("b2", 50, scored_at=NOW - timedelta(days=40))
    with database.transaction() as connection:
        stored = connection.execute(text("SELECT * FROM prediction ORDER BY month, item_no")).mappings().all()
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _head: upgrade(config, "0001"))
        empty.migrate()
    assert empty.revision() == "0001"
    write = text(
        "INSERT INTO prediction SELECT :month, :batch_number, :item_no, :model_version, :u, :shard_id, :shard_row,"
        " :predicted, :conf_bin, :confidence, :ood_score, :latency_ms, :brightness, :contrast, :sharpness,"
        " :saturation, :width, :height, :aspect, :bytes, :shadow, :needs_review, :image_id, :name,"
        " ARRAY[:predicted, :second_class, :third_class]::smallint[],"
        " ARRAY[:confidence, :second_confidence, :third_confidence]::real[], :probabilities"
    )
    with empty.transaction() as connection:
        for month in sorted({row["month"] for row in stored}):
            connection.execute(text("SELECT ensure_prediction_month(:month)"), {"month": month})
        connection.execute(write, [dict(row) for row in stored])
    empty.migrate()
    assert empty.revision() == SCHEMA_REVISION
    with empty.transaction() as connection:
        kept = connection.execute(text("SELECT * FROM prediction ORDER BY month, item_no")).mappings().all()
        assert connection.scalar(text("SELECT count(*) FROM pg_class WHERE relname LIKE '%0001%'")) == 0
    assert kept == stored


def test_what_the_fourth_schema_holds_is_kept_and_its_months_take_labels(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import command

    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _head: upgrade(config, "0004"))
        empty.migrate()
    fill = """
        INSERT INTO class_list (classes, digest, created_at) VALUES ('{cat,dog}', 'd', now());
        INSERT INTO model_version VALUES (1, 'r', 'data', 'commit', 1, 'a', 'p', 'candidate', now(), '{}');
        INSERT INTO batch (id, content_sha256, source, model_version, class_list_id, items, scored_at, month, state,
            opened_at) VALUES ('b1', 'c', 's', 1, 1, 1, '2026-11-20T12:00:00Z', '2026-11-01', 'closed', now());
        SELECT ensure_prediction_month('2026-11-01');
        INSERT INTO image_shard (name) VALUES ('shard');
        INSERT INTO label_task (queue, window_name, model_version, class_list_id, month, batch_number, item_no,
            image_id, shard_id, shard_row, predicted, conf_bin, u, state, settled_answer, settled_at, created_at)
        VALUES ('training', '2026-11', 1, 1, '2026-11-01', 1, 0, 'i', 1, 0, 0, 3, 0.5, 'settled', 'dog', now(), now());
    """
    tables = ("class_list", "model_version", "batch", "label_task")
    with empty.transaction() as connection:
        connection.exec_driver_sql(fill)
        before = {name: connection.execute(text(f"SELECT * FROM {name}")).mappings().all() for name in tables}
    empty.migrate()
    new = {"class_list": {"several": False}, "label_task": {"strata": None, "given": None}}
    with empty.transaction() as connection:
        for name in tables:
            after = connection.execute(text(f"SELECT * FROM {name}")).mappings().all()
            assert after == [{**row, **new.get(name, {})} for row in before[name]]
        assert connection.scalars(text("SELECT answer FROM trainable_label")).all() == ["dog"]
        month = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'label_prediction'::regclass"
        assert connection.scalar(text(month)) == 1
        connection.execute(
            text("INSERT INTO label_prediction VALUES ('2026-11-01', 1, 0, 1, 0, 3, 20, true, false, 0.5, 0.99)")
        )


def test_an_interrupted_migration_leaves_nothing_and_can_be_repeated(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic.operations import Operations

    execute, calls = Operations.execute, []

    def failing(self: Operations, statement: str) -> None:
        calls.append(statement)
        if len(calls) == 4:
            raise ZeroDivisionError
        execute(self, statement)

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "execute", failing)
        with pytest.raises(ZeroDivisionError):
            empty.migrate()
    assert len(calls) == 4
    assert empty.revision() is None
    with empty.transaction() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_class WHERE relname = 'batch'")) == 0
    empty.migrate()
    assert empty.revision() == SCHEMA_REVISION


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="another version of Perennial"):
        database.migrate()


def test_a_transaction_commits_whole_or_not_at_all(empty: Database) -> None:
    with empty.transaction() as connection:
        connection.execute(text("CREATE TABLE t (n integer)"))
    with pytest.raises(ZeroDivisionError), empty.transaction() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        raise ZeroDivisionError
    with empty.transaction() as connection, within(connection) as same:
        assert same is connection
        assert connection.scalar(text("SELECT count(*) FROM t")) == 0


def test_a_lock_excludes_and_says_who_waits(empty: Database) -> None:
    with empty.advisory_lock("dvc", 5) as held:
        assert held()
        with pytest.raises(BusyError, match="'dvc'"), empty.advisory_lock("dvc", 0.05):
            pass
        with empty.advisory_lock("other", 0.05):
            pass
    with empty.advisory_lock("dvc", 0.05):
        pass


def test_a_waiting_lock_is_given_when_it_is_free(empty: Database) -> None:
    order, taken = [], threading.Event()

    def second() -> None:
        taken.wait()
        with empty.advisory_lock("dvc", 30):
            order.append("second")

    waiting = threading.Thread(target=second)
    waiting.start()
    with empty.advisory_lock("dvc", 30):
        taken.set()
        waiting.join(timeout=0.3)
        order.append("first")
    waiting.join(timeout=30)
    assert order == ["first", "second"]


def test_a_lock_is_free_after_its_block_raised(empty: Database) -> None:
    with pytest.raises(ZeroDivisionError), empty.advisory_lock("dvc", 1):
        raise ZeroDivisionError
    with empty.advisory_lock("dvc", 0.05):
        pass


def test_a_lock_that_died_with_its_connection_says_so(empty: Database) -> None:
    with empty.advisory_lock("dvc", 1) as held:
        with empty.transaction() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            )
        assert not held()


def test_a_connection_lost_in_between_is_one_clear_error(empty: Database) -> None:
    with pytest.raises(ServiceError, match="failed"), empty.transaction() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with empty.transaction() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        connection.execute(text("SELECT 1"))
    with empty.transaction() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_times_are_utc_whatever_the_servers_zone(postgres: EmbeddedPostgres, empty: Database) -> None:
    name = empty.engine.url.database
    admin = psycopg2.connect(postgres.url("postgres").replace("+psycopg2", ""))
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Tokyo'").format(sql.Identifier(name)))
    admin.close()
    empty.dispose()
    with empty.transaction() as connection:
        assert connection.scalar(text("SHOW timezone")) == "UTC"


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    away = Database("postgresql://ann:secret@127.0.0.1:1/x", connect_wait_seconds=0.2)
    with pytest.raises(ServiceError, match=r"ann:\*\*\*@127.0.0.1:1") as caught, away.transaction():
        pass
    assert "secret" not in str(caught.value)
    assert "secret" not in away.url


def test_a_database_that_does_not_exist_is_reported_at_once(postgres: EmbeddedPostgres) -> None:
    missing = Database(postgres.url("missing"), connect_wait_seconds=600)
    with pytest.raises(ServiceError, match="does not exist"), missing.transaction():
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [("sqlite:///x.db", "only PostgreSQL"), ("mysql://u:secret@h/x", "only PostgreSQL"), ("", "not a URL")],
)
def test_another_kind_of_database_is_refused_without_repeating_its_password(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_no_statement_is_put_together_from_values() -> None:
    for path in Path(store.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "text":
                formatted = [part for part in ast.walk(node) if isinstance(part, ast.JoinedStr | ast.Mod)]
                assert not formatted, f"{path}:{node.lineno}"
