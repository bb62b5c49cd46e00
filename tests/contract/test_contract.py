"""The contract as a stranger to the code would check it: every method guarded, every reason produced over the wire."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from ssn_vault_client import Profile
from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.support.servers import another_server, http, run_as_owner, until
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from tests.support.wire import SECONDS, Failure, failure_of, person, refused, stub_of
from vault_service.api.chain import ACCESS, Chain
from vault_service.api.drain import Drain
from vault_service.audit.refusals import RefusalMeter
from vault_service.errors import Reason
from vault_service.identity.person import PersonVerifier
from vault_service.tokens import TokenFormat, draw_token

SERVICE = pb.DESCRIPTOR.services_by_name["SsnVault"]

# DESIGN section 3.
STATUS = {
    Reason.FIELD_INVALID: "INVALID_ARGUMENT",
    Reason.BATCH_TOO_LARGE: "INVALID_ARGUMENT",
    Reason.BATCH_TOO_SMALL: "INVALID_ARGUMENT",
    Reason.PERSON_REQUIRED: "UNAUTHENTICATED",
    Reason.PERSON_INVALID: "UNAUTHENTICATED",
    Reason.NOT_PERMITTED: "PERMISSION_DENIED",
    Reason.FROZEN: "FAILED_PRECONDITION",
    Reason.APPROVAL_REQUIRED: "FAILED_PRECONDITION",
    Reason.AGREEMENT_ENDED: "FAILED_PRECONDITION",
    Reason.BUDGET_EXCEEDED: "RESOURCE_EXHAUSTED",
    Reason.OVERLOADED: "RESOURCE_EXHAUSTED",
    Reason.KEYS_UNAVAILABLE: "UNAVAILABLE",
    Reason.STORE_UNAVAILABLE: "UNAVAILABLE",
    Reason.AUDIT_UNAVAILABLE: "UNAVAILABLE",
    Reason.INTERNAL: "INTERNAL",
}
HELPED_BY_WAITING = {
    Reason.BUDGET_EXCEEDED,
    Reason.OVERLOADED,
    Reason.KEYS_UNAVAILABLE,
    Reason.STORE_UNAVAILABLE,
    Reason.AUDIT_UNAVAILABLE,
}


def tokenize(*numbers: str, domain: str = "k12") -> pb.TokenizeRequest:
    return pb.TokenizeRequest(domain=domain, items=[pb.TokenizeItem(ssn=number) for number in numbers])


def detokenize(*tokens: str, purpose: str = "transcript-verification") -> pb.DetokenizeRequest:
    return pb.DetokenizeRequest(domain="k12", tokens=tokens, purpose=purpose, justification=JUSTIFICATION)


def linkage(agreement: str, count: int = 1) -> pb.LinkageMatchRequest:
    items = [pb.LinkageItem(token=unknown_token()) for _ in range(count)]
    return pb.LinkageMatchRequest(agreement=agreement, items=items)


def unknown_token(domain: str = "k12") -> str:
    return draw_token(domain, TokenFormat.STANDARD)


# Access


def test_every_method_of_the_contract_has_an_access_rule_and_no_other_has() -> None:
    assert set(ACCESS) == {method.name for method in SERVICE.methods}


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_every_method_is_served_and_refuses_a_client_without_a_grant(vault: Stack, method: str) -> None:
    requests = {
        "Tokenize": tokenize("930-01-0001"),
        "Detokenize": detokenize(unknown_token()),
        "LinkageMatch": linkage("college-outcomes"),
    }
    with stub_of(vault.profile("idle")) as stub:
        message = requests[method.removesuffix("Stream")]
        call = getattr(stub, method)
        if method.endswith("Stream"):
            failure = refused(lambda: list(call(iter([message]), timeout=SECONDS)))
        else:
            failure = refused(lambda: call(message, timeout=SECONDS))
    assert (failure.status, failure.reason) == ("PERMISSION_DENIED", "NOT_PERMITTED")


def test_a_method_without_an_access_rule_fails_closed() -> None:
    reached: list[object] = []

    async def handle(request: bytes, _peer: object) -> bytes:
        reached.append(request)
        return b"reached"

    async def handle_stream(requests: Any, _peer: object) -> Any:
        async for request in requests:
            reached.append(request)
            yield b"reached"

    async def scenario() -> list[Failure]:
        chain = Chain("ssn-vault.dev", PersonVerifier(()), RefusalMeter(60), 0.01, timedelta(days=90), Drain())
        handlers: Any = {
            "Unlisted": grpc.unary_unary_rpc_method_handler(chain.unary("Unlisted", handle)),
            "UnlistedStream": grpc.stream_stream_rpc_method_handler(chain.stream("UnlistedStream", handle_stream)),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()

        def call() -> list[Failure]:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
                unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                    f"/{SERVICE.full_name}/Unlisted"
                )
                stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                    f"/{SERVICE.full_name}/UnlistedStream"
                )
                return [
                    refused(lambda: unary(b"x", timeout=SECONDS)),
                    refused(lambda: list(stream(iter([b"x"]), timeout=SECONDS))),
                ]

        try:
            return await asyncio.to_thread(call)
        finally:
            await server.stop(0)

    failures = asyncio.run(scenario())
    assert [(failure.status, failure.reason) for failure in failures] == [("PERMISSION_DENIED", "NOT_PERMITTED")] * 2
    assert not reached


# Reasons


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_comes_with_its_status_and_details(vault: Stack, reason: Reason) -> None:
    failure = PRODUCERS[reason](vault)
    assert (failure.reason, failure.status, failure.domain) == (reason.value, STATUS[reason], "ssnvault")
    assert bool(failure.fields) == (reason is Reason.FIELD_INVALID)
    assert (failure.retry_seconds is not None) == (reason in HELPED_BY_WAITING)
    assert failure.retry_seconds is None or failure.retry_seconds > 0
    assert set(failure.info) == ({"error_id"} if reason is Reason.INTERNAL else set())
    # What went wrong before is over: the stack serves as before.
    with stub_of(vault.profile("sis")) as stub:
        assert stub.Tokenize(tokenize("930-01-0001"), timeout=SECONDS).results[0].token


def _tokenize(vault: Stack, client: str, request: pb.TokenizeRequest, server: ServerProcess | None = None) -> Failure:
    with stub_of(vault.profile(client, server)) as stub:
        return refused(lambda: stub.Tokenize(request, timeout=SECONDS))


def _detokenize(vault: Stack, request: pb.DetokenizeRequest, person_token: str | None = None) -> Failure:
    with stub_of(vault.profile("sis")) as stub:
        metadata = person(person_token) if person_token else None
        return refused(lambda: stub.Detokenize(request, timeout=SECONDS, metadata=metadata))


def _link(vault: Stack, client: str, request: pb.LinkageMatchRequest) -> Failure:
    with stub_of(vault.profile(client)) as stub:
        return refused(lambda: stub.LinkageMatch(request, timeout=SECONDS))


def _overloaded(vault: Stack) -> Failure:
    """Room for one call of five items: of many at once some must be refused."""
    five = tokenize(*(f"930-02-{n:04}" for n in range(5)))
    with (
        another_server(vault, LIMITS__ITEMS_AT_ONCE=5, LIMITS__ITEMS_PER_CALL=5) as server,
        stub_of(vault.profile("sis", server)) as stub,
    ):
        while True:
            calls = [stub.Tokenize.future(five, timeout=SECONDS) for _ in range(20)]
            errors = [call.exception() for call in calls]
            failures = [failure_of(error) for error in errors if isinstance(error, grpc.RpcError)]
            assert len(failures) < len(calls)
            if failures:
                assert len(stub.Tokenize(five, timeout=SECONDS).results) == 5
                return failures[0]


def _keys_unavailable(vault: Stack) -> Failure:
    with (
        another_server(vault, KEYS__LEASE_SECONDS=8) as server,
        stub_of(vault.profile("sis", server)) as stub,
    ):

        def attempt() -> pb.TokenizeResponse:
            return stub.Tokenize(tokenize("930-01-0001"), timeout=SECONDS)

        vault.openbao.stop()
        try:
            assert attempt().results[0].token  # the lease goes on
            until(lambda: not server.is_ready())
            failure = refused(attempt)
        finally:
            vault.openbao.start()
        server.wait_ready()
        assert attempt().results[0].token
    return failure


def _store_unavailable(vault: Stack) -> Failure:
    with changed_schema(vault, "ALTER TABLE event RENAME TO away", "ALTER TABLE away RENAME TO event"):
        return _tokenize(vault, "sis", tokenize("930-01-0001"))


def _internal(vault: Stack) -> Failure:
    """A control row of another type: nothing that the service was written for."""
    text, integer = ("UPDATE control SET epoch = 'x' || epoch", "UPDATE control SET epoch = substr(epoch, 2)")
    if vault.database_url:
        alter = (
            "ALTER TABLE control ALTER COLUMN epoch TYPE {0}; ALTER TABLE control_log ALTER COLUMN position TYPE {1}"
        )
        text = alter.format("text", "text")
        integer = alter.format("bigint USING epoch::bigint", "bigint USING position::bigint")
    with changed_schema(vault, text, integer):
        failure = _tokenize(vault, "sis", tokenize("930-01-0099"))
    error_id = failure.info["error_id"]
    assert failure.text == f"An internal error happened. Error id: {error_id}"
    log = vault.log.read_text()
    assert error_id in log
    assert "0099" not in "".join(line for line in log.splitlines() if error_id in line)
    return failure


def _audit_unavailable(vault: Stack) -> Failure:
    """Where the hashes of events cannot be written, nothing is disclosed: a full disk, and a reader that went."""
    with stub_of(vault.profile("sis")) as stub:
        token = stub.Tokenize(tokenize("930-01-0001"), timeout=SECONDS).results[0].token
    failures = []
    for sink in (full_disk, closed_pipe):
        with (
            sink() as descriptor,
            server_writing_to(vault, descriptor) as server,
            stub_of(vault.profile("sis", server)) as stub,
        ):
            failures.append(refused(lambda: stub.Detokenize(detokenize(token), timeout=SECONDS)))
    first, second = failures
    assert (first.reason, first.text) == (second.reason, second.text)
    return first


PRODUCERS: dict[Reason, Callable[[Stack], Failure]] = {
    Reason.FIELD_INVALID: lambda vault: _tokenize(vault, "sis", pb.TokenizeRequest()),
    Reason.BATCH_TOO_LARGE: lambda vault: _tokenize(vault, "sis", tokenize(*["930-01-0001"] * 1001)),
    Reason.BATCH_TOO_SMALL: lambda vault: _link(vault, "large-research", linkage("large", 9)),
    Reason.PERSON_REQUIRED: lambda vault: _detokenize(vault, detokenize(unknown_token(), purpose="tax-reporting")),
    Reason.PERSON_INVALID: lambda vault: _detokenize(
        vault, detokenize(unknown_token(), purpose="tax-reporting"), vault.person_token("aid-counselor")
    ),
    Reason.NOT_PERMITTED: lambda vault: _tokenize(vault, "idle", tokenize("930-01-0001")),
    Reason.FROZEN: lambda vault: _tokenize(vault, "frozen", tokenize("930-01-0001")),
    Reason.APPROVAL_REQUIRED: lambda vault: _detokenize(
        vault,
        detokenize(unknown_token(), unknown_token(), purpose="tax-reporting"),
        vault.person_token("tax-clerk"),
    ),
    Reason.AGREEMENT_ENDED: lambda vault: _link(vault, "old-job", linkage("ended")),
    Reason.BUDGET_EXCEEDED: lambda vault: _detokenize(
        vault, detokenize(*[unknown_token() for _ in range(3)], purpose="spent")
    ),
    Reason.OVERLOADED: _overloaded,
    Reason.KEYS_UNAVAILABLE: _keys_unavailable,
    Reason.STORE_UNAVAILABLE: _store_unavailable,
    Reason.AUDIT_UNAVAILABLE: _audit_unavailable,
    Reason.INTERNAL: _internal,
}


# What looks the same


def test_unknown_client_domain_purpose_agreement_and_no_grant_look_the_same(vault: Stack, stranger: Profile) -> None:
    known, elsewhere = tokenize("930-01-0001"), tokenize("930-01-0001", domain="nowhere")
    with stub_of(stranger) as nobody:
        failures = [
            refused(lambda: nobody.Tokenize(known, timeout=SECONDS)),
            refused(lambda: nobody.Detokenize(detokenize(unknown_token()), timeout=SECONDS)),
            refused(lambda: nobody.LinkageMatch(linkage("college-outcomes"), timeout=SECONDS)),
        ]
    failures += [
        _tokenize(vault, "sis", elsewhere),
        _tokenize(vault, "registrar", known),
        _detokenize(vault, detokenize(unknown_token(), purpose="nothing")),
        _detokenize(vault, detokenize(unknown_token(), purpose="aid-verification")),
        _link(vault, "k12-research", linkage("nothing")),
        _link(vault, "k12-research", linkage("large", 10)),
        _link(vault, "sis", linkage("college-outcomes")),
    ]
    assert {(failure.status, failure.text, failure.trailers) for failure in failures} == {
        ("PERMISSION_DENIED", "Not permitted.", failures[0].trailers)
    }


def test_unknown_and_foreign_tokens_look_the_same(vault: Stack) -> None:
    with stub_of(vault.profile("registrar")) as registrar:
        request = tokenize("930-01-0002", domain="highered")
        foreign = registrar.Tokenize(request, timeout=SECONDS).results[0].token
    unknown, elsewhere = unknown_token(), unknown_token("highered")
    with stub_of(vault.profile("sis")) as sis, stub_of(vault.profile("k12-research")) as research:
        numbers = sis.Detokenize(detokenize(unknown, foreign, elsewhere), timeout=SECONDS)
        items = [pb.LinkageItem(token=token) for token in (unknown, foreign, elsewhere)]
        links = research.LinkageMatch(
            pb.LinkageMatchRequest(agreement="college-outcomes", items=items), timeout=SECONDS
        )
    found = [result.error for result in numbers.results] + [result.error for result in links.results]
    assert {error.SerializeToString() for error in found} == {found[0].SerializeToString()}
    assert found[0].code == pb.ItemError.NOT_FOUND
    recorded = vault.query("SELECT DISTINCT token FROM disclosure WHERE outcome = 'missing'")
    assert recorded == [("invalid",)]


# Breaking and mending


@contextmanager
def changed_schema(vault: Stack, change: str, undo: str) -> Iterator[None]:
    run_as_owner(vault, change)
    try:
        yield
    finally:
        run_as_owner(vault, undo)
        vault.server.wait_ready()


@contextmanager
def full_disk() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@contextmanager
def server_writing_to(vault: Stack, descriptor: int) -> Iterator[ServerProcess]:
    """A replica whose log goes to `descriptor`."""
    server = ServerProcess(vault.home.config_file, Path("/dev/null"), {})
    process = subprocess.Popen(
        [sys.executable, "-m", "vault_service", "serve", "--config", str(vault.home.config_file)],
        env={
            **os.environ,
            "SSN_VAULT_SERVER__PORT": str(server.port),
            "SSN_VAULT_SERVER__METRICS_PORT": str(server.metrics_port),
        },
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: server.listens() and "log: the log" in http(server, "/readyz")[1])
        yield server
    finally:
        process.terminate()
        process.wait(30)


def test_a_message_that_cannot_be_read_is_refused_without_an_exceptions_text(stack: Stack) -> None:
    profile = stack.profile("sis")
    credentials = grpc.ssl_channel_credentials(
        profile.ca.read_bytes(), profile.key.read_bytes(), profile.cert.read_bytes()
    )
    with grpc.secure_channel(profile.address, credentials) as channel:
        for data in (b"\xff\xff\xff", b"\x0a\x02\xc3\x28"):
            unary: Any = channel.unary_unary("/ssnvault.v1.SsnVault/Tokenize")
            with pytest.raises(grpc.RpcError) as caught:
                unary(data, timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == "request is not a well-formed message"
            stream: Any = channel.stream_stream("/ssnvault.v1.SsnVault/TokenizeStream")
            with pytest.raises(grpc.RpcError) as caught:
                list(stream(iter([data]), timeout=10))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
