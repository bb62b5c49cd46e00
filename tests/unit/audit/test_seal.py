"""Numbers are given out while the record is being sealed: every way in which it is not stops them, and mends itself.

On a real store whose rows say when they were made; only this server's own watch is a test's.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tests.support.auditlog import LogKey
from tests.support.sealed import OwnSigner, add_event, new_store, place, seal
from vault_service.audit.seal import Seal
from vault_service.errors import CallError, LogDamagedError, Reason, StoreError
from vault_service.storage import log
from vault_service.storage.engine import Store, database_now

MAX = 5.0  # seconds
FRESH, OLD = 1000, 60_000  # ms ago
KEY = LogKey()
SIGNER = OwnSigner(KEY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


class Watch:
    """This server's own watch, which stands until it is set on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr("vault_service.audit.seal.time", SimpleNamespace(monotonic=made.monotonic))
    return made


def now(store: Store) -> int:
    with store.reading() as connection:
        return database_now(connection)


def happened(store: Store, ago: int, number: int = 1) -> str:
    """An event that many milliseconds ago."""
    return add_event(store, number, now(store) - ago)


def acknowledged(store: Store, name: str, ago: int) -> None:
    """A sink acknowledged that many milliseconds ago."""
    with store.transaction() as tx:
        log.acknowledge(tx, name, 0)
        row = {"name": name, "at": tx.now_ms - ago}
        tx.connection.execute(sa.text("UPDATE log_sink SET acknowledged_at = :at WHERE name = :name"), row)


def sealed(store: Store, ago: int = 0, key: LogKey = KEY) -> None:
    """A checkpoint over what has a place, signed that many milliseconds ago."""
    seal(store, key, now(store) - ago)


def forget_checkpoints(store: Store) -> None:
    """What restoring a backup does."""
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS log_checkpoint_no_delete")
        connection.exec_driver_sql("DELETE FROM log_checkpoint")


def holds(looking: Seal) -> bool:
    """Whether the seal holds after a look; `require` has to agree."""
    looking.look()
    return still(looking)


def still(looking: Seal) -> bool:
    """Whether the seal holds now, without a look."""
    try:
        looking.require()
    except CallError as error:
        return error.reason is not Reason.AUDIT_UNAVAILABLE or looking.holds
    return looking.holds


def test_nothing_is_given_out_before_the_first_look(store: Store) -> None:
    looking = Seal(store, SIGNER, MAX, [])
    assert not still(looking)
    with pytest.raises(CallError):
        looking.require()
    assert holds(looking)


def test_a_record_that_is_sealed_holds(store: Store) -> None:
    happened(store, OLD)
    place(store)
    sealed(store)
    assert holds(Seal(store, SIGNER, MAX, []))


@pytest.mark.parametrize("placed", [False, True])
def test_an_event_may_stay_unsealed_for_a_while_and_no_longer(store: Store, placed: bool) -> None:
    happened(store, FRESH, 1)
    if placed:
        place(store)
    assert holds(Seal(store, SIGNER, MAX, []))
    happened(store, OLD, 2)
    if placed:
        place(store)
        sealed(store)
        happened(store, OLD, 3)
        place(store)
    assert not holds(Seal(store, SIGNER, MAX, []))


def test_the_seal_holds_again_when_a_checkpoint_covers_the_event(store: Store) -> None:
    looking = Seal(store, SIGNER, MAX, [])
    happened(store, OLD)
    assert not holds(looking)
    place(store)
    assert not holds(looking)
    sealed(store)
    assert holds(looking)


def test_a_younger_event_with_a_place_does_not_hide_an_older_one_that_waits(store: Store) -> None:
    happened(store, FRESH, 2)
    place(store)
    assert holds(Seal(store, SIGNER, MAX, []))
    happened(store, OLD, 1)
    assert not holds(Seal(store, SIGNER, MAX, []))


def test_it_holds_until_max_unsealed_after_the_event_and_not_after_the_look(store: Store, watch: Watch) -> None:
    looking = Seal(store, SIGNER, 100, [])
    happened(store, OLD)
    assert holds(looking)
    watch.seconds += 39
    assert still(looking)
    watch.seconds += 2
    assert not still(looking)


