"""Sealed entries reach their destination in order, each at least once; a destination that is away only delays them."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from vault_service.audit.destinations import File, Line, ShippingError, Stdout
from vault_service.audit.event import Facts, new_event_id, record
from vault_service.audit.merkle import leaf_hash
from vault_service.audit.ocsf import to_ocsf
from vault_service.audit.shipping import LogShipper
from vault_service.log_writer import LogWriter
from vault_service.storage import events, log
from vault_service.storage.engine import Store, open_store
from vault_service.storage.events import EventRow
from vault_service.storage.schema import migrate

ME = "this-server"
MAX_UNSEALED = 300.0  # seconds
LINES = [Line(f'{{"n":{number}}}', 1, 1_790_000_000_000 + number) for number in range(3)]


class Collector:
    """A destination that keeps what it gets, and can be away."""

    def __init__(self) -> None:
        self.away = False
        self.lines: list[Line] = []

    def write(self, lines: Sequence[Line]) -> None:
        if self.away:
            self.lines += lines[:1]  # some may be there all the same
            raise ShippingError("the collector is away")
        self.lines += lines

    @property
    def positions(self) -> list[int]:
        return [json.loads(line.text)["metadata"]["sequence"] for line in self.lines]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sa.make_url(f"sqlite:///{tmp_path / 'log.db'}"))
    migrate(opened)
    with opened.transaction() as tx:
        assert log.claim(tx, ME, 60_000)
    yield opened
    opened.close()


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def shipper(store: Store, collector: Collector) -> LogShipper:
    return LogShipper(store, collector, ME, "1.2.3", MAX_UNSEALED)


def insert(store: Store, rows: Sequence[EventRow], *, sealed: bool = True) -> None:
    """Put events into the log, behind a checkpoint if `sealed`."""
    with store.transaction() as tx:
        events.append(tx, rows, [])
        size = log.size(tx.connection)
        leaves = [log.LeafRow(size + at, row.id, leaf_hash(row.body.encode())) for at, row in enumerate(rows)]
        assert log.append_leaves(tx, leaves, [])
    if sealed:
        seal(store)


def seal(store: Store) -> None:
    with store.transaction() as tx:
        newest = log.newest_checkpoint(tx.connection)
        number = newest.number + 1 if newest else 1
        log.insert_checkpoint(tx, log.CheckpointRow(number, log.size(tx.connection), tx.now_ms, "a note"))


def calls(count: int) -> list[EventRow]:
    facts: Facts = {"client": "sis", "domain": "k12", "items": 2, "outcome": "ok"}
    return [record(new_event_id(), "tokenize", 1_790_000_000_000 + at, facts).event for at in range(count)]


def odd(body: str) -> EventRow:
    return EventRow(new_event_id(), body, sha256(body.encode()).digest())


def cursor(store: Store) -> int | None:
    with store.reading() as connection:
        row = log.sinks(connection).get("ship")
    return row.size if row else None


def acknowledged_at(store: Store) -> int:
    with store.reading() as connection:
        return log.sinks(connection)["ship"].acknowledged_at


def move(store: Store, size: int) -> None:
    """What somebody with the database can do to the position."""
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE log_sink SET size = :size WHERE name = 'ship'"), {"size": size})


def counted() -> float:
    return REGISTRY.get_sample_value("ssn_vault_shipping_position_moved_total") or 0.0


def pass_lease(store: Store, holder: str, to: str) -> None:
    with store.transaction() as tx:
        log.release(tx, holder)
    time.sleep(0.01)
    with store.transaction() as tx:
        assert log.claim(tx, to, 60_000)


def ship_all(shipper: LogShipper) -> None:
    while shipper.round():
        pass


def wait_for(what: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def texts(path: Path) -> list[str]:
    return path.read_text("ascii").splitlines()


# The shipper


def test_sealed_entries_are_shipped_in_order_and_acknowledged(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    rows = calls(620)
    insert(store, rows)
    ship_all(shipper)
    wanted = [to_ocsf(at, json.loads(row.body), "1.2.3") for at, row in enumerate(rows)]
    assert [json.loads(line.text) for line in collector.lines] == wanted
    assert collector.lines[5][1:] == (1, 1_790_000_000_005)
    assert all("\n" not in line.text and line.text.isascii() for line in collector.lines)
    assert cursor(store) == 620
    assert not shipper.round()
    assert len(collector.lines) == 620


def test_what_no_checkpoint_covers_waits(store: Store, shipper: LogShipper, collector: Collector) -> None:
    insert(store, calls(2))
    insert(store, calls(3), sealed=False)
    ship_all(shipper)
    assert collector.positions == [0, 1]
    seal(store)
    ship_all(shipper)
    assert collector.positions == [0, 1, 2, 3, 4]


def test_an_empty_log_is_acknowledged_when_the_destination_is_there(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    collector.away = True
    with pytest.raises(ShippingError):
        shipper.round()
    assert cursor(store) is None
    collector.away = False
    assert not shipper.round()
    assert cursor(store) == 0


def test_an_idle_shipper_asks_the_destination_and_acknowledges_again_and_again(
    store: Store, collector: Collector
) -> None:
    shipper = LogShipper(store, collector, ME, "1.2.3", 0.03)
    insert(store, calls(2))
    shipper.start()
    try:
        wait_for(lambda: cursor(store) == 2)
        for _ in range(3):
            before = acknowledged_at(store)
            wait_for(lambda before=before: acknowledged_at(store) > before)  # type: ignore[misc]
        collector.away = True
        with capture_logs() as told:
            wait_for(lambda: bool(told))
    finally:
        shipper.stop()
    assert told[0]["event"] == "events are not shipped: they wait"
    assert collector.positions == [0, 1]


def test_a_position_beyond_the_log_is_tampering_and_no_event_is_skipped(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    insert(store, calls(3))
    ship_all(shipper)
    tampered = counted()
    move(store, 10**15)
    insert(store, calls(2))
    with capture_logs() as told:
        ship_all(shipper)
    assert collector.positions == [0, 1, 2, 3, 4]
    assert cursor(store) == 5
    assert [(line["log_level"], line["stored"], line["shipped_from"]) for line in told] == [("critical", 10**15, 3)]
    assert counted() == tampered + 1


def test_a_position_that_was_moved_within_the_log_is_tampering_too(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    insert(store, calls(2))
    ship_all(shipper)
    insert(store, calls(3))
    move(store, 4)
    with capture_logs() as told:
        ship_all(shipper)
    assert collector.positions == [0, 1, 2, 3, 4]
    assert [line["log_level"] for line in told] == ["critical"]


@pytest.mark.parametrize("stored", [-1, 6, 10**18])
def test_a_server_that_knows_nothing_ships_all_again_rather_than_nothing(
    store: Store, shipper: LogShipper, collector: Collector, stored: int
) -> None:
    insert(store, calls(5))
    ship_all(shipper)
    move(store, stored)
    with capture_logs() as told:
        ship_all(LogShipper(store, collector, ME, "1.2.3", MAX_UNSEALED))
    assert collector.positions == [0, 1, 2, 3, 4] * 2
    assert [(line["log_level"], line["shipped_from"]) for line in told] == [("critical", 0)]


def test_a_position_that_was_moved_is_mended_when_there_is_nothing_to_ship(store: Store, shipper: LogShipper) -> None:
    insert(store, calls(1))
    ship_all(shipper)
    move(store, 7)
    ship_all(shipper)
    assert cursor(store) == 1


def test_tampering_is_told_once_while_the_destination_is_unavailable(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    insert(store, calls(1))
    ship_all(shipper)
    collector.away = True
    with capture_logs() as told:
        for stored in (7, 7, 8):
            move(store, stored)
            with pytest.raises(ShippingError):
                shipper.round()
    assert [line["stored"] for line in told] == [7, 8]


def test_a_restored_database_ships_on_from_what_it_says_itself(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    insert(store, calls(4))
    ship_all(shipper)
    move(store, 2)  # as the backup has it
    with capture_logs() as told:
        ship_all(shipper)
    assert collector.positions == [0, 1, 2, 3, 2, 3]
    assert told == []


def test_what_another_server_shipped_meanwhile_is_no_tampering(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    insert(store, calls(1))
    ship_all(shipper)
    pass_lease(store, ME, "another-server")
    assert not shipper.round()
    insert(store, calls(2))
    ship_all(LogShipper(store, collector, "another-server", "1.2.3", MAX_UNSEALED))
    pass_lease(store, "another-server", ME)
    with capture_logs() as told:
        ship_all(shipper)
    assert collector.positions == [0, 1, 2]
    assert told == []


def test_a_server_without_the_lease_ships_nothing(store: Store, collector: Collector) -> None:
    insert(store, calls(2))
    assert not LogShipper(store, collector, "another-server", "1.2.3", MAX_UNSEALED).round()
    assert collector.lines == []
    with store.transaction() as tx:
        log.release(tx, ME)
    time.sleep(0.01)
    assert not LogShipper(store, collector, ME, "1.2.3", MAX_UNSEALED).round()
    assert collector.lines == []


def test_the_next_holder_goes_on_where_the_last_one_stopped(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    insert(store, calls(2))
    ship_all(shipper)
    pass_lease(store, ME, "another-server")
    insert(store, calls(2))
    ship_all(LogShipper(store, collector, "another-server", "1.2.3", MAX_UNSEALED))
    assert collector.positions == [0, 1, 2, 3]


def test_what_a_destination_did_not_take_is_sent_again(store: Store, shipper: LogShipper, collector: Collector) -> None:
    insert(store, calls(3))
    collector.away = True
    with pytest.raises(ShippingError):
        shipper.round()
    assert cursor(store) is None
    collector.away = False
    ship_all(shipper)
    assert collector.positions == [0, 0, 1, 2]
    first, again = (json.loads(line.text) for line in collector.lines[:2])
    assert first == again


@pytest.mark.parametrize("body", ["no JSON", "[1]", "7", "null", "[" * 100_000, '{"at":NaN', "1" * 5_000])
def test_an_entry_that_is_no_event_is_told_as_missing(
    store: Store, shipper: LogShipper, collector: Collector, body: str
) -> None:
    rows = [*calls(1), odd(body), *calls(1)]
    insert(store, rows)
    ship_all(shipper)
    assert collector.positions == [0, 1, 2]
    event = json.loads(collector.lines[1].text)
    assert (event["status"], event["status_detail"], event["metadata"]["uid"]) == (
        "Failure",
        "entry missing",
        rows[1].id,
    )
    assert collector.lines[1].severity == 5


def test_entries_that_were_deleted_or_changed_are_told_as_missing(
    store: Store, shipper: LogShipper, collector: Collector
) -> None:
    rows = calls(6)
    insert(store, rows)
    with store.engine.begin() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.execute(sa.text("DELETE FROM event WHERE id = :id"), {"id": rows[1].id})
        connection.execute(sa.text("DELETE FROM log_leaf WHERE position IN (3, 5)"))
        changed = rows[4].body.replace("k12", "k13")
        connection.execute(sa.text("UPDATE event SET body = :body WHERE id = :id"), {"body": changed, "id": rows[4].id})
    ship_all(shipper)
    assert collector.positions == [0, 1, 2, 3, 4, 5]
    events_told = [json.loads(line.text) for line in collector.lines]
    missing = [at for at, event in enumerate(events_told) if event.get("status_detail") == "entry missing"]
    assert missing == [1, 3, 4, 5]
    uids = [event["metadata"].get("uid") for event in events_told]
    assert uids == [rows[0].id, rows[1].id, rows[2].id, None, rows[4].id, None]


def test_the_thread_catches_up_after_an_outage_and_tells_it_once(
    store: Store, shipper: LogShipper, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vault_service.audit.shipping._POLL_SECONDS", 0.01)
    monkeypatch.setattr("vault_service.audit.shipping._RETRY_SECONDS", 0.01)
    collector.away = True
    insert(store, calls(300))
    with capture_logs() as told:
        shipper.start()
        try:
            wait_for(lambda: len(collector.lines) > 5)
            collector.away = False
            wait_for(lambda: cursor(store) == 300)
            insert(store, calls(1))
            wait_for(lambda: cursor(store) == 301)
        finally:
            shipper.stop()
    assert set(collector.positions) == set(range(301))
    assert [(line["event"], line["waiting"]) for line in told] == [
        ("events are not shipped: they wait", 300),
        ("events are shipped again", 50),
    ]


def test_a_defect_ends_no_thread(store: Store, shipper: LogShipper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault_service.audit.shipping._POLL_SECONDS", 0.01)
    monkeypatch.setattr("vault_service.audit.shipping._RETRY_SECONDS", 0.01)
    insert(store, calls(1))
    with monkeypatch.context() as broken, capture_logs() as told:
        broken.setattr(Collector, "write", lambda *_: 1 // 0)
        shipper.start()
        wait_for(lambda: bool(told))
    wait_for(lambda: cursor(store) == 1)
    shipper.stop()
    assert told[0]["detail"] == "ZeroDivisionError"


def test_a_database_that_is_away_ends_no_thread(tmp_path: Path, collector: Collector) -> None:
    nothing_there = open_store(sa.make_url(f"sqlite:///{tmp_path / 'empty.db'}"))
    shipper = LogShipper(nothing_there, collector, ME, "1.2.3", MAX_UNSEALED)
    with capture_logs() as told:
        shipper.start()
        wait_for(lambda: bool(told))
        shipper.stop()
    nothing_there.close()
    assert [line["detail"] for line in told] == ["OperationalError SQLITE_ERROR"]


# Standard output and files


def test_standard_output_gets_exactly_the_lines() -> None:
    reader, writer = os.pipe()
    log = LogWriter(writer)
    Stdout(log).write(LINES)
    log.close()
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read().splitlines() == [line.text for line in LINES]


def test_standard_output_that_is_closed_has_not_taken_them() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = LogWriter(writer)
    with pytest.raises(ShippingError, match="restart the server"):
        Stdout(log).write(LINES)
    log.close()
    os.close(writer)


def test_lines_for_a_standard_output_that_is_closed_are_not_kept_for_later(tmp_path: Path) -> None:
    """The next attempt sends them: kept as well, they would come again and again."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    os.close(reader)
    log = LogWriter(writer)
    wait_for(lambda: bool(log.trouble))
    for _ in range(3):
        with pytest.raises(ShippingError):
            Stdout(log).write(LINES)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as pipe:
        wait_for(lambda: not log.trouble)
        Stdout(log).write(LINES)
        log.close()
        os.close(writer)
        assert pipe.read().splitlines() == [line.text for line in LINES]


