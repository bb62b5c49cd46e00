"""The server's edge: who gets in, when it says that it serves, what it refuses to take on, and how it ends."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ssn_vault_client import Profile
from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.conftest import new_database_url
from tests.support.authority import Authority
from tests.support.postgres import data_directory, postgres_server, server_url
from tests.support.servers import (
    another_server,
    http,
    presented,
    resident_bytes,
    run_as_owner,
    serve,
    until,
    write_config,
)
from tests.support.stack import ServerProcess, Stack, free_port
from tests.support.wire import SECONDS, channel_of, failure_of, refused, stub_of
from vault_service.dev.bootstrap import issue_server_certificate
from vault_service.storage.engine import open_store
from vault_service.storage.schema import migrate

SERVICE = "ssnvault.v1.SsnVault"
ONE = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn="936-01-0001")])
MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that tests break and mend."""
    with Stack(tmp_path_factory.mktemp("edge"), database_url=new_database_url("postgresql", request)) as stack:
        yield stack


def tokenizes(profile: Profile) -> bool:
    with stub_of(profile) as stub:
        return bool(stub.Tokenize(ONE, timeout=SECONDS).results[0].token)


# Who gets in


def test_nobody_gets_in_without_a_certificate_of_the_right_authority(own: Stack, tmp_path: Path) -> None:
    name = x509.UniformResourceIdentifier("spiffe://ssn-vault.dev/client/sis")
    cert, key = Authority(tmp_path).issue("sis", [name])
    with stub_of(replace(own.profile("sis"), cert=cert, key=key)) as stub:
        elsewhere = refused(lambda: stub.Tokenize(ONE, timeout=SECONDS))
    credentials = grpc.ssl_channel_credentials(own.certificates.ca.read_bytes())
    with grpc.secure_channel(own.server.address, credentials) as channel:
        without = refused(lambda: health_of(channel))
    with grpc.insecure_channel(own.server.address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        plain = refused(lambda: health_of(channel))
    assert {failure.status for failure in (elsewhere, without, plain)} == {"UNAVAILABLE"}
    assert {failure.reason for failure in (elsewhere, without, plain)} == {""}


def test_a_certificate_names_exactly_one_client_of_our_trust_domain(own: Stack, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(own.certificates.ca.read_bytes() + authority.ca.read_bytes())

    def uris(*paths: str) -> list[x509.GeneralName]:
        return [x509.UniformResourceIdentifier(f"spiffe://{path}") for path in paths]

    nobody: dict[str, list[x509.GeneralName]] = {
        "none": [],
        "dns": [x509.DNSName("sis")],
        "two": uris("ssn-vault.dev/client/sis", "ssn-vault.dev/client/registrar"),
        "twice": uris("ssn-vault.dev/client/sis", "elsewhere.example/client/sis"),
        "elsewhere": uris("elsewhere.example/client/sis"),
        "longer": uris("ssn-vault.dev.example/client/sis"),
        "person": uris("ssn-vault.dev/person/sis"),
        "below": uris("ssn-vault.dev/client/sis/x"),
        "capital": uris("ssn-vault.dev/client/SIS"),
    }
    with another_server(own, SERVER__CLIENT_CA=both) as server:
        for kind, names in nobody.items():
            cert, key = authority.issue(kind, names)
            profile = replace(own.profile("sis", server), cert=cert, key=key)
            with stub_of(profile) as stub, pytest.raises(grpc.RpcError) as caught:
                stub.Tokenize(ONE, timeout=SECONDS)
            failure = failure_of(caught.value)
            assert (failure.status, failure.reason) == ("PERMISSION_DENIED", "NOT_PERMITTED"), kind
        for life, allowed in ((89, True), (3650, False)):
            cert, key = authority.issue("sis", uris("ssn-vault.dev/client/sis"), timedelta(days=life))
            profile = replace(own.profile("sis", server), cert=cert, key=key)
            with stub_of(profile) as stub:
                if allowed:
                    assert stub.Tokenize(ONE, timeout=SECONDS).results[0].token
                else:
                    failure = refused(lambda: stub.Tokenize(ONE, timeout=SECONDS))
                    assert (failure.status, failure.reason) == ("PERMISSION_DENIED", "NOT_PERMITTED")


def test_a_new_server_certificate_is_used_without_a_restart_or_a_failed_call(own: Stack) -> None:
    files = own.certificates.server
    before = presented(own)
    root = own.root()
    issued = issue_server_certificate(root)
    root.close()
    answered, failed = [0], [0]
    over = threading.Event()

    def call_on() -> None:
        with stub_of(own.profile("sis")) as kept:
            while not over.is_set():
                try:
                    kept.Tokenize(ONE, timeout=SECONDS)
                    answered[0] += tokenizes(own.profile("sis"))
                except grpc.RpcError:
                    failed[0] += 1

    caller = threading.Thread(target=call_on)
    caller.start()
    try:
        until(lambda: answered[0] > 2)
        for path, text in ((files.key, issued.key), (files.cert, issued.chain)):
            fresh = path.with_name("fresh")
            fresh.write_text(text)
            fresh.replace(path)
            seen = answered[0]
            until(lambda: answered[0] > seen + 2)  # noqa: B023 - called at once
    finally:
        over.set()
        caller.join()
    assert failed == [0]
    after = presented(own)
    assert after != before
    assert after == x509.load_pem_x509_certificate(issued.chain.encode()).serial_number


# Whether it serves


def health_of(channel: grpc.Channel, service: str = SERVICE) -> str:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # the stubs do not know its methods
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_health_follows_keys_and_store(own: Stack) -> None:
    own.openbao.stop()
    with another_server(own, wait=False, KEYS__LEASE_SECONDS=2) as server:
        server.wait_listening()
        with channel_of(own.profile("sis", server)) as channel:

            def becomes(expected: str) -> None:
                until(lambda: health_of(channel) == health_of(channel, "") == expected)
                assert http(server, "/livez")[0] == 200
                until(lambda: http(server, "/readyz")[0] == (200 if expected == "SERVING" else 503))

            becomes("NOT_SERVING")
            own.openbao.start()
            becomes("SERVING")
            run_as_owner(own, "ALTER TABLE control RENAME TO away")
            becomes("NOT_SERVING")
            run_as_owner(own, "ALTER TABLE away RENAME TO control")
            becomes("SERVING")
            own.openbao.stop()
            becomes("NOT_SERVING")
            own.openbao.start()
            becomes("SERVING")
    own.server.wait_ready()


def test_metrics_count_calls_by_outcome(own: Stack) -> None:
    def counted(outcome: str) -> float:
        lines = http(own.server, "/metrics")[1].splitlines()
        name = f'ssn_vault_calls_total{{method="Tokenize",outcome="{outcome}"}} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = counted("OK"), counted("NOT_PERMITTED")
    assert tokenizes(own.profile("sis"))
    with stub_of(own.profile("registrar")) as stub:
        refused(lambda: stub.Tokenize(ONE, timeout=SECONDS))
    assert (counted("OK"), counted("NOT_PERMITTED")) == (before[0] + 1, before[1] + 1)
    assert http(own.server, "/anything")[0] == 404


def test_methods_are_listed_only_where_that_is_configured(own: Stack) -> None:
    def listed(server: ServerProcess) -> list[str]:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with channel_of(own.profile("sis", server)) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # the stubs do not know its methods
            (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
        return [service.name for service in answer.list_services_response.service]

    assert SERVICE in listed(own.server)
    with another_server(own, SERVER__REFLECTION="false") as server:
        assert refused(lambda: listed(server)).status == "UNIMPLEMENTED"


# What it does not take on


def test_a_call_whose_deadline_is_nearly_over_is_not_begun(own: Stack) -> None:
    def events() -> int:
        return int(own.query("SELECT count(*) FROM event")[0][0])

    with another_server(own, LIMITS__LEAST_SECONDS_LEFT=20) as server, stub_of(own.profile("sis", server)) as stub:
        before = events()
        failure = refused(lambda: stub.Tokenize(ONE, timeout=10))
        assert (failure.status, failure.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert refused(lambda: list(stub.TokenizeStream(iter([ONE]), timeout=10))).reason == "OVERLOADED"
        assert events() == before
        assert stub.Tokenize(ONE, timeout=60).results[0].token
        assert stub.Tokenize(ONE).results[0].token


def test_counted_refusals_name_no_client_that_the_policy_does_not_know(own: Stack, tmp_path: Path) -> None:
    """A certificate may name anybody; what is recorded of one that nobody knows is `invalid`."""
    authority = Authority(tmp_path)
    name = "a936-01-0003"
    uri = x509.UniformResourceIdentifier(f"spiffe://ssn-vault.dev/client/{name}")
    cert, key = authority.issue("anybody", [uri])
    with another_server(own, SERVER__CLIENT_CA=authority.ca, LIMITS__LEAST_SECONDS_LEFT=60) as server:
        with stub_of(replace(own.profile("sis", server), cert=cert, key=key)) as stub:
            assert refused(lambda: stub.Tokenize(ONE, timeout=SECONDS)).reason == "OVERLOADED"
        assert server.stop() == 0  # writes the counts
    counted = [json.loads(body) for (body,) in own.query("SELECT body FROM event") if '"kind":"refusals"' in body]
    assert counted
    assert {event["client"] for event in counted} <= {"sis", "invalid"}


def test_a_message_that_is_too_large_is_refused_and_the_connection_goes_on(own: Stack) -> None:
    large = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(reference="r" * (4 * MEBIBYTE))])
    with stub_of(own.profile("sis")) as stub:
        failure = refused(lambda: stub.Tokenize(large, timeout=SECONDS))
        assert (failure.status, failure.reason) == ("RESOURCE_EXHAUSTED", "")
        assert stub.Tokenize(ONE, timeout=SECONDS).results[0].token


def test_a_slow_reader_does_not_fill_the_servers_memory(own: Stack) -> None:
    item = pb.TokenizeItem(ssn="936-01-0002", reference="r" * 128)
    message = pb.TokenizeRequest(domain="k12", items=[item] * 1000)
    sent = [0]
    over = threading.Event()

    def messages() -> Iterator[pb.TokenizeRequest]:
        while not over.is_set():
            sent[0] += 1
            yield message

    with another_server(own) as server:
        with stub_of(own.profile("sis", server)) as stub:
            assert stub.Tokenize(message, timeout=SECONDS).results[0].token
            before = resident_bytes(server.pid)
            streams = [stub.TokenizeStream(messages(), timeout=60) for _ in range(4)]
            seen = -1
            while sent[0] != seen:  # until nothing more is taken from us
                assert sent[0] < 2000
                seen = sent[0]
                time.sleep(0.5)
            assert seen > len(streams)
            assert resident_bytes(server.pid) - before < 64 * MEBIBYTE
            assert tokenizes(own.profile("sis", server))
            over.set()
            for stream in streams:
                stream.cancel()
        assert tokenizes(own.profile("sis", server))


def test_cancelled_calls_leave_nothing_behind(own: Stack) -> None:
    """A server for eight items at once: what a cancelled call kept would be missing at the end."""
    rng = random.Random(6)
    eight = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn=f"936-02-{n:04}") for n in range(8)])
    with another_server(own, LIMITS__ITEMS_AT_ONCE=8, LIMITS__ITEMS_PER_CALL=8) as server:
        with stub_of(own.profile("sis", server)) as stub:
            for number in range(500):
                if number % 10:
                    call = stub.Tokenize.future(ONE, timeout=SECONDS)
                    time.sleep(rng.random() / 500)
                    call.cancel()
                else:
                    stream = stub.TokenizeStream(iter([ONE] * 3), timeout=SECONDS)
                    with suppress(grpc.RpcError):
                        next(stream)
                    stream.cancel()

            def is_free() -> bool:
                with suppress(grpc.RpcError):
                    return len(stub.Tokenize(eight, timeout=SECONDS).results) == 8
                return False

            until(is_free)
            for _ in range(20):
                assert is_free()
        assert server.stop() == 0