def test_an_event_from_the_future_is_old_by_this_servers_own_watch(store: Store, watch: Watch) -> None:
    """A server whose clock runs ahead made it, or a database whose clock was set back holds it."""
    looking = Seal(store, SIGNER, MAX, [])
    happened(store, -10 * OLD)
    assert holds(looking)
    watch.seconds += MAX - 1
    assert holds(looking)
    watch.seconds += 2
    assert not holds(looking)
    seal_it = place(store)
    sealed(store)
    assert (seal_it, holds(looking)) == (1, True)


# Checkpoints


def test_a_checkpoint_is_signed_anew_every_so_often_or_nobody_seals(store: Store) -> None:
    looking = Seal(store, SIGNER, MAX, [])
    sealed(store, OLD)
    assert not holds(looking)
    sealed(store, FRESH)
    assert holds(looking)


def test_a_log_without_a_checkpoint_is_sealed_soon_or_nobody_seals(store: Store, watch: Watch) -> None:
    """Whoever empties the log and the queue must not be able to keep it so."""
    looking = Seal(store, SIGNER, MAX, [])
    assert holds(looking)
    watch.seconds += MAX - 1
    assert holds(looking)
    watch.seconds += 2
    assert not holds(looking)
    sealed(store)
    assert holds(looking)


