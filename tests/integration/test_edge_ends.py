"""The server at its bounds and at its end, and with probes that hang up and paths that go silent."""

import asyncio
import json
import os
import queue
import signal
import socket
import ssl
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ssn_vault_client import Client, Ssn, SsnVaultError, TokenizeItem
from ssnvault.v1 import ssn_vault_pb2 as pb
from ssnvault.v1.ssn_vault_pb2_grpc import SsnVaultStub
from tests.conftest import new_database_url
from tests.integration.test_edge import ONE, waits
from tests.support.inside import unread_log
from tests.support.path import Path
from tests.support.servers import another_server, http, until
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from tests.support.wire import SECONDS, Failure, channel_of, failure_of, refused, stub_of
from vault_service.app import serving
from vault_service.config import load_settings
from vault_service.errors import ConfigurationError


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("ends"), database_url=new_database_url("postgresql", request)) as stack:
        yield stack


# Bounds


def test_a_call_that_can_never_be_taken_on_is_too_large_and_not_told_to_wait(own: Stack) -> None:
    tokens = ["k12_A"] * 32_769  # one more than the server works on at once
    request = pb.DetokenizeRequest(
        domain="k12", tokens=tokens, purpose="transcript-verification", justification=JUSTIFICATION
    )
    with stub_of(own.profile("sis")) as stub:
        failure = refused(lambda: stub.Detokenize(request, timeout=SECONDS))
    assert (failure.status, failure.reason, failure.retry_seconds) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE", None)


def test_a_client_has_no_more_streams_at_once_on_a_connection_than_the_server_works_on(own: Stack) -> None:
    """The fifth call is not even sent before one of the four has ended."""
    with another_server(own, LIMITS__CALLS_AT_ONCE=4) as server, stub_of(own.profile("sis", server)) as stub:
        stub.Tokenize(ONE, timeout=SECONDS)  # the server's settings have arrived
        held = queue.SimpleQueue[pb.TokenizeRequest | None]()
        streams = [stub.TokenizeStream(iter(held.get, None), timeout=SECONDS) for _ in range(4)]
        for _ in streams:
            held.put(ONE)
        started = [next(stream) for stream in streams[:1]]
        assert started[0].results[0].token
        failure = refused(lambda: stub.Tokenize(ONE, timeout=3))
        assert failure.status == "DEADLINE_EXCEEDED"
        for _ in streams:
            held.put(None)
        for stream in streams:
            stream.cancel()
        until(lambda: bool(stub.Tokenize(ONE, timeout=SECONDS).results[0].token))


def test_metadata_up_to_its_bound_is_taken_and_beyond_it_refused(own: Stack) -> None:
    """16 KiB, sharp: left to itself gRPC refuses some from 8 KiB on, by chance."""
    with stub_of(own.profile("sis")) as stub:
        for _ in range(20):
            filler = (("ssn-vault-filler", "x" * 15_000),)
            assert stub.Tokenize(ONE, timeout=SECONDS, metadata=filler).results[0].token
            filler = (("ssn-vault-filler", "x" * 16_500),)
            assert refused(lambda: stub.Tokenize(ONE, timeout=SECONDS, metadata=filler)).status == "RESOURCE_EXHAUSTED"  # noqa: B023 - called at once


# The beginning


def test_both_ports_can_be_of_ipv6(own: Stack) -> None:
    with another_server(own, wait=False, SERVER__HOST="::1", SERVER__METRICS_HOST="[::1]") as server:

        def answers() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"http://[::1]:{server.metrics_port}/readyz") as answer:
                return bool(answer.status == 200)
            return False

        until(answers)
        # The certificate names localhost and 127.0.0.1; how the address is written is all that matters here.
        raw = socket.create_connection(("::1", server.port))
        context = ssl.create_default_context(cafile=str(own.certificates.ca))
        with context.wrap_socket(raw, server_hostname="localhost") as secured:
            assert secured.getpeercert()


def test_a_start_that_fails_half_way_leaves_no_thread_behind(own: Stack) -> None:
    settings = load_settings(own.home.config_file)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = settings.server.model_copy(update={"port": 0, "metrics_port": taken.getsockname()[1]})
        failing = settings.model_copy(update={"server": server})

        async def start() -> None:
            async with serving(failing, unread_log()):
                raise AssertionError

        unread_log()
        before = {thread.name for thread in threading.enumerate()}
        with pytest.raises(ConfigurationError, match="listens there already"):
            asyncio.run(start())
    left = {thread.name for thread in threading.enumerate()} - before
    assert not {name for name in left if not name.startswith("Thread-")}  # gRPC's own


# The end


