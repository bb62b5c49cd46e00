"""The way to the database: engines for SQLite and PostgreSQL, with durability set and checked.

A URL comes in, a `Store` goes out: an engine and the one kind of transaction that calls use. Knows no
table but `control`.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from vault_service.errors import StoreError
from vault_service.storage.connections import READ_ONLY, Credentials, Watch, gives_up, is_standby, postgresql_engine
from vault_service.storage.faults import describe as describe
from vault_service.storage.faults import explain

_LOCK_KEY: Final = 0x55_4E_56_31  # of the advisory lock between calls and changes of control
_LARGEST_PIPELINE: Final = 150_000  # characters or bytes of values; a character has at most four bytes
_READ_ONLY: Final = "ssn_vault_read_only"  # execution option of connections that only look

# Names and types that PostgreSQL has exactly so: nothing else in the search path can fit better.
_SHARED_LOCK: Final = f"SELECT pg_catalog.pg_advisory_xact_lock_shared({_LOCK_KEY}::bigint)"
_EXCLUSIVE_LOCK: Final = f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK_KEY}::bigint)"
_NOW: Final = (
    "CAST(extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) CAST(1000 AS numeric) AS bigint)"
)
_NOW_SQLITE: Final = "CAST((julianday('now') - 2440587.5) * 86400000 AS integer)"
_CLOCK: Final = f"SELECT {_NOW}"
_CLOCK_SQLITE: Final = f"SELECT {_NOW_SQLITE}"
_LAST: Final = "(SELECT order_id FROM control_log WHERE position = control.epoch)"
_CONTROL: Final = f"SELECT epoch, {_LAST}, {_NOW} FROM control WHERE id = 1"  # noqa: S608 - constants of this file
_CONTROL_SQLITE: Final = f"SELECT epoch, {_LAST}, {_NOW_SQLITE} FROM control WHERE id = 1"  # noqa: S608 - same

_BUSY: Final = "busy_timeout = 10000"
_PRAGMAS: Final = (
    _BUSY,
    "journal_mode = WAL",
    f"journal_size_limit = {4 * 1024 * 1024}",  # bytes that the write-ahead log keeps when it is begun again
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = ON",
    "cell_size_check = ON",
)

Statement = tuple[str, Mapping[str, object]]  # psycopg's parameter style


@dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction: its connection, the control epoch and the order there, and the database's clock (ms).

    `ahead` has the rows of the statements that were sent together with its first ones (PostgreSQL only).
    """

    connection: sa.Connection
    epoch: int
    last_order: str
    now_ms: int
    postgresql: bool
    ahead: Sequence[list[tuple[Any, ...]]] = ()
    after_commit: list[Callable[[], None]] = field(default_factory=list)  # run when, and only when, it has committed
    _with_commit: list[Statement] = field(default_factory=list)

    def rows(self, statement: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Run one statement of the hot path straight through psycopg, in its own parameter style and binary form.

        SQLAlchemy's way costs as much again as the driver's own. Errors are SQLAlchemy's all the same.
        """
        driver = _psycopg_connection(self.connection)
        with self._errors_of(driver, statement):
            cursor = driver.execute(statement, parameters, binary=True)
            return cursor.fetchall() if cursor.description else []

    def with_commit(self, statement: str, parameters: Mapping[str, object]) -> None:
        """Send a statement that gives no rows together with the commit: that saves its round trip."""
        self._with_commit.append((statement, parameters))

    def commit(self) -> None:
        """Send what waits for the commit, and commit; for `Store.transaction`."""
        if self._with_commit:
            driver = _psycopg_connection(self.connection)
            # After a statement that fails the server skips the rest up to the end of the pipeline: COMMIT as well.
            with self._errors_of(driver, "COMMIT"), _pipeline(driver, self._with_commit):
                for statement, parameters in self._with_commit:
                    driver.execute(statement, parameters, binary=True)
                driver.commit()

    @contextmanager
    def _errors_of(self, driver: psycopg.Connection[Any], statement: str) -> Iterator[None]:
        """Makes psycopg's errors SQLAlchemy's."""
        try:
            yield
        except psycopg.Error as error:
            lost = gives_up(error, driver)
            if lost:
                self.connection.invalidate()
            raise sa.exc.DBAPIError.instance(
                statement, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=lost
            ) from None


class Store:
    """One role's engine."""

    def __init__(self, engine: sa.Engine, watch: Watch | None = None) -> None:
        """`watch` is told of connections that turn out to be no good."""
        self.engine = engine
        self.postgresql = engine.dialect.name == "postgresql"
        self._watch = watch or Watch()

    @contextmanager
    def transaction(self, *, exclusive: bool = False, ahead: Sequence[Statement] = ()) -> Iterator[Transaction]:
        """The transaction of a call; commits at the end of the block.

        PostgreSQL: READ COMMITTED; first and alone the advisory lock, then, as a statement of its own with a
        snapshot of its own, the control row. Reading control in the statement that locks would see the state
        before a change that the lock waited for, and a second token could follow (promise 4). `exclusive` is
        for changes of control: it waits for the calls that run, and later ones wait for it.
        SQLite: BEGIN IMMEDIATE, so that there is one writer at a time.
        NothingCommittedError when the connection or its server turns out to be no good before COMMIT was sent.
        """
        committing = False
        try:
            with self.engine.begin() as connection:
                if self.postgresql:
                    controls, *answers = _first_answers(connection, exclusive, ahead)
                else:
                    controls, answers = [tuple(row) for row in connection.exec_driver_sql(_CONTROL_SQLITE)], []
                if len(controls) != 1:
                    raise StoreError("the control row is missing: was the database tampered with?")
                ((epoch, last_order, now_ms),) = controls
                tx = Transaction(connection, epoch, last_order or "", now_ms, self.postgresql, answers)
                yield tx
                committing = True
                tx.commit()
        except NothingCommittedError:
            self._watch.give_up()
            raise
        except sa.exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise
            self._watch.give_up()
            if database_error_code(error) == READ_ONLY:
                # Of a pipeline's statements those behind the one that fails are skipped: COMMIT as well.
                raise NothingCommittedError("the database server has become read-only") from None
            if committing:
                raise
            raise NothingCommittedError("the connection to the database was lost") from None
        for follow in tx.after_commit:
            follow()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to look things up with; its transaction writes nothing and is rolled back."""
        with self.engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
            yield connection
            connection.rollback()

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A connection that sees one moment however long it reads; no statement of it is cut off for its length."""
        options: dict[str, Any] = {_READ_ONLY: True}
        if self.postgresql:
            options["isolation_level"] = "REPEATABLE READ"
        with self.engine.connect().execution_options(**options) as connection:
            if self.postgresql:
                for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
                    connection.exec_driver_sql(f"SET LOCAL {setting} = 0")
            yield connection
            connection.rollback()

    def shrink(self) -> None:
        """SQLite: put what the write-ahead log has into the database and empty its file, unless somebody reads it now.

        Else the file stays as large as one long reader once let it become.
        """
        if self.postgresql:
            return
        connection = self.engine.raw_connection()
        try:
            driver = connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - what `_sqlite` made
            driver.execute("PRAGMA busy_timeout = 0")  # waiting for readers would keep writers waiting
            try:
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                driver.execute(f"PRAGMA {_BUSY}")
        except sqlite3.Error as error:
            raise StoreError(explain(error)) from None
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _psycopg_connection(connection: sa.Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - what `postgresql_engine` made
    return driver


def _pipeline(driver: psycopg.Connection[Any], statements: Sequence[Statement]) -> AbstractContextManager[object]:
    """Statements that travel together; one by one where they are large.

    Above about a megabyte, more than the sockets between hold, libpq's pipeline never ends (measured: psycopg 3.3.9).
    """
    size = 0
    for _, parameters in statements:
        for value in parameters.values():
            if isinstance(value, list) and value and isinstance(value[0], (str, bytes)):
                size += sum(map(len, value))
    return nullcontext() if size > _LARGEST_PIPELINE else driver.pipeline()


class NothingCommittedError(StoreError):
    """The connection or its server is no longer good, and nothing was committed: it may be tried again on another."""


def _first_answers(
    connection: sa.Connection, exclusive: bool, ahead: Sequence[Statement]
) -> list[list[tuple[Any, ...]]]:
    """Lock, read control, look things up: statements of their own, sent together so that they cost one round trip."""
    driver = _psycopg_connection(connection)
    try:
        with _pipeline(driver, ahead):
            driver.execute(_EXCLUSIVE_LOCK if exclusive else _SHARED_LOCK)
            cursors = [driver.execute(_CONTROL)]
            cursors += [driver.execute(statement, parameters, binary=True) for statement, parameters in ahead]
        answers = [cursor.fetchall() for cursor in cursors]
    except psycopg.errors.LockNotAvailable:
        raise StoreError("running calls held the lock for too long") from None
    except psycopg.errors.QueryCanceled:
        raise StoreError("the database did not answer in time") from None
    except psycopg.OperationalError:
        connection.invalidate()
        raise NothingCommittedError("the connection to the database was lost") from None
    except psycopg.Error as error:
        raise StoreError(f"control cannot be read ({type(error).__name__})") from None
    if is_standby(driver):  # what it says of control may be old, which is no tampering
        connection.invalidate()
        raise NothingCommittedError("the database server has become a standby")
    return answers


def open_store(
    url: sa.URL, *, connections: int = 4, credentials: Credentials | None = None, writes: bool = True
) -> Store:
    """The store behind `url`. StoreError for another kind of database or a remote one without verified TLS.

    With `credentials` (PostgreSQL) each connection logs in as they say when it is made, and is replaced, before
    it is used again, once they say another user. Without `writes` a standby will do.
    """
    backend = url.get_backend_name()
    if backend == "sqlite":
        return Store(_sqlite(url))
    if backend == "postgresql":
        watch = Watch()
        return Store(postgresql_engine(url, connections, credentials, watch, writes=writes), watch)
    raise StoreError(f"the database must be sqlite or postgresql, not {backend}")


def check_durability(store: Store) -> None:
    """StoreError when a committed record could be lost in a crash, whatever the setting that allows it."""
    with store.reading() as connection:
        if store.postgresql:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                value = connection.execute(sa.text(f"SHOW {setting}")).scalar_one()
                if value not in ("on", "remote_apply"):
                    raise StoreError(f"the database runs with {setting} = {value}: committed records could be lost")
        else:
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
            if (journal, synchronous) != ("wal", 2):
                raise StoreError("the SQLite database is not in WAL mode with synchronous=FULL")


def database_now(connection: sa.Connection) -> int:
    """The database's clock (ms since 1970)."""
    postgresql = connection.dialect.name == "postgresql"
    return int(connection.exec_driver_sql(_CLOCK if postgresql else _CLOCK_SQLITE).scalar_one())


def database_error_code(error: sa.exc.DBAPIError) -> str | None:
    """PostgreSQL's SQLSTATE of an error, or None."""
    return getattr(error.orig, "sqlstate", None)


def _sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise StoreError("an SQLite database must be a file")
    path = Path(url.database)
    try:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # 0600 from its first byte on
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"the database file {path} cannot be made or kept private: {error.strerror}") from None
    engine = sa.create_engine(
        url, hide_parameters=True, poolclass=sa.pool.QueuePool, connect_args={"check_same_thread": False}
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(dialect: sa.Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        connection: Any = None
        try:
            connection = dialect.connect(*arguments, **options)
            connection.isolation_level = None  # the driver begins nothing by itself
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise StoreError(explain(error)) from None
        return connection

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        # A deferred transaction that reads and then writes fails with SQLITE_BUSY_SNAPSHOT.
        reads = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