def test_a_checkpoint_grows_old_by_this_servers_own_watch(
    store: Store, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's clock stands still, and its administrator puts two checkpoints there in turn."""
    moment = now(store)
    monkeypatch.setattr("vault_service.audit.seal.database_now", lambda _connection: moment)
    looking = Seal(store, SIGNER, MAX, [])
    sealed(store, FRESH)
    sealed(store)
    assert holds(looking)
    watch.seconds += MAX - 1
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER log_checkpoint_no_delete")
        (kept,) = connection.exec_driver_sql("SELECT * FROM log_checkpoint ORDER BY number DESC LIMIT 1")
        connection.exec_driver_sql("DELETE FROM log_checkpoint WHERE number = 2")
    assert holds(looking)  # the earlier one, as far as the database's clock goes
    with store.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO log_checkpoint VALUES (?, ?, ?, ?)", tuple(kept))
    watch.seconds += 2
    assert not holds(looking)
    moment += 3000
    sealed(store, -3000)
    assert holds(looking)


def test_a_checkpoint_of_another_key_seals_nothing(store: Store) -> None:
    other = LogKey()
    looking = Seal(store, SIGNER, MAX, [])
    sealed(store, key=other)
    with pytest.raises(LogDamagedError):
        looking.look()
    assert not still(looking)
    assert holds(Seal(store, OwnSigner(KEY, other), MAX, []))


def test_a_size_that_is_not_the_signed_one_seals_nothing(store: Store) -> None:
    happened(store, OLD, 1)
    sealed(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER log_checkpoint_no_update")
        connection.exec_driver_sql("UPDATE log_checkpoint SET size = 1, at = at + 1000000")
    place(store)
    assert not holds(Seal(store, SIGNER, MAX, []))


# Sinks


def test_a_sink_that_never_acknowledged_holds_everything_back(store: Store) -> None:
    assert not holds(Seal(store, SIGNER, MAX, ["file"]))
    acknowledged(store, "file", FRESH)
    assert holds(Seal(store, SIGNER, MAX, ["file"]))
    assert not holds(Seal(store, SIGNER, MAX, ["file", "witness"]))


@pytest.mark.parametrize("late", ["file", "witness"])
def test_the_latest_of_all_sinks_decides(store: Store, late: str) -> None:
    for name in ("file", "witness"):
        acknowledged(store, name, OLD if name == late else FRESH)
    looking = Seal(store, SIGNER, MAX, ["file", "witness"])
    assert not holds(looking)
    acknowledged(store, late, 0)
    assert holds(looking)


def test_an_acknowledgement_from_the_future_is_none(store: Store) -> None:
    acknowledged(store, "file", -10 * OLD)
    assert not holds(Seal(store, SIGNER, MAX, ["file"]))


def test_an_acknowledgement_grows_old_by_this_servers_own_watch(
    store: Store, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = now(store)
    monkeypatch.setattr("vault_service.audit.seal.database_now", lambda _connection: moment)
    looking = Seal(store, SIGNER, MAX, ["file"])
    for number in range(3):
        sealed(store, -number)
        acknowledged(store, "file", 10 * (3 - number))
        assert holds(looking)
        watch.seconds += MAX - 1
    sealed(store, -10)
    watch.seconds += 2
    assert not holds(looking)


def test_an_acknowledgement_that_was_from_the_future_is_forgotten_with_the_next(store: Store, watch: Watch) -> None:
    """The database's clock was set back, or somebody wrote into the row."""
    looking = Seal(store, SIGNER, MAX, ["file"])
    acknowledged(store, "file", -50_000)
    assert holds(looking)
    for number in range(4):
        watch.seconds += MAX - 1
        sealed(store, -number)
        acknowledged(store, "file", 0)
        assert holds(looking)


def test_a_sink_that_is_not_configured_any_more_is_not_waited_for(store: Store) -> None:
    acknowledged(store, "witness", OLD)
    assert holds(Seal(store, SIGNER, MAX, []))


def test_a_fresh_sink_does_not_make_up_for_an_unsealed_event(store: Store) -> None:
    acknowledged(store, "file", 0)
    happened(store, OLD)
    assert not holds(Seal(store, SIGNER, MAX, ["file"]))


# Looks that fail


def test_without_looks_the_time_runs_out_by_itself(store: Store, watch: Watch, tmp_path: Path) -> None:
    looking = Seal(store, SIGNER, MAX, [])
    assert holds(looking)
    store.close()
    database = tmp_path / "sealed.db"
    kept = database.rename(tmp_path / "kept.db")
    database.mkdir()
    watch.seconds += MAX - 1
    with pytest.raises(StoreError):
        looking.look()
    assert still(looking)
    watch.seconds += 1
    with pytest.raises(StoreError):
        looking.look()
    assert not still(looking)
    database.rmdir()
    kept.rename(database)
    sealed(store)
    assert holds(looking)


def test_a_rollback_is_noticed_told_once_and_stops_everything_at_once(store: Store) -> None:
    looking = Seal(store, SIGNER, MAX, [])
    happened(store, FRESH, 1)
    place(store)
    sealed(store)
    assert holds(looking)
    forget_checkpoints(store)
    with capture_logs() as told:
        assert not holds(looking)
        assert not holds(looking)
    assert [(one["log_level"], one["covered"], one["known"]) for one in told] == [("critical", 0, 1)]


def test_a_log_that_covers_again_what_was_known_holds_again(store: Store) -> None:
    looking = Seal(store, SIGNER, MAX, [])
    happened(store, FRESH, 1)
    place(store)
    sealed(store)
    assert holds(looking)
    forget_checkpoints(store)
    assert not holds(looking)
    sealed(store)
    assert holds(looking)
    with capture_logs() as told:
        forget_checkpoints(store)
        looking.look()
    assert [one["log_level"] for one in told] == ["critical"]


def test_an_id_that_is_none_stops_the_seal_and_not_the_server(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO log_pending (event_id) VALUES ('not an id')")
    looking = Seal(store, SIGNER, MAX, [])
    with pytest.raises(ValueError, match="base 16"):
        looking.look()
    with capture_logs() as told:
        looking.start()
        looking.stop()
    assert not still(looking)
    assert told[0]["event"] == "cannot look at the seal"


def test_a_server_looks_at_once_and_again_and_again(store: Store) -> None:
    happened(store, OLD)
    looking = Seal(store, SIGNER, MAX, [])
    looking.start()
    try:
        assert not still(looking)
        place(store)
        sealed(store)
        deadline = time.monotonic() + 30
        while not still(looking) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert still(looking)
    finally:
        looking.stop()
