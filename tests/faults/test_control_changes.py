"""Promise 12: a freeze, a revoked client, a changed policy holds at once, on every replica."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssn_vault_client import FrozenError, NotPermittedError, Ssn, SsnVaultError, TokenizeItem
from tests.conftest import new_database_url
from tests.support.commands import REFUSED, parsed, ssn_vault, succeeds
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from vault_service.cli.key_work import KeyWork
from vault_service.config import load_settings
from vault_service.keys.names import KeyKind
from vault_service.orders.order import Action
from vault_service.storage.engine import Store, open_store

CALLERS = 64


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=new_database_url(database, request)) as running:
        yield running


@pytest.fixture
def store(stack: Stack) -> Iterator[Store]:
    with stack.superuser() as engine:
        opened = open_store(engine.url)
        yield opened
        opened.close()


def test_control_is_read_after_the_lock_was_waited_for(store: Store) -> None:
    """The order of statements that keeps one token a number: lock alone, then read with a snapshot of its own."""
    read: list[int] = []
    waiting = threading.Event()

    def call() -> None:
        waiting.set()
        with store.transaction() as tx:
            read.append(tx.epoch)

    thread = threading.Thread(target=call)
    with store.transaction(exclusive=True) as change:
        thread.start()
        waiting.wait(10)
        time.sleep(0.5)  # the call is inside its first statement now, and waits
        assert read == []
        change.connection.exec_driver_sql("UPDATE control SET epoch = epoch + 1")
        expected = change.epoch + 1
    thread.join(20)
    with store.transaction(exclusive=True) as undo:
        undo.connection.exec_driver_sql("UPDATE control SET epoch = epoch - 1")
    assert read == [expected]


def test_running_calls_hold_off_a_change_of_control(store: Store) -> None:
    """The other half: a change waits until calls that began under the old state have committed."""
    changed = threading.Event()

    def change() -> None:
        with store.transaction(exclusive=True):
            changed.set()

    with store.transaction():
        thread = threading.Thread(target=change)
        thread.start()
        assert not changed.wait(0.5)
    thread.join(20)
    assert changed.is_set()


@pytest.mark.parametrize("database", ["postgresql"], scope="function")
def test_an_order_waits_for_running_calls_before_it_is_in_force(own: Stack) -> None:
    """As long as a call's transaction is open, nobody is told that a freeze holds: the call may still commit."""
    calls = open_store(load_settings(own.home.config_file).database.full_url())
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    decided = "SELECT count(*) FROM order_outcome WHERE order_id = :id"
    arguments = {"kind": "client", "name": "sis", "reason": "a test"}
    with own.admin("key-admin-a") as one:
        with calls.transaction():
            order = one.ask(Action.FREEZE, arguments)
            until(lambda: own.query(waiting) != [(0,)] or own.query(decided, id=order.id) != [(0,)])
            assert own.query(decided, id=order.id) == [(0,)]
        outcome = one.wait(order)
    assert outcome is not None
    assert outcome.outcome == "done"
    calls.close()


class Callers:
    """64 callers of both replicas who never pause; each answer is kept with the time of its event."""

    def __init__(self, stack: Stack, servers: list[ServerProcess], token: str) -> None:
        self._stack = stack
        self._token = token
        self._stop = threading.Event()
        self.numbers: list[str] = []  # events that were answered with a number
        self.reasons: set[str] = set()
        self._threads = [threading.Thread(target=self._run, args=(servers[n % len(servers)],)) for n in range(CALLERS)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, server: ServerProcess) -> None:
        with self._stack.client("sis", server=server, timeout=60) as client:
            while not self._stop.is_set():
                try:
                    disclosure = client.detokenize(
                        "k12", [self._token], purpose="transcript-verification", justification=JUSTIFICATION
                    )
                    self.numbers.append(disclosure.disclosure_id)
                except SsnVaultError as error:
                    self.reasons.add(str(error.reason))


