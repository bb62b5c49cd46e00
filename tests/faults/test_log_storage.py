"""NIST SP 800-53 AU-5: when the record cannot be kept or sealed no plaintext leaves, and service returns by itself."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from ssn_vault_client import LinkageItem, Ssn, SsnVaultError, TokenizeItem
from tests.conftest import new_database_url
from tests.support.disks import small_disk
from tests.support.servers import another_server, until
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from tests.support.witnessing import StackWitness

SOON = {"SSN_VAULT_AUDIT__CHECKPOINT_SECONDS": "0.2", "SSN_VAULT_AUDIT__MAX_UNSEALED": "2"}


@pytest.fixture(scope="module")
def own(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the tests of this file that leave it in order."""
    directory = tmp_path_factory.mktemp("storage") / "home"
    with Stack(directory, database_url=new_database_url(database, request), settings=SOON) as running:
        yield running


class Watch:
    """Asks for a number and for a match again and again; keeps what came, and tells when it is only refusals."""

    def __init__(self, stack: Stack, server: ServerProcess | None = None, *, answered: bool = True) -> None:
        """Asks `server`, else the first; `answered` says whether plaintext comes to begin with."""
        self._stack = stack
        self._server = server
        self._answered = answered
        with stack.client("sis", server=server) as client:
            self._token = client.tokenize("k12", [TokenizeItem(Ssn("953-35-0001"))])[0].token or ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[str] = []  # of the last round and those before: a reason, or "" for plaintext
        self.events: list[str] = []  # of answers with plaintext

    def __enter__(self) -> "Watch":
        self._thread.start()
        if self._answered:
            before = self._checkpoints()
            until(lambda: self._checkpoints() > before + 1, 60)  # whoever seals is at work
            self.answered()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _checkpoints(self) -> int:
        return int(self._stack.query("SELECT count(*) FROM log_checkpoint")[0][0])

    def _run(self) -> None:
        clients = [self._stack.client(name, server=self._server, timeout=30) for name in ("sis", "k12-research")]
        with clients[0] as sis, clients[1] as research:
            while not self._stop.wait(0.05):
                try:
                    answer = sis.detokenize(
                        "k12", [self._token], purpose="transcript-verification", justification=JUSTIFICATION
                    )
                    self.events.append(answer.disclosure_id)
                    self.answers.append("")
                except SsnVaultError as error:
                    self.answers.append(error.reason or error.status)
                try:
                    self.events.append(research.linkage_match("college-outcomes", [LinkageItem(self._token)]).event_id)
                    self.answers.append("")
                except SsnVaultError as error:
                    self.answers.append(error.reason or error.status)

    def answered(self) -> None:
        """Wait for plaintext of both calls."""
        self._until_last("")

    def refused(self, *reasons: str) -> None:
        """Wait until both calls have been refused, for one of these reasons, for a second without any other answer.

        On a busy machine a call may be refused before: a checkpoint that comes late lets the next one pass again.
        """
        deadline = time.monotonic() + 60
        seen = -2
        while seen < 0 or not set(self.answers[seen:]) <= set(reasons) or len(self.answers) < seen + 4:
            assert time.monotonic() < deadline, self.answers[-10:]
            self._until_last(*reasons)
            seen = len(self.answers) - 2
            time.sleep(1)

    def _until_last(self, *answers: str) -> None:
        seen = len(self.answers)
        until(lambda: len(self.answers) > seen + 1 and set(self.answers[-2:]) <= set(answers), 60)


def released(stack: Stack) -> int:
    """Rows that say what was given out: what a call that is refused must not add to."""
    tables = ("disclosure", "linkage_record")
    return sum(int(stack.query(f"SELECT count(*) FROM {table}")[0][0]) for table in tables)


def tokenizes(stack: Stack, serial: int, server: ServerProcess | None = None) -> bool:
    with stack.client("sis", server=server) as client:
        return bool(client.tokenize("k12", [TokenizeItem(Ssn(f"953-36-{serial:04}"))])[0].token)


def recorded(stack: Stack, watch: Watch) -> bool:
    """Whether every answer with plaintext stands in the record."""
    return set(watch.events) <= {row[0] for row in stack.query("SELECT id FROM event")}


@contextmanager
def refusing(stack: Stack, table: str) -> Iterator[None]:
    """Every insertion into `table` fails, as a full tablespace makes it fail (SQLSTATE 53100)."""
    if stack.database_url is None:
        make = [f"CREATE TRIGGER refused BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END"]
        mend = ["DROP TRIGGER refused"]
    else:
        make = [
            "CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$",
            f"CREATE TRIGGER refused BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refused()",
        ]
        mend = [f"DROP TRIGGER refused ON {table}", "DROP FUNCTION refused()"]
    run(stack, make)
    try:
        yield
    finally:
        run(stack, mend)


