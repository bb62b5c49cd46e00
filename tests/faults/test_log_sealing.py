"""What is signed is what was committed and continues what was signed before; silence is signed, too."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from tests.support.auditlog import ORIGIN, LogKey
from tests.support.inside import unread_stream
from tests.support.sealed import OwnSigner, add_event
from tests.support.witnessing import KEY, Running
from vault_service.audit.sequencer import Sequencer
from vault_service.audit.sinks import SinkError, Witness
from vault_service.audit.stream import HashStream
from vault_service.config import AuditSettings
from vault_service.errors import LogDamagedError
from vault_service.log_writer import LogWriter
from vault_service.storage import log
from vault_service.storage.engine import Store, open_store
from vault_service.storage.schema import migrate


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path / "log.db")
    yield opened
    opened.close()


def new_store(file: Path) -> Store:
    store = open_store(sa.make_url(f"sqlite:///{file}"))
    migrate(store)
    return store


def sequencer(
    store: Store,
    key: LogKey | None = None,
    witness: Witness | None = None,
    *,
    file: Path | None = None,
    stream: Path | None = None,
    max_unsealed: float = 300,
) -> Sequencer:
    settings = AuditSettings(checkpoint_seconds=0.01, max_unsealed=max_unsealed, checkpoint_file=file)
    hashes = HashStream(LogWriter(os.open(stream, os.O_WRONLY | os.O_CREAT))) if stream else unread_stream()
    signer = OwnSigner(key or LogKey())
    return Sequencer(store, signer, hashes, settings, ORIGIN, "one", witness)


def tamper(store: Store, statement: str, **values: object) -> None:
    """As the database's owner, with triggers gone."""
    with store.engine.begin() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        assert connection.execute(sa.text(statement), values).rowcount == 1


def add(store: Store, first: int, count: int) -> list[str]:
    return [add_event(store, number, 1_700_000_000_000 + number) for number in range(first, first + count)]


def heads(store: Store) -> list[int]:
    """The sizes of all checkpoints."""
    with store.reading() as connection:
        return [row.size for row in log.checkpoints(connection)]


@pytest.mark.parametrize("change", ["SET body = '{}'", "SET hash = zeroblob(32)"])
def test_an_event_that_was_changed_while_it_waited_gets_no_place(store: Store, change: str) -> None:
    one = sequencer(store)
    assert one.round()
    event, _ = add(store, 0, 2)
    tamper(store, f"UPDATE event {change} WHERE id = :id", id=event)
    with pytest.raises(LogDamagedError, match=event):
        one.round()
    assert heads(store) == [0]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE event SET body = replace(body, 'sis', 'sas') WHERE id = :id",
        "UPDATE log_leaf SET hash = zeroblob(32) WHERE event_id = :id",
        "DELETE FROM log_leaf WHERE event_id = :id",
        "DELETE FROM event WHERE id = :id",
    ],
)
def test_before_signing_it_reads_again_what_it_signs(store: Store, change: str) -> None:
    """The entry was whole when it got its place, and is not when the head over it would be signed."""
    one = sequencer(store)
    assert one.round()
    events = add(store, 0, 3)
    assert one._move() == 3
    with store.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    tamper(store, change, id=events[1])
    with pytest.raises(LogDamagedError):
        one._seal()
    assert heads(store) == [0]


@pytest.mark.parametrize("level", [0, 1])
def test_a_stored_hash_below_what_was_signed_is_missed_before_anything_more_is_signed(store: Store, level: int) -> None:
    key = LogKey()
    add(store, 0, 300)
    assert sequencer(store, key).round()
    table = "log_node WHERE position = 0" if level else "log_leaf WHERE position = 270"
    tamper(store, f"UPDATE {table.replace(' WHERE', ' SET hash = zeroblob(32) WHERE')}")
    add(store, 300, 1)
    with pytest.raises(LogDamagedError, match="are not those of checkpoint 1"):
        sequencer(store, key).round()  # a server that has no memory of its own
    assert heads(store) == [300]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Running]:
    directory = tmp_path / "witnessed"
    directory.mkdir()
    running = Running(directory)
    yield running
    running.server.close()


