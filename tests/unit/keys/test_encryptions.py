"""Encryptions are counted ahead, never too low, and a key stops at 2^32."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from vault_service.errors import CallError, Reason
from vault_service.keys.encryptions import MOST_ENCRYPTIONS, EncryptionMeter
from vault_service.storage.engine import Store, open_store
from vault_service.storage.rotation import counted_encryptions
from vault_service.storage.schema import migrate


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(sa.make_url(f"sqlite:///{tmp_path / 'vault.db'}"))
    migrate(store)
    yield store
    store.close()


def counted(store: Store, version: int = 1) -> int:
    with store.reading() as connection:
        return counted_encryptions(connection).get(("k12", version), 0)


def take(store: Store, meter: EncryptionMeter, count: int, version: int = 1) -> None:
    with store.transaction() as tx:
        meter.take(tx, "k12", version, count)


def test_the_count_is_never_below_what_was_taken(store: Store) -> None:
    meter, other = EncryptionMeter(), EncryptionMeter()
    taken = 0
    for count in (1, 99_999, 3, 250_000, 1):
        take(store, meter, count)
        take(store, other, count)  # another server
        taken += 2 * count
        assert counted(store) >= taken
    assert counted(store, 2) == 0


def test_a_block_is_used_up_before_the_database_is_asked_again(store: Store) -> None:
    meter = EncryptionMeter()
    take(store, meter, 1)
    before = counted(store)
    for _ in range(1000):
        take(store, meter, 100)
    assert counted(store) == before
    take(store, meter, 1)
    assert counted(store) > before


def test_what_was_rolled_back_was_not_reserved(store: Store) -> None:
    meter = EncryptionMeter()

    def take_and_fail() -> None:
        with store.transaction() as tx:
            meter.take(tx, "k12", 1, 5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take_and_fail()
    assert counted(store) == 0
    take(store, meter, 5)
    assert counted(store) >= 5


def test_a_key_stops_at_the_limit_and_the_next_version_goes_on(store: Store) -> None:
    meter = EncryptionMeter()
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO encryption_count VALUES ('k12', 1, {MOST_ENCRYPTIONS - 10})")
    with pytest.raises(CallError) as refused:
        take(store, meter, 1)
    assert refused.value.reason is Reason.KEYS_UNAVAILABLE
    assert counted(store) == MOST_ENCRYPTIONS - 10
    take(store, meter, 1, version=2)


def test_nothing_is_counted_for_nothing(store: Store) -> None:
    take(store, EncryptionMeter(), 0)
    assert counted(store) == 0
