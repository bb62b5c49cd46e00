"""A whole stack under test: OpenBao, a database, server processes, people and clients. All of it real.

OpenBao is a child of the test, servers are processes of their own that a test may kill, and the superuser's
way to the database is open to tests that tamper.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from ssn_vault_client import Client, Profile
from vault_service.cli.admin import DEFAULT_PERSON, Admin, Where, admin
from vault_service.cli.key_work import KeyWork
from vault_service.cli.ordering import carry_out
from vault_service.dev.bootstrap import OIDC_ROLE
from vault_service.dev.certificates import Certificates
from vault_service.dev.home import SIGNERS, Home
from vault_service.dev.openbao import OpenBao
from vault_service.keys.transit import TokenFile, TokenValue, Vault
from vault_service.orders.order import Action, Order
from vault_service.storage.engine import open_store

READY_SECONDS = 60.0
JUSTIFICATION = "asked by the test of this promise"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class ServerProcess:
    """One `ssn-vault serve` process; its log is appended to one file."""

    def __init__(self, config: Path, log: Path, settings: Mapping[str, str]) -> None:
        self._config = config
        self._settings = dict(settings)
        self.log = log
        self.port = free_port()
        self.metrics_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        environment = {
            **os.environ,
            **self._settings,
            "SSN_VAULT_SERVER__PORT": str(self.port),
            "SSN_VAULT_SERVER__METRICS_PORT": str(self.metrics_port),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vault_service", "serve", "--config", str(self._config)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.wait_ready()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended:\n{self._said()}"
            assert time.monotonic() < deadline, f"the server is not ready:\n{self._said()}"
            time.sleep(0.05)

    def _said(self) -> str:
        return self.log.read_text()[-3000:] if self.log.is_file() else f"in {self.log}"

    def listens(self) -> bool:
        with socket.socket() as attempt:
            attempt.settimeout(1)
            return attempt.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_listening(self, seconds: float = READY_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not self.listens():
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended:\n{self._said()}"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, now."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._process = None


class Stack:
    """OpenBao, a database with the sample policy in force, and one running server (more with `add_server`)."""

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str | None = None,
        settings: Mapping[str, str] | None = None,
        policy: Callable[[str], str] = lambda text: text,
        before_ready: Callable[[], object] = lambda: None,
    ) -> None:
        """`settings` are SSN_VAULT_* variables of the servers; `policy` changes the sample policy's text;
        `before_ready` starts what the first server waits for.
        """
        self.home = Home(directory)
        self.database_url = database_url
        self._settings = dict(settings or {})
        self._policy = policy
        self._before_ready = before_ready
        self.openbao = OpenBao(self.home.openbao_directory)
        self.log = directory / "server.log"
        self.servers: list[ServerProcess] = []
        self._certificates: Certificates | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self.servers:
            server.kill()
        self.openbao.stop()

    def _start(self) -> None:
        self.home.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.policy()
        self.home.policy_file.write_text(self._policy(self.home.policy_file.read_text()))
        self.openbao.start()
        root = self.root()
        self._certificates = self.home.prepare(root, 0, self.database_url)
        root.close()
        server = self.add_server(wait=False)
        server.wait_listening()
        where = self.where(SIGNERS[0])
        with admin(where) as one:
            arguments = {"base": 0, "policy": self.home.policy_file.read_text()}
            carry_out(one, where, Action.APPLY_POLICY, arguments, SIGNERS[1])
        where = self.where(DEFAULT_PERSON)
        with admin(where) as one:
            KeyWork(one, where).create_missing()
        self._before_ready()
        server.wait_ready()

    @property
    def server(self) -> ServerProcess:
        return self.servers[0]

    @property
    def certificates(self) -> Certificates:
        assert self._certificates is not None
        return self._certificates

    def add_server(
        self, *, wait: bool = True, settings: Mapping[str, str] | None = None, log: Path | None = None
    ) -> ServerProcess:
        server = ServerProcess(self.home.config_file, log or self.log, {**self._settings, **(settings or {})})
        self.servers.append(server)
        server.start(wait=wait)
        return server

    def root(self) -> Vault:
        return Vault(self.openbao.address, TokenValue(self.openbao.root_token))

    def where(self, person: str | None = None) -> Where:
        return Where(home=self.home.directory, person=person)

    @contextmanager
    def admin(self, person: str) -> Iterator[Admin]:
        with admin(self.where(person)) as one:
            yield one

    def order(self, action: Action, arguments: Mapping[str, Any], *people: str) -> Order:
        """An order that `people` sign, the first asking; done when this returns."""
        with ExitStack() as open_admins:
            first, *others = [open_admins.enter_context(self.admin(person)) for person in people]
            order = first.ask(action, arguments)
            for other in others:
                other.sign(order.id)
            outcome = first.wait(order)
            assert outcome is not None
            assert outcome.outcome == "done", outcome.detail
        return order

    def apply_policy(self, change: Callable[[str], str]) -> None:
        """Put the changed policy in force, signed by both signers."""
        with self.admin(SIGNERS[0]) as one:
            state = one.state()
        text = change(state.policy_text)
        assert text != state.policy_text
        self.order(Action.APPLY_POLICY, {"base": state.policy_version, "policy": text}, *SIGNERS)

    def profile(self, client: str, server: ServerProcess | None = None, *, timeout: float = 10.0) -> Profile:
        files = self.certificates.clients[client]
        return Profile(
            address=(server or self.server).address,
            ca=self.certificates.ca,
            cert=files.cert,
            key=files.key,
            timeout=timeout,
        )

    def client(
        self, name: str, person: str | None = None, server: ServerProcess | None = None, *, timeout: float = 10.0
    ) -> Client:
        token = self.person_token(person) if person else None
        return Client(self.profile(name, server, timeout=timeout), token)

    def person_token(self, name: str) -> str:
        vault = Vault(self.openbao.address, TokenFile(self.home.directory / "people" / f"{name}.token"))
        try:
            return vault.person_token(OIDC_ROLE)
        finally:
            vault.close()

    @contextmanager
    def superuser(self) -> Iterator[sa.Engine]:
        """The database as its owner (PostgreSQL: a superuser): for looking behind the service's back."""
        url = sa.make_url(self.database_url or f"sqlite:///{self.home.directory / 'ssn-vault.db'}")
        store = open_store(url)
        if store.postgresql:

            @sa.event.listens_for(store.engine, "connect")
            def _connected(driver: Any, _record: object) -> None:
                driver.execute("SET search_path = public, pg_temp")  # new objects go where the tables are
                driver.commit()

        try:
            yield store.engine
        finally:
            store.close()

    def query(self, statement: str, **parameters: object) -> list[Any]:
        """Rows of a query as the database's owner."""
        with self.superuser() as engine, engine.connect() as connection:
            return list(connection.execute(sa.text(statement), parameters))

    def tamper(self, *statements: str, **parameters: object) -> None:
        """Statements as the database's owner, with triggers off, in one transaction."""
        with self.superuser() as engine, engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            else:
                triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
                for (name,) in triggers.all():
                    connection.exec_driver_sql(f"DROP TRIGGER {name}")
            for statement in statements:
                connection.execute(sa.text(statement), parameters)
