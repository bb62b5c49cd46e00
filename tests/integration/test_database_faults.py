"""Each fault of a database has words of its own, at the server's start and on the command line; status 5."""

import ipaddress
import os
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from cryptography import x509

from tests.conftest import new_database_url
from tests.support.authority import Authority
from tests.support.commands import AWAY, ssn_vault
from tests.support.disks import small_disk
from tests.support.failover import Node, node, until
from tests.support.inside import runner_inside
from tests.support.servers import serve, write_config
from tests.support.stack import Stack, free_port
from vault_service.config import database_url
from vault_service.errors import ConfigurationError, StoreError
from vault_service.storage.engine import open_store
from vault_service.storage.schema import check_schema, migrate

_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")  # PostgreSQL's protocol, section 54.7
_HBA = """
local all all trust
host guarded all 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""


class Handshakes:
    """What libpq meets at a PostgreSQL with TLS up to the end of the handshake: its certificate."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(cert, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if connection.recv(8) != _SSL_REQUEST:
                    return
                connection.sendall(b"S")
                with suppress(OSError), self._context.wrap_socket(connection, server_side=True):
                    pass

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"the end.")
        self._thread.join()
        self._listener.close()


class Server(NamedTuple):
    """A PostgreSQL that asks for passwords in one database; a certificate for 127.0.0.1, and another authority."""

    node: Node
    tls: Handshakes
    authority: Authority
    other: Authority

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None, **query: str) -> str:
        url = sa.URL.create("postgresql", user, password, "127.0.0.1", self.node.port, database, query)
        return url.render_as_string(hide_password=False)

    def tls_url(self, root: Path, host: str = "127.0.0.1") -> str:
        query = {"sslmode": "verify-full", "sslrootcert": str(root)}
        url = sa.URL.create("postgresql", "postgres", None, host, self.tls.port, "postgres", query)
        return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("faults")
    authority, other = Authority(directory / "authority"), Authority(directory / "other")
    tls = Handshakes(*authority.issue("server", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]))
    with closing(tls), node() as running:
        (running.data / "pg_hba.conf").write_text(_HBA)
        running.execute(
            "SELECT pg_reload_conf()",
            "CREATE DATABASE guarded",
            "CREATE DATABASE mute",
            "REVOKE CONNECT ON DATABASE mute FROM PUBLIC",
            "CREATE ROLE somebody LOGIN PASSWORD 'right'",
            "CREATE ROLE nologin NOLOGIN",
            "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0",
        )
        until(lambda: running.execute("SELECT count(*) FROM pg_hba_file_rules WHERE database = '{guarded}'") == [(1,)])
        yield Server(running, tls, authority, other)


def faults(server: Server, tmp_path: Path) -> dict[str, tuple[str, str]]:
    """By name: a URL, and what must be said of it."""
    at = f"127.0.0.1:{server.node.port}"
    dead = free_port()
    return {
        "password": (server.url("guarded", "somebody", "wrong"), f"{at} refused the password of role somebody"),
        "no password": (server.url("guarded", "somebody"), "password_file"),
        "no role": (server.url(user="nobody"), f"no role nobody at {at}"),
        "no login": (server.url(user="nologin"), "role nologin may not log in"),
        "no database": (server.url("nothing"), f"no database nothing at {at}"),
        "no right to connect": (server.url("mute", "somebody"), "no right to connect to database mute"),
        "too many": (server.url(user="crowded"), "no connection left"),
        "refused": (f"postgresql://one@127.0.0.1:{dead}/x", f"connection refused at 127.0.0.1:{dead}"),
        "socket": (f"postgresql://one@/x?host={tmp_path}", f"no database behind the socket {tmp_path}"),
        "host": ("postgresql://one@nowhere.invalid/x?sslmode=verify-full", "host nowhere.invalid is unknown"),
        "no TLS": (server.url(sslmode="verify-full"), f"{at} offers no TLS"),
        "authority": (
            server.tls_url(server.other.ca),
            f"127.0.0.1:{server.tls.port} is not signed by what sslrootcert, {server.other.ca}, holds",
        ),
        "no file": (server.tls_url(tmp_path / "a%20b"), f"{tmp_path / 'a%20b'}, does not exist"),
        "name": (server.tls_url(server.authority.ca, "localhost"), "is for 127.0.0.1, not localhost"),
        "two servers": (
            f"postgresql://one@/x?host=127.0.0.1:{dead}&host=127.0.0.1:{server.node.port}",
            f"connection refused at 127.0.0.1:{dead}: is the database running there?; there is no role one at {at}",
        ),
    }


