"""The lease of who seals: one that cannot seal leaves it to another, and a clock that was set back does not keep it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.auditlog import ORIGIN, LogKey
from tests.support.inside import unread_stream
from tests.support.sealed import OwnSigner
from vault_service.audit.event import record
from vault_service.audit.sequencer import Sequencer
from vault_service.config import AuditSettings
from vault_service.errors import SigningError, StoreError
from vault_service.keys.log_signer import Signed
from vault_service.storage import log, replicas
from vault_service.storage.engine import Store, open_store
from vault_service.storage.events import append
from vault_service.storage.schema import migrate


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sa.make_url(f"sqlite:///{tmp_path / 'log.db'}"))
    migrate(opened)
    yield opened
    opened.close()


class Broken(OwnSigner):
    """Vault gives this server no signature."""

    def sign(self, text: bytes) -> Signed:
        raise SigningError("no signature")


def sequencer(store: Store, name: str, signer: OwnSigner, file: Path | None = None) -> Sequencer:
    settings = AuditSettings(checkpoint_seconds=0.01, checkpoint_file=file)
    made = Sequencer(store, signer, unread_stream(), settings, ORIGIN, name)
    made._hold_ms = 200
    with store.transaction() as tx:
        replicas.report(tx, name, 0)
    return made


def checkpoints(store: Store) -> int:
    with store.reading() as connection:
        newest = log.newest_checkpoint(connection)
    return newest.number if newest else 0


def rounds(*servers: Sequencer, count: int = 60) -> None:
    for _ in range(count):
        for server in servers:
            server._attempt(server.round)
        time.sleep(0.02)


@pytest.mark.parametrize("fault", ["no signature", "no checkpoint file"])
def test_a_server_that_cannot_seal_leaves_the_lease_to_one_that_can(store: Store, tmp_path: Path, fault: str) -> None:
    if fault == "no signature":
        first = sequencer(store, "first", Broken(LogKey()))
    else:
        (tmp_path / "directory").mkdir()
        first = sequencer(store, "first", OwnSigner(LogKey()), tmp_path / "directory")
    first._hold_ms = 60_000
    first._attempt(first.round)
    second = sequencer(store, "second", OwnSigner(LogKey()))
    assert not second.round()  # the first has the lease
    first._hold_ms = 200
    assert first._claim()
    before = checkpoints(store)
    with store.transaction() as tx:
        append(tx, [record("00000000-0000-7000-8000-000000000001", "tokenize", 1, {}).event], [])
    rounds(first, second)
    assert checkpoints(store) > before


def test_a_server_that_is_alone_keeps_trying(store: Store) -> None:
    alone = sequencer(store, "alone", Broken(LogKey()))
    rounds(alone, count=20)
    mended = OwnSigner(LogKey())
    alone._signer = mended
    assert alone.round()
    assert checkpoints(store) == 1


def test_a_lease_from_before_the_clock_was_set_back_is_not_held(store: Store) -> None:
    with store.transaction() as tx:
        assert log.claim(tx, "gone", 3600 * 1000)
    assert sequencer(store, "next", OwnSigner(LogKey())).round()


def test_a_checkpoint_is_never_earlier_than_the_one_before_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sequencer(store, "one", OwnSigner(LogKey()))
    assert one.round()
    with store.reading() as connection:
        first = log.newest_checkpoint(connection)
    clock = time.time_ns
    monkeypatch.setattr("vault_service.audit.sequencer.time.time_ns", lambda: clock() - 30 * 10**9)
    one._seal()
    with store.reading() as connection:
        second = log.newest_checkpoint(connection)
    assert first is not None
    assert second is not None
    assert second.at == first.at + 1


@pytest.mark.parametrize("minutes", [-2, 2])
def test_a_server_whose_clock_is_far_off_signs_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """A head from the future would look fresh until then, and no later one could be earlier."""
    clock = time.time_ns
    monkeypatch.setattr("vault_service.audit.sequencer.time.time_ns", lambda: clock() + minutes * 60 * 10**9)
    with pytest.raises(StoreError, match="too far apart"):
        sequencer(store, "one", OwnSigner(LogKey())).round()
    assert checkpoints(store) == 0
