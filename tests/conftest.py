"""Fixtures of all tests: one PostgreSQL a run, and one stack a database for tests that leave it as they found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer, data_directory, postgres_server
from tests.support.stack import Stack


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with data_directory() as directory, postgres_server(directory / "data") as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Which database a test runs on: every test that asks for it, or for `stack`, runs on both."""
    return str(request.param)


@pytest.fixture(scope="session")
def stack(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that tests share: they use numbers of their own, and leave policy and servers as they were."""
    with Stack(tmp_path_factory.mktemp(database), database_url=new_database_url(database, request)) as running:
        yield running


@pytest.fixture
def own_stack_directory(tmp_path: Path) -> Path:
    """Where a test that breaks its stack keeps one of its own."""
    return tmp_path / "home"


def new_database_url(database: str, request: pytest.FixtureRequest) -> str | None:
    """A fresh PostgreSQL database's URL, or None for SQLite."""
    if database == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()