NAMES = (
    *("password", "no password", "no role", "no login", "no database", "no right to connect", "too many", "refused"),
    *("socket", "host", "no TLS", "authority", "no file", "name", "two servers"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_database_that_cannot_be_reached_is_told_by_its_cause(server: Server, tmp_path: Path, name: str) -> None:
    url, words = faults(server, tmp_path)[name]
    result = ssn_vault(None, "database", "migrate", "--config", write_config(tmp_path, url))
    assert words in result.output.replace("\n", " ")
    assert result.exit_code == AWAY


@pytest.mark.parametrize("name", ["password", "refused", "authority"])
def test_a_server_that_does_not_start_says_the_same(server: Server, tmp_path: Path, name: str) -> None:
    url, words = faults(server, tmp_path)[name]
    status, said = serve(write_config(tmp_path, url))
    assert words in said
    assert (status, "Traceback" in said) == (AWAY, False)


def test_a_database_that_does_not_answer_is_told_so(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        config = write_config(tmp_path, f"postgresql://one@127.0.0.1:{port}/x")
        result = ssn_vault(None, "database", "migrate", "--config", config)
    assert f"127.0.0.1:{port} did not answer in time" in result.output
    assert result.exit_code == AWAY


def test_what_a_login_lacks_in_the_database_is_told(server: Server) -> None:
    url = sa.make_url(server.url(user="somebody"))
    store = open_store(url)
    with pytest.raises(StoreError, match="has schema none"):
        check_schema(store)
    owner = open_store(sa.make_url(server.url()))
    migrate(owner)
    owner.close()
    with pytest.raises(StoreError, match="member of the right ssn_vault role"):
        check_schema(store)
    store.close()


# SQLite


def test_a_full_disk_is_a_database_that_is_not_available(tmp_path: Path) -> None:
    """Not a check that failed: whoever watches a command's status sends somebody else for the one than the other."""
    with small_disk(tmp_path / "small") as disk:
        config = write_config(tmp_path, f"sqlite:///{disk.path / 'vault.db'}")
        disk.fill(os.getpid())
        try:
            result = ssn_vault(None, "database", "migrate", "--config", config)
        finally:
            disk.free(os.getpid())
        assert (result.exit_code, "disk" in result.output) == (AWAY, True), result.output
        result = ssn_vault(None, "database", "migrate", "--config", config)
        assert result.exit_code == 0, result.output


def test_a_full_disk_under_what_a_command_writes_is_told_so(stack: Stack, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", mebibytes=1) as disk:
        disk.fill(os.getpid())
        output = disk.path / "record.jsonl"
        try:
            result = ssn_vault(stack, "audit", "export", "--output", output)
        finally:
            disk.free(os.getpid())
        assert (result.exit_code, "no space left" in result.output) == (AWAY, True), result.output
        assert not output.exists()


def test_a_file_that_is_no_database_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "vault.db").write_text("this is not what SQLite writes" * 100)
    config = write_config(tmp_path, f"sqlite:///{tmp_path / 'vault.db'}")
    result = ssn_vault(None, "database", "migrate", "--config", config)
    assert "no SQLite database" in result.output
    assert result.exit_code == AWAY


def test_a_directory_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    config = write_config(tmp_path, f"sqlite:///{tmp_path / 'nowhere' / 'vault.db'}")
    result = ssn_vault(None, "database", "migrate", "--config", config)
    assert "nowhere/vault.db cannot be made" in result.output.replace("\n", "")
    assert result.exit_code == AWAY


@pytest.mark.parametrize("path", ["/data/a%20b/x.db", "/data/100%/x.db", "/data/a?b/x.db", "/data/x.db?mode=ro"])
def test_a_path_that_would_be_read_as_another_one_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"%25|%3F"):
        database_url(f"sqlite:///{path}")


@pytest.mark.parametrize("path", ["/data/a b/x.db", "/data/a%20b/x.db", "/data/a?b#c/x.db", "/data/ä/100%/x.db"])
def test_a_path_with_marks_of_a_url_is_written_and_read_as_the_same(path: str) -> None:
    text = sa.URL.create("sqlite", database=path).render_as_string(hide_password=False)
    assert database_url(text).database == path


def test_a_home_may_have_the_marks_of_a_url_in_its_name(tmp_path: Path) -> None:
    with Stack(tmp_path / "a%20b?c#d 100%") as stack:
        files = {file.name for file in stack.home.directory.iterdir()}
        assert {"ssn-vault.db", "config.toml"} <= files
    assert {entry.name for entry in tmp_path.iterdir()} == {"a%20b?c#d 100%"}


def test_the_write_ahead_log_gives_its_space_back(tmp_path: Path) -> None:
    store = open_store(sa.make_url(f"sqlite:///{tmp_path / 'vault.db'}"))
    migrate(store)
    log = tmp_path / "vault.db-wal"

    def grow() -> None:
        for number in range(40):
            with store.engine.begin() as connection:
                connection.execute(
                    sa.text("INSERT INTO event VALUES (:id, :body, 'raw')"),
                    {"id": f"{log.stat().st_size}-{number}", "body": "x" * 250_000},
                )

    with store.reading() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
        grow()
        grown = log.stat().st_size
        assert grown > 8_000_000
        store.shrink()  # while somebody reads it stays, and nobody waits
        with store.transaction() as tx:
            tx.connection.exec_driver_sql("UPDATE control SET epoch = epoch")
        assert log.stat().st_size >= grown
    store.shrink()
    assert log.stat().st_size == 0
    store.close()


def test_the_servers_timer_empties_the_write_ahead_log(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Stack(tmp_path / "home", database_url=new_database_url("sqlite", request)) as stack:
        stack.server.stop()
        log = stack.home.directory / "ssn-vault.db-wal"
        with runner_inside(stack) as runner:
            with sqlite3.connect(stack.home.directory / "ssn-vault.db", isolation_level=None) as other:
                other.execute("UPDATE control SET epoch = epoch + 1")
                other.execute("UPDATE control SET epoch = epoch - 1")
                assert log.stat().st_size > 0
                runner.tidy()
            assert log.stat().st_size == 0
            other.close()
