"""Every event's hash leaves the process in whole lines, or the call fails with AUDIT_UNAVAILABLE."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.servers import until
from vault_service.audit.event import record
from vault_service.audit.stream import HashStream
from vault_service.errors import CallError, Reason
from vault_service.log_writer import LogWriter
from vault_service.storage.events import EventRow


def _events(count: int = 1) -> list[EventRow]:
    return [record(f"event-{number}", "tokenize", number, {"client": "sis"}).event for number in range(count)]


@contextlib.contextmanager
def _stream(descriptor: int) -> Iterator[HashStream]:
    writer = LogWriter(descriptor, deadline=0.2)
    yield HashStream(writer)
    writer.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[HashStream, Path]]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with _stream(descriptor) as stream:
        yield stream, path
    os.close(descriptor)


def _refused(stream: HashStream, events: list[EventRow]) -> bool:
    try:
        stream.announce(events)
    except CallError as error:
        return error.reason is Reason.AUDIT_UNAVAILABLE
    return False


def test_one_line_a_transaction_names_each_event_and_its_hash(log: tuple[HashStream, Path]) -> None:
    stream, path = log
    events = _events(3)
    stream.announce(events)
    stream.announce(events[:1])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"logger": "ssn_vault.events", "events": [[e.id, e.hash.hex()] for e in events]},
        {"logger": "ssn_vault.events", "events": [[events[0].id, events[0].hash.hex()]]},
    ]


def test_nothing_of_an_events_facts_is_written(log: tuple[HashStream, Path]) -> None:
    log[0].announce(_events())
    assert "sis" not in log[1].read_text()


def test_no_events_need_no_stream() -> None:
    with _stream(os.open("/dev/full", os.O_WRONLY)) as stream:
        assert _refused(stream, _events())
        assert not _refused(stream, [])


def test_a_closed_descriptor_fails_the_call(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.close(descriptor)
    with _stream(descriptor) as stream:
        assert _refused(stream, _events())


def test_a_reader_that_went_away_fails_the_call() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with _stream(writing) as stream:
        assert _refused(stream, _events())
    os.close(writing)


def test_a_full_device_fails_the_call() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with _stream(descriptor) as stream:
        assert _refused(stream, _events())
        assert _refused(stream, _events(2))
    os.close(descriptor)


@pytest.mark.parametrize("blocking", [True, False])
def test_events_of_calls_that_a_full_pipe_failed_leave_in_whole_lines_when_it_is_read(blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    with _stream(writing) as stream:
        assert _refused(stream, _events(20_000))
        assert _refused(stream, _events(2))
        taken = b""
        while taken.count(b"\n") < 20_000 / 32 + 1:
            taken += os.read(reading, 65_536)
        until(lambda: not stream.trouble)
        stream.announce(_events(3))
        rest = os.read(reading, 65_536)
    os.close(reading)
    os.close(writing)
    assert [len(json.loads(line)["events"]) for line in taken.splitlines()] == [32] * 625 + [2]
    assert len(json.loads(rest)["events"]) == 3


def test_after_a_line_that_was_cut_off_the_next_starts_afresh(
    log: tuple[HashStream, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes half a line and is full, until there is room again."""
    (stream, path), write = log, os.write

    def half(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", full)
        return write(descriptor, data[: len(data) // 2])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", half)
    assert _refused(stream, _events())
    monkeypatch.setattr(os, "write", write)
    until(lambda: not stream.trouble)
    stream.announce(_events(2))
    broken, *whole = path.read_text().splitlines()
    with pytest.raises(ValueError, match=r"JSON|Unterminated|Expecting"):
        json.loads(broken)
    assert [len(json.loads(line)["events"]) for line in whole] == [1, 2]


def test_lines_of_many_threads_do_not_mix(log: tuple[HashStream, Path]) -> None:
    stream, path = log
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda size: stream.announce(_events(size)), [1, 7, 40] * 40))
    sizes = [len(json.loads(line)["events"]) for line in path.read_text().splitlines()]
    assert sorted(sizes) == sorted([1, 7, 32, 8] * 40)  # 40 are more than a pipe takes in one piece
