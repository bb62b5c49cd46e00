"""kill -9 of servers, of whoever seals, and of the witness: nothing committed is lost, and no fork is ever signed."""

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ssn_vault_client import Ssn, SsnVaultError, TokenizeItem
from tests.conftest import new_database_url
from tests.support.auditlog import WITNESS
from tests.support.commands import ssn_vault
from tests.support.inside import unread_stream
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from tests.support.witnessing import STACK_ORIGIN, StackWitness
from vault_service.audit import verify
from vault_service.audit.event import record
from vault_service.audit.sequencer import Sequencer
from vault_service.config import AuditSettings
from vault_service.keys.log_signer import Signed
from vault_service.storage import log
from vault_service.storage.engine import Store, open_store
from vault_service.storage.events import append
from vault_service.storage.schema import migrate

KILLS = int(os.environ.get("TEST_LOG_KILLS", "104"))  # over both databases together
QUICK = {"SSN_VAULT_AUDIT__CHECKPOINT_SECONDS": "0.2"}


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[StackWitness]:
    process = StackWitness(tmp_path / "witness", tmp_path / "home" / "audit.pub.pem")
    yield process
    process.kill()


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path, witness: StackWitness) -> Iterator[Stack]:
    url = new_database_url(database, request)
    settings = {**QUICK, **witness.settings}
    with Stack(tmp_path / "home", database_url=url, settings=settings, before_ready=witness.start) as running:
        yield running


class Caller:
    """One client's loop on one server; what it was given, kept for the comparison with the record."""

    def __init__(self, stack: Stack, server: ServerProcess, tokens: list[str], stop: threading.Event) -> None:
        self.delivered: list[tuple[str, str]] = []  # event, token
        self._stack, self._server, self._tokens, self._stop = stack, server, tokens, stop
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self._stack.client("sis", server=self._server, timeout=5) as client:
            while not self._stop.is_set():
                wanted = random.sample(self._tokens, 3)
                try:
                    answer = client.detokenize(
                        "k12", wanted, purpose="transcript-verification", justification=JUSTIFICATION
                    )
                except SsnVaultError:
                    time.sleep(0.02)
                else:
                    self.delivered += [(answer.disclosure_id, token) for token in wanted]