@pytest.mark.parametrize("tells", [True, False], ids=["the witness tells", "the witness only refuses"])
@pytest.mark.parametrize("grown", [0, 9], ids=["shorter", "another history, longer"])
def test_a_restored_database_is_not_sealed_against_the_witness(
    tmp_path: Path, witness: Running, monkeypatch: pytest.MonkeyPatch, tells: bool, grown: int
) -> None:
    """There is no checkpoint file, and the server that starts has no memory: the witness alone knows more."""
    first = new_store(tmp_path / "first.db")
    add(first, 0, 5)
    assert sequencer(first, KEY, witness.client()).round()
    first.close()
    shutil.copy(tmp_path / "first.db", tmp_path / "backup.db")
    first = new_store(tmp_path / "first.db")
    add(first, 5, 4)
    assert sequencer(first, KEY, witness.client()).round()
    first.close()
    assert [size for size, _ in witness.cosigned()] == [5, 9]
    backup = new_store(tmp_path / "backup.db")
    add(backup, 100, grown)
    if not tells:
        asked: list[str] = []
        latest = Witness.latest

        def silent_at_first(client: Witness, origin: str) -> str | None:
            asked.append(origin)
            if len(asked) == 1:
                raise SinkError("away")
            return latest(client, origin)

        monkeypatch.setattr(Witness, "latest", silent_at_first)
    with pytest.raises(LogDamagedError, match="witness"):
        sequencer(backup, KEY, witness.client()).round()
    assert heads(backup) == [5]
    assert [size for size, _ in witness.cosigned()] == [5, 9]
    backup.close()


@pytest.mark.parametrize("appended", ["", "\n", "\n\n", "\n\n\n", "FIRST", "\nFIRST", "x\n3\ny\ntime 9\n\n— x\n\n"])
def test_a_restored_database_is_not_sealed_whatever_was_appended_to_the_checkpoint_file(
    tmp_path: Path, appended: str
) -> None:
    """It may be a file that can only grow: nothing behind a checkpoint may take it back."""
    key, kept = LogKey(), tmp_path / "checkpoints"
    first = new_store(tmp_path / "first.db")
    add(first, 0, 5)
    assert sequencer(first, key, file=kept).round()
    first.close()
    shutil.copy(tmp_path / "first.db", tmp_path / "backup.db")
    first = new_store(tmp_path / "first.db")
    add(first, 5, 4)
    assert sequencer(first, key, file=kept).round()
    first.close()
    note, _, _ = kept.read_text().partition("\n\nvault.")
    with kept.open("a") as file:
        file.write(appended.replace("FIRST", f"{note}\n\n"))
    backup = new_store(tmp_path / "backup.db")
    with pytest.raises(LogDamagedError, match="the checkpoint file has 9"):
        sequencer(backup, key, file=kept).round()
    assert heads(backup) == [5]
    backup.close()


@pytest.mark.parametrize(("max_unsealed", "every"), [(300, 60), (60, 20)])
def test_silence_is_signed_every_minute_or_sooner_where_less_may_be_unsealed(
    store: Store, monkeypatch: pytest.MonkeyPatch, max_unsealed: float, every: int
) -> None:
    now = [0]
    watch = SimpleNamespace(monotonic=lambda: now[0], time_ns=time.time_ns)
    monkeypatch.setattr("vault_service.audit.sequencer.time", watch)
    one = sequencer(store, max_unsealed=max_unsealed)
    signed = []
    for second in range(3 * every + 1):
        now[0] = 1_000 + second
        before = len(heads(store))
        assert one.round()
        signed += [second] * (len(heads(store)) - before)
    assert signed == [0, every, 2 * every, 3 * every]


def test_a_checkpoint_goes_to_the_log_stream_as_it_was_stored(store: Store, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    add(store, 0, 2)
    assert sequencer(store, stream=stream).round()
    with store.reading() as connection:
        newest = log.newest_checkpoint(connection)
    assert newest is not None
    (line,) = stream.read_text().splitlines()
    assert json.loads(line) == {"logger": "ssn_vault.checkpoints", "note": newest.note}


def test_a_sink_is_as_fresh_as_the_checkpoint_that_it_has_however_late_that_is_written_down(
    store: Store, tmp_path: Path
) -> None:
    assert sequencer(store, file=tmp_path / "checkpoints").round()
    with store.reading() as connection:
        newest, sinks = log.newest_checkpoint(connection), log.sinks(connection)
    assert newest is not None
    assert sinks["file"].acknowledged_at == newest.at
    with store.transaction() as tx:
        log.acknowledge(tx, "file", 0, tx.now_ms + 60_000)  # a clock ahead makes nothing fresher
        assert log.sinks(tx.connection)["file"].acknowledged_at == tx.now_ms
