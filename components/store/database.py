"""The door to PostgreSQL: connections, transactions, locks and migrations."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psycopg2.errors
import psycopg2.extensions
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from components.errors import BusyError, ConfigurationError, ServiceError
from components.store.values import jsonable

SCHEMA_REVISION = "0008"
COPY_BYTES = 262_144
MIGRATIONS = Path(__file__).parent / "migrations"
# Waiting does not cure these: the server is there and says no.
HOPELESS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "is not permitted to log in")


class Database:
    """One PostgreSQL database. Nothing is connected before the first use; safe to share among threads.

    url: `postgresql://`, `postgres://` or `postgresql+psycopg2://`. connect_wait_seconds: how long a server that is
    down or recovering is waited for.
    """

    def __init__(self, url: str, *, connect_wait_seconds: float = 20.0) -> None:
        self._url = _normalised(url)
        self._connect_wait_seconds = connect_wait_seconds
        self._engine: Engine | None = None
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        """Return the address with its password masked, fit for a message."""
        return self._url.render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """Return the pool of connections, made at the first use."""
        with self._guard:
            if self._engine is None:
                self._engine = _make_engine(self._url)
            return self._engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that commits at the end and rolls back on any exception.

        Only the connecting is retried: nothing inside runs twice. Raises ServiceError if the server stays away, or
        fails or vanishes in between; then nothing was written, unless it vanished during the commit itself.
        """
        connection = self._connect()
        try:
            with connection, connection.begin():
                yield connection
        except (OperationalError, InterfaceError) as error:
            raise ServiceError(f"the database {self.url} failed: {_reason(error)}") from error
        except psycopg2.extensions.TransactionRollbackError:
            raise  # a deadlock in a COPY: whoever copies may try again
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:  # COPY bypasses SQLAlchemy's errors
            raise ServiceError(f"the database {self.url} failed: {_one_line(error)}") from error

    @contextmanager
    def advisory_lock(self, name: str, wait_seconds: float) -> Iterator[Callable[[], bool]]:
        """Hold the lock called `name` across every process of every machine; it ends with its connection.

        Yields a function that says whether the lock is still held, for work that outlives a server's restart.
        Raises BusyError if it is not free within `wait_seconds`.
        """
        connection = self._connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection:
            milliseconds = str(max(1, int(wait_seconds * 1000)))
            connection.execute(text("SELECT set_config('lock_timeout', :wait, false)"), {"wait": milliseconds})
            try:
                connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), {"name": name})
            except OperationalError as error:
                if isinstance(error.orig, psycopg2.errors.LockNotAvailable):
                    raise BusyError(
                        f"lock {name!r}: another command has held it for {wait_seconds:g} s; try again later"
                    ) from error
                raise ServiceError(f"the database {self.url} failed: {_reason(error)}") from error
            try:
                yield lambda: _still_held(connection, name)
            finally:
                # Closed, not returned to the pool: whatever happened, the lock ends here.
                connection.invalidate()

    def migrate(self) -> None:
        """Bring the schema up to this version's; all of it or nothing. A second caller waits for the first.

        Raises ConfigurationError if the database was written by a newer version.
        """
        if self.revision() == SCHEMA_REVISION:
            return
        with self.advisory_lock("perennial.migrate", wait_seconds=120.0), self.transaction() as connection:
            _upgrade(connection, self.url)

    def revision(self) -> str | None:
        """Return the schema's revision, or None for an empty database."""
        with self.transaction() as connection:
            if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
                return None
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return None if found is None else str(found)

    def dispose(self) -> None:
        """Close the idle connections; the next use opens new ones."""
        with self._guard:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _connect(self) -> Connection:
        deadline = time.monotonic() + self._connect_wait_seconds
        while True:
            try:
                return self.engine.connect()
            except OperationalError as error:
                reason = _reason(error)
                if time.monotonic() > deadline or any(sign in reason for sign in HOPELESS):
                    raise ServiceError(
                        f"no connection to {self.url}: {reason}; check DATABASE_URL and that the server runs"
                    ) from error
                time.sleep(0.2)


Store = Database | Connection


@contextmanager
def within(store: Store) -> Iterator[Connection]:
    """Yield `store` itself where it is a connection in its caller's transaction, else one in a new transaction."""
    if isinstance(store, Connection):
        yield store
    else:
        with store.transaction() as connection:
            yield connection


def copy_in(connection: Connection, statement: str, source: IO[bytes]) -> int:
    """Feed `source` to a COPY … FROM STDIN statement and return the number of rows it took."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.copy_expert(statement, source, COPY_BYTES)
        return int(cursor.rowcount)


def copy_out(connection: Connection, statement: object, target: object) -> None:
    """Feed what a COPY … TO STDOUT statement (psycopg2's `Composed`) gives to the `write` of `target`, in blocks."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.copy_expert(statement, target, COPY_BYTES)


def _normalised(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        # The value is not repeated: it may hold a password.
        raise ConfigurationError(
            "the database address is not a URL; write postgresql://USER:PASSWORD@HOST/NAME"
        ) from error
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg2"}:
        return parsed.set(drivername="postgresql+psycopg2")
    raise ConfigurationError(
        f"the database address starts with {parsed.drivername!r}; only PostgreSQL is supported: postgresql://…"
    )


def _make_engine(url: URL) -> Engine:
    try:
        engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=20,
            connect_args={"connect_timeout": 10, "application_name": "perennial"},
            json_serializer=_to_json,
        )
    except NoSuchModuleError as error:
        raise ConfigurationError("psycopg2 is not installed; pip install psycopg2-binary") from error
    event.listen(engine, "connect", _use_utc)
    return engine


def _use_utc(connection: Any, _record: object) -> None:
    # By statement, not by option: a connection pooler refuses start-up options.
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _to_json(value: object) -> str:
    return json.dumps(jsonable(value), allow_nan=False, sort_keys=True)


def _reason(error: DBAPIError) -> str:
    return _one_line(error.orig)


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def _still_held(connection: Connection, name: str) -> bool:
    held = text(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        " AND ((classid::bigint << 32) | objid::bigint) = hashtextextended(:name, 0))"
    )
    try:
        return bool(connection.scalar(held, {"name": name}))
    except DBAPIError:
        return False


def _upgrade(connection: Connection, url: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigurationError(
            f"the database {url} was written by another version of Perennial ({error}); install that version"
        ) from error