# How it starts and ends


def test_running_calls_are_finished_before_the_end(own: Stack) -> None:
    with (
        another_server(own) as server,
        own.superuser() as engine,
        stub_of(own.profile("sis", server)) as stub,
    ):
        assert stub.Tokenize(ONE, timeout=SECONDS).results[0].token
        with engine.begin() as holding:
            holding.exec_driver_sql("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
            call = stub.Tokenize.future(ONE, timeout=SECONDS)
            until(lambda: waits(own))
            os.kill(server.pid, signal.SIGTERM)
            until(lambda: not server.listens())
            assert not call.done()
        assert call.result().results[0].token
        assert server.stop() == 0


def waits(stack: Stack) -> bool:
    """Whether a transaction waits for a lock."""
    found = stack.query("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'event'::regclass")
    return bool(found[0][0])


@pytest.mark.parametrize("taken", ["PORT", "METRICS_PORT"])
def test_a_server_on_a_taken_port_ends_with_words(own: Stack, taken: str) -> None:
    ports = {"PORT": own.server.port, "METRICS_PORT": own.server.metrics_port}
    settings = {"SSN_VAULT_SERVER__PORT": str(free_port()), f"SSN_VAULT_SERVER__{taken}": str(ports[taken])}
    status, said = serve(own.home.config_file, settings)
    assert status == 2
    assert str(ports[taken]) in said
    assert "listens there already" in said
    assert "Traceback" not in said
    assert tokenizes(own.profile("sis"))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], scope="function")
