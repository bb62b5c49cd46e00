"""What readiness knows of the database does not wait for the database."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.auditlog import LogKey
from tests.support.sealed import OwnSigner
from tests.support.servers import until
from vault_service.keys.keyring import Keyring
from vault_service.orders import pulse
from vault_service.orders.control import Control
from vault_service.orders.losses import LossCheck
from vault_service.orders.state import Signers
from vault_service.storage.engine import Store, open_store
from vault_service.storage.replicas import remembered
from vault_service.storage.schema import migrate


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sa.make_url(f"sqlite:///{tmp_path / 'pulse.db'}"))
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def beating(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[pulse.Pulse]:
    monkeypatch.setattr(pulse, "_PERIOD", 0.02)
    keyring = Keyring(lambda *_: b"", 300.0)
    losses = LossCheck(OwnSigner(LogKey()))
    made = pulse.Pulse(store, Control(store, lambda _: {}, Signers(frozenset(), 2), keyring, losses), "one")
    assert made.store_trouble() == "nothing was written yet"
    made.start()
    yield made
    made.stop()


def test_it_writes_that_this_server_is_there(store: Store, beating: pulse.Pulse) -> None:
    until(lambda: not beating.store_trouble())
    with store.reading() as connection:
        assert [row.id for row in remembered(connection)] == ["one"]
    assert beating.control_trouble().startswith("no policy is in force")


def test_a_write_that_hangs_is_said_while_it_hangs(
    store: Store, beating: pulse.Pulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "_SLOW", 0.2)
    until(lambda: not beating.store_trouble())
    release = threading.Event()

    def hold() -> None:
        with store.transaction():
            release.wait(9)

    holder = threading.Thread(target=hold)
    holder.start()
    until(lambda: beating.store_trouble() == "the database does not answer")
    release.set()
    holder.join()
    until(lambda: not beating.store_trouble())


def test_a_write_that_is_refused_is_said_with_its_cause(store: Store, beating: pulse.Pulse) -> None:
    until(lambda: not beating.store_trouble())
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE replica RENAME TO gone")
    until(lambda: "has no tables" in beating.store_trouble())
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO replica")
    until(lambda: not beating.store_trouble())