def test_no_record_committed_after_a_freeze_returned_is_answered_with_a_number(own: Stack) -> None:
    servers = [own.server, own.add_server()]
    with own.client("sis") as client:
        token = client.tokenize("k12", [TokenizeItem(Ssn("948-22-0001"))])[0].token or ""
    with Callers(own, servers, token) as callers:
        while len(callers.numbers) < 100:
            time.sleep(0.01)
        succeeds(own, "incident", "freeze", "--client", "sis", "--reason", "stolen laptop", "--yes")
        frozen_events = {row[0] for row in own.query("SELECT id FROM event")}
        time.sleep(1)
    late = set(callers.numbers) - frozen_events
    assert late == set()
    assert callers.reasons == {"FROZEN"}
    (freeze,) = parsed(own, "status")["freezes"]
    assert (freeze["kind"], freeze["name"], freeze["reason"]) == ("client", "sis", "stolen laptop")
    assert ssn_vault(own, "incident", "thaw", freeze["id"], "--yes").exit_code == REFUSED
    own.order(Action.THAW, {"freeze": freeze["id"]}, "key-admin-b", "key-admin-a")
    with own.client("sis") as client:
        assert client.tokenize("k12", [TokenizeItem(Ssn("948-22-0001"))])[0].token == token


def test_a_revoked_client_is_refused_by_every_replica_once_the_policy_is_in_force(own: Stack) -> None:
    second = own.add_server()
    own.apply_policy(lambda text: text.replace("    tokenize: [k12]\n", "    tokenize: []\n"))
    for server in (own.server, second):
        with own.client("sis", server=server) as client, pytest.raises(NotPermittedError):
            client.tokenize("k12", [TokenizeItem(Ssn("948-22-0002"))])


def test_a_rotated_data_key_is_used_at_once_and_old_records_still_open(own: Stack) -> None:
    second = own.add_server()
    with own.client("sis") as client:
        old = client.tokenize("k12", [TokenizeItem(Ssn("948-22-1001"))])[0].token or ""
    with own.admin("key-admin-a") as one:
        assert KeyWork(one, own.where("key-admin-a")).rotate("k12", KeyKind.DATA).version == 2
    for server, number in ((own.server, 1002), (second, 1003)):
        with own.client("sis", server=server) as client:
            new = client.tokenize("k12", [TokenizeItem(Ssn(f"948-22-{number}"))])[0].token or ""
            assert client.tokenize("k12", [TokenizeItem(Ssn("948-22-1001"))])[0].token == old
            disclosure = client.detokenize(
                "k12", [old, new], purpose="transcript-verification", justification=JUSTIFICATION
            )
        assert [result.ssn.reveal() for result in disclosure.results if result.ssn] == ["1001", str(number)]
    versions = own.query("SELECT data_version, count(*) FROM token_record GROUP BY data_version ORDER BY 1")
    assert [tuple(row) for row in versions] == [(1, 1), (2, 2)]


def test_orders_and_refusals_stand_in_the_record(own: Stack) -> None:
    own.order(Action.FREEZE, {"kind": "domain", "name": "k12", "reason": "drill"}, "records-officer")
    with own.client("sis") as client, pytest.raises(FrozenError):
        client.tokenize("k12", [TokenizeItem(Ssn("948-22-2001"))])
    events = [json.loads(row[0]) for row in own.query("SELECT body FROM event ORDER BY id")]
    assert [event["action"] for event in events if event["kind"] == "order"][-1] == "incident.freeze"
    refused = [event for event in events if event["outcome"] == "FROZEN"]
    assert [(event["client"], event["domain"], event["items"]) for event in refused] == [("sis", "k12", 1)]
    # Each names the control epoch that decided it; an order that is done, the one that it began.
    ((epoch,),) = own.query("SELECT epoch FROM control")
    assert [event["epoch"] for event in events if event["kind"] == "order"] == list(range(1, epoch + 1))
    assert refused[0]["epoch"] == epoch
    with own.client("registrar") as registrar:
        registrar.tokenize("highered", [TokenizeItem(Ssn("948-22-2002"))])
    done = [json.loads(row[0]) for row in own.query("SELECT body FROM event ORDER BY id")][-1]
    assert (done["kind"], done["epoch"]) == ("tokenize", epoch)


def test_a_flood_of_refusals_is_counted_not_written_one_by_one(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = {"SSN_VAULT_AUDIT__REFUSALS_PER_MINUTE": "5"}
    with Stack(tmp_path / "home", database_url=new_database_url(database, request), settings=settings) as own:
        with own.client("registrar") as client:
            for _ in range(40):
                with pytest.raises(NotPermittedError):
                    client.tokenize("k12", [TokenizeItem(Ssn("948-22-3001"))])
        assert own.server.stop() == 0
        events = [json.loads(row[0]) for row in own.query("SELECT body FROM event")]
    single = [event for event in events if event.get("outcome") == "NOT_PERMITTED"]
    counted = [event for event in events if event["kind"] == "refusals"]
    assert 5 <= len(single) <= 10  # a minute may have turned
    assert sum(event["count"] for event in counted) + len(single) == 40
    assert counted[0]["client"] == "registrar"