def run(stack: Stack, statements: list[str]) -> None:
    with stack.superuser() as engine, engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("event", "STORE_UNAVAILABLE"),
        ("log_pending", "STORE_UNAVAILABLE"),
        ("log_leaf", "AUDIT_UNAVAILABLE"),
        ("log_checkpoint", "AUDIT_UNAVAILABLE"),
    ],
)
def test_rows_that_are_refused_stop_what_gives_out_and_service_returns(own: Stack, table: str, reason: str) -> None:
    with Watch(own) as watch:
        with refusing(own, table):
            watch.refused(reason)
            before = released(own)
            watch.refused(reason)
            assert released(own) == before  # refused when decided, not after it was recorded and paid for
            if reason == "AUDIT_UNAVAILABLE":
                assert tokenizes(own, 1)
        watch.answered()
    assert recorded(own, watch)


def test_a_full_disk_under_the_database_stops_what_gives_out_and_service_returns(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        url = f"sqlite:///{disk.path / 'ssn-vault.db'}"
        with Stack(tmp_path / "home", database_url=url, settings=SOON) as own:
            with Watch(own) as watch:
                disk.fill(own.server.pid)
                watch.refused("STORE_UNAVAILABLE", "AUDIT_UNAVAILABLE")
                disk.free(own.server.pid)
                watch.answered()
            assert recorded(own, watch)
            own.server.stop()


def test_a_full_disk_under_the_checkpoint_file_stops_what_gives_out_and_service_returns(
    own: Stack, tmp_path: Path
) -> None:
    own.server.stop()
    with small_disk(tmp_path / "disk", 1) as disk:
        file = disk.path / "checkpoints"
        with another_server(own, AUDIT__CHECKPOINT_FILE=file) as server:
            with Watch(own, server) as watch:
                disk.fill(server.pid, only=file)
                watch.refused("AUDIT_UNAVAILABLE")
                assert tokenizes(own, 2, server)
                disk.free(server.pid, only=file)
                watch.answered()
            server.stop()
    own.server.start()


def test_a_checkpoint_file_that_cannot_be_written_stops_what_gives_out(own: Stack) -> None:
    file, aside = own.home.checkpoint_file, own.home.directory / "aside"
    with Watch(own) as watch:
        file.rename(aside)
        file.mkdir()
        try:
            watch.refused("AUDIT_UNAVAILABLE")
            assert tokenizes(own, 3)
        finally:
            file.rmdir()
            aside.rename(file)
        watch.answered()


def test_a_witness_that_is_away_for_too_long_stops_what_gives_out(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    witness = StackWitness(tmp_path / "witness", tmp_path / "home" / "audit.pub.pem")
    settings = {**SOON, **witness.settings}
    try:
        url = new_database_url(database, request)
        with Stack(tmp_path / "home", database_url=url, settings=settings, before_ready=witness.start) as own:
            with Watch(own) as watch:
                witness.kill()
                watch.refused("AUDIT_UNAVAILABLE")
                assert tokenizes(own, 4)
                witness.start()
                watch.answered()
            own.server.stop()
    finally:
        witness.kill()


def test_a_vault_that_does_not_sign_for_too_long_stops_what_gives_out_though_keys_are_in_memory(own: Stack) -> None:
    with Watch(own) as watch:
        own.openbao.stop()
        watch.refused("AUDIT_UNAVAILABLE")
        assert tokenizes(own, 5)
        own.openbao.start()
        watch.answered()


def test_a_server_that_may_not_seal_gives_nothing_out_once_nobody_has_sealed_for_too_long(own: Stack) -> None:
    own.server.stop()
    with another_server(own, wait=False, AUDIT__SEQUENCE=False) as alone:
        alone.wait_listening()
        with Watch(own, alone, answered=False) as watch:
            watch.refused("AUDIT_UNAVAILABLE")
            assert not alone.is_ready()
            own.server.start()  # the one that may
            watch.answered()


def test_a_destination_of_shipped_events_that_is_away_for_too_long_stops_what_gives_out(
    own: Stack, tmp_path: Path
) -> None:
    own.server.stop()
    file, aside = tmp_path / "ocsf.jsonl", tmp_path / "aside"
    with another_server(own, AUDIT__SHIP=f"file:{file}") as server:
        with Watch(own, server) as watch:
            file.rename(aside)
            file.mkdir()
            watch.refused("AUDIT_UNAVAILABLE")
            assert tokenizes(own, 6, server)
            file.rmdir()
            aside.rename(file)
            watch.answered()
        server.stop()
    own.server.start()


def test_a_position_of_shipped_events_that_was_moved_silences_nothing(own: Stack, tmp_path: Path) -> None:
    own.server.stop()
    file = tmp_path / "ocsf.jsonl"
    with another_server(own, AUDIT__SHIP=f"file:{file}") as server:
        with Watch(own, server) as watch:
            run(own, ["UPDATE log_sink SET size = 1000000000000000 WHERE name = 'ship'"])
            watch.answered()
            event = watch.events[-1]
            until(lambda: file.exists() and event in file.read_text(), 60)
            ((shipped,),) = own.query("SELECT size FROM log_sink WHERE name = 'ship'")
            assert shipped < 1_000_000
            until(lambda: "tampered with" in own.log.read_text())
        server.stop()
    own.server.start()
