"""What reads the server's output stalls or ends: calls fail at once, nothing is recorded, and all heals by itself."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.conftest import new_database_url
from tests.support.fifo import Fifo
from tests.support.servers import another_server, http, until
from tests.support.stack import ServerProcess, Stack
from tests.support.wire import SECONDS, refused, stub_of

ONE = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn="937-01-0001")])


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = new_database_url("postgresql", request)
    with Stack(tmp_path_factory.mktemp("reader"), database_url=url) as stack:
        yield stack


def events(stack: Stack) -> int:
    return int(stack.query("SELECT count(*) FROM event")[0][0])


def reason(stack: Stack, server: ServerProcess) -> str:
    with stub_of(stack.profile("sis", server)) as stub:
        return refused(lambda: stub.Tokenize(ONE, timeout=SECONDS)).reason


def tokenizes(stack: Stack, server: ServerProcess) -> bool:
    with stub_of(stack.profile("sis", server)) as stub:
        return bool(stub.Tokenize(ONE, timeout=SECONDS).results[0].token)


def is_refused_without_a_record(stack: Stack, server: ServerProcess, why: str) -> None:
    until(lambda: http(server, "/readyz")[0] == 503 and f"log: {why}\n" in http(server, "/readyz")[1])
    before = events(stack)
    for _ in range(20):
        assert reason(stack, server) == "AUDIT_UNAVAILABLE"
    assert events(stack) == before
    assert http(server, "/livez")[0] == 200


def test_a_reader_that_stalls(own: Stack, tmp_path: Path) -> None:
    fifo = Fifo(tmp_path / "output")
    with another_server(own, log=tmp_path / "output") as server:
        assert tokenizes(own, server)
        read = fifo.read()
        fifo.fill()
        assert reason(own, server) == "AUDIT_UNAVAILABLE"
        is_refused_without_a_record(own, server, "the log's reader does not read")

        def reads_again() -> bool:
            read.extend(fifo.read())
            return server.is_ready()

        until(reads_again)
        assert tokenizes(own, server)
        read += fifo.read()
        hashes = [event for line in map(json.loads, read) for event in line.get("events", ())]
        ours = own.query('SELECT count(*) FROM event WHERE body LIKE \'%"kind":"tokenize"%\'')
        assert len(hashes) >= ours[0][0]  # also of the call that failed: its hash left when it could
        fifo.fill()
        assert server.stop() == 0


def test_a_reader_that_ends_and_another_one(own: Stack, tmp_path: Path) -> None:
    fifo = Fifo(tmp_path / "output")
    with another_server(own, log=tmp_path / "output") as server:
        assert tokenizes(own, server)
        os.close(fifo.writer)  # the server's is the only one left
        os.close(fifo.reader)
        is_refused_without_a_record(own, server, "the log's reader has ended: a new one is waited for")
        fifo.open()

        def reads_again() -> bool:
            fifo.read()
            return server.is_ready()

        until(reads_again)
        assert tokenizes(own, server)
        assert server.stop() == 0
