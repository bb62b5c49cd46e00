"""Connections to PostgreSQL: which servers are accepted, how a session is set, who logs in, when one is given up.

A URL comes in, an engine goes out. A pool outlives a failover only when it notices one: a connection whose server
ends, is in recovery or has become read-only is given up, and with it every connection that was made before.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.types.array import ListBinaryDumper

from vault_service.errors import StoreError
from vault_service.storage.faults import explain_connecting

_LOCK_SECONDS: Final = 10  # how long anything waits for a lock
READ_ONLY: Final = "25006"  # SQLSTATE read_only_sql_transaction: the statement did nothing
_CONNECT_SECONDS: Final = 3  # for each server of the URL
_LOCAL_HOSTS: Final = frozenset({"", "localhost", "127.0.0.1", "::1", "[::1]"})
# Who may create in a schema of the path could put an operator there that fits better than PostgreSQL's own; so the
# path is ours, whatever database and role say, and parameters have exactly the types of their columns.
_SESSION: Final = (
    "-c search_path=pg_catalog,public,pg_temp -c synchronous_commit=on -c statement_timeout=30000"
    f" -c lock_timeout={_LOCK_SECONDS}s -c timezone=UTC -c idle_in_transaction_session_timeout=60000"
)
# SQLSTATE of what ends a connection, or says that its server is not, or no longer, the one to write to:
# read-only; idle and transaction timeouts; shutdown by an admin, crash, starting up, database dropped, idle session.
_GIVEN_UP: Final = frozenset({READ_ONLY, "25P03", "25P04", "57P01", "57P02", "57P03", "57P04", "57P05"})

Credentials = Callable[[str | None], tuple[str, str]]  # the user that was refused, or None -> user, password
Driver = psycopg.Connection[Any]


class _Text(sa.Text):
    """A text parameter. SQLAlchemy makes it a VARCHAR, for which PostgreSQL has no operators: another's would fit."""

    render_bind_cast = True


class Watch:
    """What the connections of one engine have in common: the moment before which they are not used any more."""

    def __init__(self) -> None:
        self._good_since = float("-inf")

    def give_up(self) -> None:
        """One connection turned out to be no good: those made before now are replaced when they are next used."""
        self._good_since = time.monotonic()

    def trusts(self, made_at: float) -> bool:
        """Whether a connection that was made then may be used."""
        return made_at > self._good_since


def is_standby(driver: Driver) -> bool:
    """Whether the server has said that it is in recovery (PostgreSQL 14 and later say so unasked)."""
    return driver.info.parameter_status("in_hot_standby") == "on"


def gives_up(error: BaseException | None, driver: Driver | None) -> bool:
    """Whether an error says that its connection or its server is no longer good, whatever is tried next."""
    if not isinstance(error, psycopg.Error):
        return False
    if driver is not None and (driver.closed or is_standby(driver)):
        return True
    code = error.sqlstate or ""
    return code in _GIVEN_UP or code.startswith("08")