def test_a_file_has_the_lines_on_its_disk_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    path = tmp_path / "audit.jsonl"
    File(path).write(LINES[:1])
    File(path).write(LINES[1:])
    file, directory = path.stat().st_ino, tmp_path.stat().st_ino
    assert synced == [file, directory, file]


def test_a_file_gets_exactly_the_lines_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    destination = File(path)
    destination.write(LINES[:2])
    destination.write(LINES[2:])
    assert texts(path) == [line.text for line in LINES]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_rotated_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    destination = File(path)
    destination.write(LINES[:1])
    path.rename(tmp_path / "audit.jsonl.1")
    destination.write(LINES[1:2])
    path.rename(tmp_path / "audit.jsonl.2")
    path.touch(0o640)
    destination.write(LINES[2:])
    found = [texts(tmp_path / name) for name in ("audit.jsonl.1", "audit.jsonl.2", "audit.jsonl")]
    assert found == [[line.text] for line in LINES]


def test_a_line_that_was_cut_off_stays_apart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"cut')
    File(path).write(LINES)
    assert texts(path) == ['{"cut', *(line.text for line in LINES)]


def test_a_file_that_cannot_be_written_has_not_taken_them(tmp_path: Path) -> None:
    with pytest.raises(ShippingError, match="FileNotFoundError 2"):
        File(tmp_path / "away" / "audit.jsonl").write(LINES)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ShippingError, match="no regular file"):
        File(tmp_path / "fifo").write(LINES)
