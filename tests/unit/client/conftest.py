"""A small vault on the wire: a gRPC server with mutual TLS that speaks the contract and keeps its tokens in
memory. Tests set what it is to answer and read what reached it."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from ssn_vault_client import Profile
from ssnvault.v1 import ssn_vault_pb2 as pb
from ssnvault.v1.ssn_vault_pb2_grpc import SsnVaultServicer, add_SsnVaultServicer_to_server

# What spoils an answer: it may end the call, or wait.
Fault = Callable[[grpc.ServicerContext], None]


class SmallVault(SsnVaultServicer):
    """Gives one token a number, and finds numbers by token. `faults` are taken up one a message, then it is
    well.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.messages: list[Message] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.began = threading.Event()
        self.finished = threading.Event()

    def Tokenize(self, request: pb.TokenizeRequest, context: grpc.ServicerContext) -> pb.TokenizeResponse:
        self._take(request, context)
        return pb.TokenizeResponse(results=[self._tokenized(item) for item in request.items])

    def TokenizeStream(
        self, request_iterator: Iterator[pb.TokenizeRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TokenizeResponse]:
        context.add_callback(self.finished.set)
        self.began.set()
        for request in request_iterator:
            yield self.Tokenize(request, context)

    def Detokenize(self, request: pb.DetokenizeRequest, context: grpc.ServicerContext) -> pb.DetokenizeResponse:
        self._take(request, context)
        numbers = {token: number for number, token in self.tokens.items()}
        digits = 9 if request.view == pb.VIEW_FULL else 4
        missing = pb.ItemError(code=pb.ItemError.NOT_FOUND, message="no such token")
        return pb.DetokenizeResponse(
            disclosure_id="d-1",
            results=[
                pb.DetokenizeResult(token=token, ssn=numbers[token][-digits:])
                if token in numbers
                else pb.DetokenizeResult(token=token, error=missing)
                for token in request.tokens
            ],
        )

    def LinkageMatch(self, request: pb.LinkageMatchRequest, context: grpc.ServicerContext) -> pb.LinkageMatchResponse:
        self._take(request, context)
        known = set(self.tokens.values())
        results = [
            pb.LinkageResult(
                reference=item.reference, status=pb.EXACT, linkage_id="l-1", ssn_relation=pb.SAME, score=1.5
            )
            if item.token in known
            else pb.LinkageResult(
                reference=item.reference, error=pb.ItemError(code=pb.ItemError.NOT_FOUND, message="no such token")
            )
            for item in request.items
        ]
        exact = sum(result.status == pb.EXACT for result in results)
        summary = pb.LinkageSummary(exact=exact, errors=len(results) - exact)
        return pb.LinkageMatchResponse(results=results, summary=summary, event_id="e-1")

    def LinkageMatchStream(
        self, request_iterator: Iterator[pb.LinkageMatchRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.LinkageMatchResponse]:
        context.add_callback(self.finished.set)
        self.began.set()
        whole = list(request_iterator)  # one-to-one: decided over the whole stream
        if not context.is_active():  # a cancelled stream can look like one that was ended
            return
        for request in whole:
            yield self.LinkageMatch(request, context)

    def _take(self, request: Message, context: grpc.ServicerContext) -> None:
        self.messages.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.faults:
            self.faults.pop(0)(context)

    def _tokenized(self, item: pb.TokenizeItem) -> pb.TokenizeResult:
        number = item.ssn.replace("-", "")
        if len(number) != 9:
            error = pb.ItemError(code=pb.ItemError.INVALID_SSN, message="not a number in an accepted form")
            return pb.TokenizeResult(reference=item.reference, error=error)
        token = self.tokens.setdefault(number, f"k12_{len(self.tokens)}")
        return pb.TokenizeResult(reference=item.reference, token=token)


def refusal(code: int, reason: str, text: str = "refused", *details: Message, domain: str = "ssnvault") -> Fault:
    """A fault that ends the call with a status as the vault makes it."""
    status = status_pb2.Status(code=code, message=text)
    for detail in (error_details_pb2.ErrorInfo(domain=domain, reason=reason), *details):
        status.details.add().Pack(detail)

    def fault(context: grpc.ServicerContext) -> None:
        context.abort_with_status(rpc_status.to_status(status))

    return fault


def unavailable() -> Fault:
    """The keys are away."""
    return refusal(code_pb2.UNAVAILABLE, "KEYS_UNAVAILABLE")


def _issue(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, *names: x509.GeneralName
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def _write(directory: Path, name: str, pair: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> None:
    (directory / f"{name}.pem").write_bytes(pair[0].public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        pair[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `ca`, `server` and `sis`, each as .pem and .key."""
    directory = tmp_path_factory.mktemp("certificates")
    ca = _issue("test root", None)
    _write(directory, "ca", ca)
    _write(directory, "server", _issue("server", ca, x509.IPAddress(IPv4Address("127.0.0.1"))))
    uri = x509.UniformResourceIdentifier("spiffe://ssn-vault.test/client/sis")
    _write(directory, "sis", _issue("sis", ca, uri))
    return directory


@pytest.fixture
def vault() -> SmallVault:
    return SmallVault()


@pytest.fixture
def profile(vault: SmallVault, certificates: Path) -> Iterator[Profile]:
    """How to reach `vault`, which listens while the test runs."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        add_SsnVaultServicer_to_server(vault, server)
        pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
        port = server.add_secure_port(
            "127.0.0.1:0",
            grpc.ssl_server_credentials([pair], (certificates / "ca.pem").read_bytes(), require_client_auth=True),
        )
        server.start()
        yield Profile(f"127.0.0.1:{port}", certificates / "ca.pem", certificates / "sis.pem", certificates / "sis.key")
        server.stop(None).wait()


def numbers() -> Iterator[str]:
    """Fictitious numbers without an end, each another one."""
    return (f"900{serial:06d}" for serial in itertools.count())