def test_an_unknown_schema_version_is_not_served(tmp_path: Path, database: str, request: pytest.FixtureRequest) -> None:
    url = new_database_url(database, request) or f"sqlite:///{tmp_path / 'ssn-vault.db'}"
    store = open_store(sa.make_url(url))
    config = write_config(tmp_path, url)
    status, said = serve(config)
    assert (status, "has schema none" in said, "database migrate" in said) == (5, True, True)
    migrate(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    status, said = serve(config)
    assert (status, "has schema 9999" in said) == (5, True)
    assert "Traceback" not in said


def test_unsafe_durability_is_not_served(tmp_path: Path) -> None:
    with data_directory() as directory, postgres_server(directory / "data") as postgres:
        url = postgres.new_database()
        store = open_store(sa.make_url(url))
        migrate(store)
        config = write_config(tmp_path, server_url(url))
        assert "certificate file" in serve(config)[1]  # the database is no reason
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

            def change(statement: str) -> None:
                connection.exec_driver_sql(statement)
                connection.exec_driver_sql("SELECT pg_reload_conf()")

            for setting in ("fsync", "full_page_writes"):
                change(f"ALTER SYSTEM SET {setting} = off")
                until(lambda: connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == "off")  # noqa: B023 - called at once
                status, said = serve(config)
                assert (status, f"{setting} = off" in said) == (5, True)
                change(f"ALTER SYSTEM RESET {setting}")
            change("ALTER SYSTEM SET synchronous_commit = off")
            change("ALTER ROLE postgres SET synchronous_commit = off")
        store.close()
        # Weaker defaults of the server or the role do not count: a session of ours says what it needs.
        ours = open_store(sa.make_url(url))
        with ours.reading() as reading:
            assert reading.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        ours.close()
        assert "certificate file" in serve(config)[1]
