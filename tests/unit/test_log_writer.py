"""A log whose reader stalls or ends holds nobody up for longer than the deadline, and works again by itself."""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.fifo import Fifo
from tests.support.servers import until
from vault_service.log_writer import LogWriter, NotWrittenError


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    made = Fifo(tmp_path / "fifo")
    yield made
    for descriptor in (made.reader, made.writer):
        with suppress(OSError):
            os.close(descriptor)


@pytest.fixture
def log(fifo: Fifo) -> Iterator[LogWriter]:
    writer = LogWriter(fifo.writer, deadline=0.2)
    yield writer
    fifo.read()
    writer.close()


def test_a_reader_that_stalls_fails_writes_and_heals_when_it_reads(fifo: Fifo, log: LogWriter) -> None:
    log.write(["one"])
    fifo.fill()
    for line in ("two", "three"):
        with pytest.raises(NotWrittenError):
            log.write([line])
    assert log.trouble == "the log's reader does not read"
    until(lambda: fifo.gather() == ["one", "two", "three"])
    until(lambda: not log.trouble)
    log.write(["four"])
    assert fifo.read() == ["four"]


def test_once_a_line_is_stuck_nobody_waits_for_the_deadline(fifo: Fifo, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(fifo.writer, deadline=3.0)
    fifo.fill()
    with pytest.raises(NotWrittenError):
        log.write(["stuck"])
    until(lambda: bool(log.trouble))
    waited: list[float | None] = []
    monkeypatch.setattr(log._changed, "wait_for", lambda _, timeout: waited.append(timeout))
    for _ in range(100):
        with pytest.raises(NotWrittenError):
            log.write(["more"])
    assert not waited
    monkeypatch.undo()
    fifo.read()
    log.close()


def test_ordinary_lines_never_wait_and_what_was_dropped_is_counted(fifo: Fifo, log: LogWriter) -> None:
    fifo.fill()

    def chatter() -> None:
        for _ in range(5_000):
            log.say("x" * 100)

    said = threading.Thread(target=chatter)
    said.start()
    said.join(30)
    assert not said.is_alive()
    until(lambda: "dropped" in (fifo.gather() or [""])[-1])
    seen = fifo.seen
    told = json.loads(seen.pop())
    assert told["count"] + len(seen) == 5_000
    assert set(seen) == {"x" * 100}


def test_a_reader_that_ended_is_noticed_without_a_line_and_another_takes_its_place(fifo: Fifo, log: LogWriter) -> None:
    os.close(fifo.reader)
    until(lambda: log.trouble == "the log's reader has ended: a new one is waited for")
    with pytest.raises(NotWrittenError):
        log.write(["kept"])
    fifo.open()
    until(lambda: fifo.gather() == ["kept"])
    until(lambda: not log.trouble)


def test_a_pipe_without_a_name_that_lost_its_reader_says_that_it_stays_so() -> None:
    reader, writer = os.pipe()
    log = LogWriter(writer, deadline=0.2)
    os.close(reader)
    until(lambda: bool(log.trouble))
    assert log.trouble == "the log's reader has ended, and its pipe can get no other: restart the server"
    log.close()
    os.close(writer)


def test_the_descriptors_flags_stay_as_they_are(fifo: Fifo, log: LogWriter) -> None:
    """Others may share it, such as a terminal."""
    log.write(["one"])
    assert not fcntl.fcntl(fifo.writer, fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_stalled_reader_does_not_keep_the_process_from_ending(fifo: Fifo) -> None:
    log = LogWriter(fifo.writer, deadline=0.2)
    fifo.fill()
    log.say("stuck")
    ending = threading.Thread(target=log.close)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()
    fifo.read()