def test_killed_at_random_moments_nothing_committed_is_lost_and_the_log_verifies(
    own: Stack, witness: StackWitness
) -> None:
    servers = [own.server, own.add_server()]
    with own.client("sis") as client:
        tokens = [
            row.token or "" for row in client.tokenize("k12", [TokenizeItem(Ssn(f"952-33-{n:04}")) for n in range(30)])
        ]
    stop = threading.Event()
    callers = [Caller(own, server, tokens, stop) for server in servers * 2]
    moments = random.Random(815)
    victims: list[ServerProcess | StackWitness] = [*servers, witness]
    try:
        for _ in range((KILLS + 1) // 2):
            time.sleep(moments.uniform(0.0, 0.4))
            victim = moments.choice(victims)
            victim.kill()
            victim.start(wait=False)
            # Mostly long enough to come to work again; else it dies while it starts.
            if isinstance(victim, ServerProcess) and moments.random() < 0.8:
                victim.wait_listening()
        for server in servers:
            server.wait_ready()
        witness.kill()
        witness.start()
        before = own.query("SELECT max(number) FROM log_checkpoint")[0][0] or 0
        until(lambda: (own.query("SELECT max(number) FROM log_checkpoint")[0][0] or 0) > before + 3, 60)
    finally:
        stop.set()
        for caller in callers:
            caller.thread.join(60)
    until(lambda: not own.query("SELECT 1 FROM log_pending LIMIT 1"), 60)
    delivered = {pair for caller in callers for pair in caller.delivered}
    placed = own.query(
        "SELECT disclosure.event_id, token FROM disclosure JOIN log_leaf ON log_leaf.event_id = disclosure.event_id"
        " WHERE outcome = 'found'"
    )
    assert len(delivered) > KILLS
    assert delivered <= {tuple(row) for row in placed}
    until(lambda: sealed_and_cosigned(own), 60)
    for server in servers:
        server.stop()
    result = ssn_vault(
        own,
        *("audit", "verify", "--public-key", own.home.directory / "audit.pub.pem", "--stream", own.log),
        *("--witness-file", witness.checkpoints, "--witness-key", witness.key_file),
    )
    assert result.exit_code == 0, result.output
    notes = [row[0] for row in own.query("SELECT note FROM log_checkpoint")]
    keys = verify.read_keys(own.home.directory / "audit.pub.pem")
    for path in (own.home.checkpoint_file, witness.checkpoints):
        notes += list(verify.notes_in(path, keys))
    assert one_root_a_size(notes, keys)


def sealed_and_cosigned(stack: Stack) -> bool:
    """Whether the newest checkpoint covers every entry and has the witness's line."""
    size = stack.query("SELECT max(position) + 1 FROM log_leaf")[0][0]
    found = stack.query("SELECT size, note FROM log_checkpoint ORDER BY number DESC LIMIT 1")
    return bool(found[0].size == size and f"— {WITNESS} " in found[0].note)


def one_root_a_size(notes: list[str], keys: verify.Keys) -> bool:
    """Whether no two signed heads of one size differ."""
    roots: dict[int, set[bytes]] = {}
    for note in notes:
        head = verify.check_note(note, keys)
        roots.setdefault(head.size, set()).add(head.root)
    return all(len(found) == 1 for found in roots.values())


def test_another_server_takes_over_when_the_one_that_seals_is_killed(own: Stack) -> None:
    other = own.add_server()
    until(lambda: bool(own.query("SELECT 1 FROM log_checkpoint")))
    own.server.kill()
    with own.client("sis", server=other) as client:
        client.tokenize("k12", [TokenizeItem(Ssn("952-34-0001"))])
    until(lambda: not own.query("SELECT 1 FROM log_pending"), 60)
    until(lambda: sealed_and_cosigned(own), 60)


def test_a_silent_holder_loses_the_lease_soon_enough_for_another_to_take_over_within_ten_seconds(
    tmp_path: Path,
) -> None:
    longest = AuditSettings(checkpoint_seconds=3.0)
    with _store(f"sqlite:///{tmp_path / 'log.db'}") as store:
        sequencer = Sequencer(store, _LocalSigner(), unread_stream(), longest, STACK_ORIGIN, "one")
        assert sequencer.round()
        ((held, now),) = _rows(
            store, "SELECT held_until, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) FROM log_lease"
        )
    assert held - now <= 9_000  # and others look once a second


class _LocalSigner:
    """An Ed25519 key of this process, which keeps all that it signed."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.texts: list[bytes] = []

    def sign(self, text: bytes) -> Signed:
        self.texts.append(text)
        return Signed(self.public, self._key.sign(text))

    def public_keys(self, *, anew: bool = False) -> list[bytes]:
        return [self.public]


class _store:
    """A migrated store of its own."""

    def __init__(self, url: str) -> None:
        self._store = open_store(sa.make_url(url), connections=12)

    def __enter__(self) -> Store:
        migrate(self._store)
        return self._store

    def __exit__(self, *exception: object) -> None:
        self._store.close()


def _rows(store: Store, statement: str) -> list[tuple[Any, ...]]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


def test_sequencers_that_all_believe_they_hold_the_lease_never_sign_a_fork(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "claim", lambda *_: True)
    monkeypatch.setattr(log, "holder", lambda *_: None)
    signer = _LocalSigner()
    settings = AuditSettings(checkpoint_seconds=0.01, checkpoint_file=tmp_path / "checkpoints")
    with _store(new_database_url(database, request) or f"sqlite:///{tmp_path / 'log.db'}") as store:
        rivals = [Sequencer(store, signer, unread_stream(), settings, STACK_ORIGIN, f"rival-{n}") for n in range(3)]
        stop = threading.Event()

        def write(writer: int) -> None:
            for number in range(120):
                events = [
                    record(f"{number:08x}-0000-7000-8000-{writer:04x}{n:08x}", "tokenize", 1, {}).event
                    for n in range(number % 7 + 1)
                ]
                with store.transaction() as tx:
                    append(tx, events, [])
                time.sleep(0.003)

        def rival(one: Sequencer) -> None:
            while not stop.is_set():
                one._attempt(one.round)

        threads = [threading.Thread(target=rival, args=(one,)) for one in rivals]
        writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
        for thread in (*threads, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        until(lambda: _rows(store, "SELECT count(*) FROM log_pending") == [(0,)], 60)
        stop.set()
        for thread in threads:
            thread.join()
        assert rivals[0].round()
        leaves = [row[0] for row in _rows(store, "SELECT hash FROM log_leaf ORDER BY position")]
        ((events,),) = _rows(store, "SELECT count(*) FROM event")
    assert len(leaves) == events == 2 * sum(number % 7 + 1 for number in range(120))
    tree, roots = verify.Frontier(), {0: verify.EMPTY_ROOT}
    for leaf in leaves:
        tree.append(leaf)
        roots[tree.size] = tree.root().hex()
    heads = [text.decode().split("\n") for text in signer.texts]
    assert len({head[1] for head in heads}) > 10
    assert all(verify._base64(head[2]).hex() == roots[int(head[1])] for head in heads)