def test_calls_that_do_not_finish_before_the_end_get_an_answer(own: Stack) -> None:
    ended: list[Failure] = []
    with (
        another_server(own, SERVER__DRAIN_SECONDS=1) as server,
        own.superuser() as engine,
        stub_of(own.profile("sis", server)) as stub,
    ):
        idle = queue.SimpleQueue[pb.TokenizeRequest]()
        stream = stub.TokenizeStream(iter(idle.get, None), timeout=SECONDS)
        idle.put(ONE)
        assert next(stream).results[0].token
        with engine.begin() as holding:
            holding.exec_driver_sql("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
            call = stub.Tokenize.future(ONE, timeout=SECONDS)
            until(lambda: waits(own))
            os.kill(server.pid, signal.SIGTERM)
            ended.append(refused(lambda: next(stream)))
            ended.append(refused(call.result))
        assert server.stop() == 0
    assert [(one.status, one.reason) for one in ended] == [("UNAVAILABLE", "STORE_UNAVAILABLE")] * 2
    assert all(one.retry_seconds for one in ended)


def test_no_call_is_cancelled_by_a_server_that_ends_under_load(own: Stack) -> None:
    failures: list[Failure] = []
    answered = [0]
    over = threading.Event()

    def call_on(server: ServerProcess) -> None:
        with stub_of(own.profile("sis", server)) as stub:
            while not over.is_set():
                calls = [stub.Tokenize.future(ONE, timeout=SECONDS) for _ in range(20)]
                for call in calls:
                    if isinstance(error := call.exception(), grpc.RpcError):
                        failures.append(failure_of(error))
                    else:
                        answered[0] += 1

    with another_server(own) as server:
        callers = [threading.Thread(target=call_on, args=(server,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        until(lambda: answered[0] > 200)
        assert server.stop() == 0
        until(lambda: len(failures) > 20)
        over.set()
        for caller in callers:
            caller.join()
    assert {failure.status for failure in failures} == {"UNAVAILABLE"}


def test_a_hangup_does_not_end_it(own: Stack) -> None:
    os.kill(own.server.pid, signal.SIGHUP)
    with stub_of(own.profile("sis")) as stub:
        assert stub.Tokenize(ONE, timeout=SECONDS).results[0].token
    assert own.server.is_running()


# Probes and paths


def reset(connection: socket.socket) -> None:
    """Hang up with RST, as load balancers' probes do."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_probes_that_hang_up_write_nothing(own: Stack) -> None:
    profile = own.profile("sis")
    context = ssl.create_default_context(cafile=str(profile.ca))
    context.load_cert_chain(profile.cert, profile.key)
    context.set_alpn_protocols(["h2"])

    def tls() -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", own.server.port))
        return context.wrap_socket(raw, server_hostname="localhost")

    before = len(own.log.read_text().splitlines())
    for _ in range(5):
        for port in (own.server.port, own.server.metrics_port):
            for said in (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"GET /"):
                probe = socket.create_connection(("127.0.0.1", port))
                probe.sendall(said)
                time.sleep(0.01)  # so that the server is in the middle of it
                reset(probe)
        reset(tls())
        half = tls()
        half.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        reset(half)
        with channel_of(profile) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # the stubs do not know its methods
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
            next(iter(watch))
            watch.cancel()
            stub = SsnVaultStub(channel)
            for _ in range(20):
                stub.Tokenize.future(ONE, timeout=SECONDS).cancel()
    until(lambda: "ssn_vault_http_interrupted_total 0.0" not in http(own.server, "/metrics")[1])
    with stub_of(profile) as stub:
        assert stub.Tokenize(ONE, timeout=SECONDS).results[0].token
    said_now = [json.loads(line) for line in own.log.read_text().splitlines()[before:]]  # each is a line of the log
    assert {line.get("logger") for line in said_now} <= {"ssn_vault.events", "ssn_vault.checkpoints"}


def test_a_client_finds_another_way_when_its_path_goes_silent(own: Stack) -> None:
    with Path(own.server.port) as path:
        profile = replace(own.profile("sis", timeout=2), address=f"127.0.0.1:{path.port}")
        with Client(profile) as client:

            def tokenizes() -> bool:
                try:
                    return bool(client.tokenize("k12", [TokenizeItem(Ssn("936-01-0004"))])[0].token)
                except SsnVaultError:
                    return False

            assert tokenizes()
            path.swallow()
            assert not tokenizes()
            until(tokenizes, 60)


def test_an_idle_client_may_ask_whether_its_path_is_there(own: Stack) -> None:
    """gRPC would take its questions for an attack and end the connection."""
    with Path(own.server.port) as path:
        profile = replace(own.profile("sis"), address=f"127.0.0.1:{path.port}")
        with Client(profile) as client:
            client.tokenize("k12", [TokenizeItem(Ssn("936-01-0005"))])
            time.sleep(45)  # four questions; the third too many ended it
            client.tokenize("k12", [TokenizeItem(Ssn("936-01-0005"))])
        assert path.connections == 1