def postgresql_engine(
    url: sa.URL, connections: int, credentials: Credentials | None, watch: Watch, *, writes: bool
) -> sa.Engine:
    """The engine for `url`. StoreError for a remote server without verified TLS.

    With `credentials` each connection logs in as they say when it is made, and is replaced, before it is used
    again, once they say another user. With `writes` servers that are in recovery or read-only are not accepted.
    """
    _refuse_unverified(url)
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        pool_size=connections,
        max_overflow=0,
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "options": _SESSION,
            "keepalives_idle": 5,
            "tcp_user_timeout": 10_000,
        },
    )
    engine.dialect.colspecs = {**engine.dialect.colspecs, sa.String: _Text}

    @sa.event.listens_for(engine, "do_connect")
    def _connect(
        dialect: sa.Dialect, record: sa.pool.ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]
    ) -> Any:
        record.info["made_at"] = time.monotonic()
        driver: Any
        try:
            if credentials is None:
                driver = dialect.connect(*arguments, **options)
            else:
                driver, record.info["user"] = _logged_in(dialect, arguments, options, credentials)
        except psycopg.Error as error:
            raise StoreError(explain_connecting(error, options)) from None
        if writes:
            _refuse_read_only(driver)
        driver.adapters.register_dumper(list, ListBinaryDumper)  # a third of the text form's time
        return driver

    @sa.event.listens_for(engine, "checkout")
    def _check(driver: Driver, record: sa.pool.ConnectionPoolEntry, _proxy: Any) -> None:
        if credentials is not None and record.info["user"] != credentials(None)[0]:
            raise sa.exc.DisconnectionError("the login was replaced")  # the pool makes another connection
        if not watch.trusts(record.info["made_at"]) or _has_ended(driver, writes=writes):
            raise sa.exc.DisconnectionError("the server ended the connection or changed its role")

    @sa.event.listens_for(engine, "handle_error")
    def _failed(context: sa.engine.ExceptionContext) -> None:
        if context.connection is None or context.connection.invalidated:
            return
        driver = context.connection.connection.driver_connection
        if isinstance(driver, psycopg.Connection) and gives_up(context.original_exception, driver if writes else None):
            context.is_disconnect = True
            watch.give_up()

    return engine


def _logged_in(
    dialect: sa.Dialect, arguments: list[Any], options: dict[str, Any], credentials: Credentials
) -> tuple[Any, str]:
    """A connection under the login that `credentials` give, and its user."""
    user, password = credentials(None)
    try:
        driver = dialect.connect(*arguments, **{**options, "user": user, "password": password})
    except psycopg.OperationalError as error:
        # The database is there and asked for the password: this user, or this password, is no more.
        if error.pgconn is None or not error.pgconn.used_password:
            raise
        user, password = credentials(user)
        driver = dialect.connect(*arguments, **{**options, "user": user, "password": password})
    return driver, user


def _refuse_read_only(driver: Driver) -> None:
    """StoreError for a server to which nothing can be written; the connection is closed."""
    (row,) = driver.execute("SHOW transaction_read_only").fetchall()
    driver.rollback()
    if row[0] == "on":
        where = f"{driver.info.host}:{driver.info.port}"
        driver.close()
        raise StoreError(
            f"the database server at {where} is a standby or read-only; "
            "name every server in the URL: ?host=A&host=B&target_session_attrs=read-write"
        )


def _has_ended(driver: Driver, *, writes: bool) -> bool:
    """Whether the server has ended the connection or become read-only meanwhile. Asks nothing: no round trip."""
    try:
        driver.pgconn.consume_input()
        driver.pgconn.consume_input()  # behind a last message comes the end
        driver.pgconn.notifies()  # reads what has come: settings that changed are told unasked
    except psycopg.OperationalError:
        return True
    return writes and (is_standby(driver) or driver.info.parameter_status("default_transaction_read_only") == "on")


def _refuse_unverified(url: sa.URL) -> None:
    """StoreError when the URL, or libpq's own variables, lead over a network without verified TLS."""
    if url.query.get("sslmode") == "verify-full":
        return
    if "service" in url.query or os.environ.get("PGSERVICE") or not all(map(_is_local, _hosts(url))):
        raise StoreError("a remote database needs sslmode=verify-full in its URL")


def _hosts(url: sa.URL) -> Iterable[str]:
    """Everything that the driver could take for a server's address: in every form that SQLAlchemy and libpq know."""
    named = [url.host or ""]
    for name in ("host", "hostaddr"):
        given = url.query.get(name, ())
        named += [given] if isinstance(given, str) else given
    if not any(named):
        named.append(os.environ.get("PGHOST", ""))
    named.append(os.environ.get("PGHOSTADDR", ""))
    return (host for one in named for host in one.split(","))


def _is_local(host: str) -> bool:
    """Whether `host`, perhaps with a port, is this machine: its loopback, or a directory of sockets."""
    name, _, port = host.rpartition(":")
    return host.startswith("/") or host in _LOCAL_HOSTS or (port.isdigit() and name in _LOCAL_HOSTS - {""})
