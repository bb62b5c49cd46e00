"""`ssn-vault certs issue`: what a certificate says, where its key is, and a running server that takes up new ones."""

import itertools
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from ssn_vault_client import Profile
from ssnvault.v1 import ssn_vault_pb2 as pb
from ssnvault.v1.ssn_vault_pb2_grpc import SsnVaultStub
from tests.support.authority import Authority
from tests.support.commands import DONE, REFUSED, USAGE, ssn_vault
from tests.support.servers import http, presented, serve, until
from tests.support.stack import Stack
from tests.support.wire import SECONDS, stub_of
from vault_service.keys.setup import RENEWER, Right
from vault_service.keys.transit import TokenValue, Vault, VaultDenied

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack on SQLite whose certificates tests replace."""
    with Stack(tmp_path_factory.mktemp("certs")) as stack:
        yield stack


def issued(stack: Stack, out: Path, *arguments: object) -> x509.Certificate:
    """What `certs issue` puts at OUT, after checking what it says."""
    result = ssn_vault(stack, "certs", "issue", "--out", out, *arguments)
    assert result.exit_code == DONE, result.output
    said = dict(line.split(": ", 1) for line in result.output.splitlines())
    certificate = x509.load_pem_x509_certificate(Path(said["certificate"]).read_bytes())
    key = load_pem_private_key(Path(said["key"]).read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    assert Path(said["key"]).stat().st_mode & 0o777 == 0o600
    assert said["serial"] == f"{certificate.serial_number:x}"
    assert said["ends"] == f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(Path(said["authority"]).read_bytes()))
    assert not list(out.glob("*.partial"))
    return certificate


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def purposes_of(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def life_of(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - datetime.now(UTC)


def one() -> pb.TokenizeRequest:
    return pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn=f"937-01-{next(NUMBERS) % 10_000:04}")])


def test_a_clients_certificate_has_one_name_lives_a_day_and_is_let_in(own: Stack, tmp_path: Path) -> None:
    certificate = issued(own, tmp_path, "--client", "sis")
    assert names_of(certificate) == [x509.UniformResourceIdentifier("spiffe://ssn-vault.dev/client/sis")]
    assert purposes_of(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert timedelta(hours=23, minutes=58) < life_of(certificate) <= timedelta(hours=24)
    profile = Profile(
        address=own.server.address,
        ca=tmp_path / "ca.pem",
        cert=tmp_path / "sis.pem",
        key=tmp_path / "sis.key",
        timeout=SECONDS,
    )
    with stub_of(profile) as stub:
        assert stub.Tokenize(one(), timeout=SECONDS).results[0].token
    again = issued(own, tmp_path, "--client", "sis", "--ttl", "90m")
    assert again.serial_number != certificate.serial_number
    assert again.public_key() != certificate.public_key()
    assert timedelta(minutes=88) < life_of(again) <= timedelta(minutes=90)


def test_a_servers_certificate_has_the_names_that_were_asked_for(own: Stack, tmp_path: Path) -> None:
    certificate = issued(own, tmp_path, "--server", "--dns", "localhost", "--ip", "127.0.0.1", "--ip", "::1")
    assert {str(name.value) for name in names_of(certificate)} == {"localhost", "127.0.0.1", "::1"}
    assert purposes_of(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--server", "--dns", "elsewhere.example"], REFUSED),
        (["--server", "--dns", "*.localhost"], REFUSED),
        (["--client", "sis", "--ttl", "3650d"], DONE),
        (["--server"], USAGE),
        (["--client", "SIS"], USAGE),
        (["--client", "sis/x"], USAGE),
        (["--client", "ca"], USAGE),
        (["--client", "sis", "--server"], USAGE),
        ([], USAGE),
        (["--client", "sis", "--dns", "localhost"], USAGE),
        (["--client", "sis", "--ttl", "soon"], USAGE),
        (["--server", "--ip", "localhost"], USAGE),
    ],
)
def test_what_cannot_be_had_leaves_no_file(own: Stack, tmp_path: Path, arguments: list[str], status: int) -> None:
    out = tmp_path / "out"
    result = ssn_vault(own, "certs", "issue", "--out", out, *arguments)
    assert result.exit_code == status, result.output
    assert out.exists() == (status == DONE)
    if status == DONE:  # a life longer than the role gives is cut to it
        certificate = x509.load_pem_x509_certificate((out / "sis.pem").read_bytes())
        assert life_of(certificate) <= timedelta(days=30)


def test_the_private_key_never_reaches_vault(own: Stack, tmp_path: Path) -> None:
    log = own.home.openbao_directory / "audit.log"
    before = log.stat().st_size
    issued(own, tmp_path, "--client", "registrar")
    with log.open() as lines:
        lines.seek(before)
        asked = set(re.findall(r'"path":"(pki/[a-z-]+/[a-z-]+)"', lines.read()))
    assert asked == {"pki/cert/ca", "pki/sign/ssn-vault-client"}


def test_the_timers_login_renews_the_servers_certificate_and_makes_no_clients(own: Stack, tmp_path: Path) -> None:
    root = own.root()
    path = f"auth/approle/role/{RENEWER}"
    role_id = root.read(f"{path}/role-id")
    assert role_id is not None
    (tmp_path / "role").write_text(role_id["role_id"])
    (tmp_path / "secret").write_text(root.write(f"{path}/secret-id")["secret_id"])
    root.close()
    login = ["--role-id-file", tmp_path / "role", "--secret-id-file", tmp_path / "secret"]
    issued(own, tmp_path / "out", "--server", "--dns", "localhost", *login)
    refused = ssn_vault(own, "certs", "issue", "--client", "sis", "--out", tmp_path / "out", *login)
    assert refused.exit_code == REFUSED
    assert not (tmp_path / "out" / "sis.pem").exists()
    half = ssn_vault(own, "certs", "issue", "--server", "--dns", "localhost", "--out", tmp_path, *login[:2])
    assert half.exit_code == USAGE


def test_who_may_issue_certificates_needs_no_more_than_that_right(own: Stack, tmp_path: Path) -> None:
    root = own.root()
    created = root._call(
        "POST", "auth/token/create", {"policies": [Right.CERTIFICATES.policy, "ssn-vault-person"], "ttl": "5m"}
    )
    root.close()
    (tmp_path / "token").write_text(created["auth"]["client_token"])
    login = ["--token-file", tmp_path / "token"]
    issued(own, tmp_path, "--client", "sis", *login)
    issued(own, tmp_path, "--server", "--dns", "localhost", *login)
    vault = Vault(own.openbao.address, TokenValue(created["auth"]["client_token"]))
    attempts: list[Callable[[], object]] = [
        lambda: vault.write("pki/issue/ssn-vault-client", uri_sans="spiffe://ssn-vault.dev/client/sis"),
        lambda: vault.write("pki/sign-verbatim", csr="x"),
        lambda: vault.write("pki/roles/ssn-vault-client", allow_any_name=True),
        lambda: vault.write("pki/root/generate/exported", common_name="x"),
    ]
    for attempt in attempts:
        with pytest.raises(VaultDenied):
            attempt()
    vault.close()


def test_an_authority_that_is_replaced_stays_trusted_beside_the_new_one(own: Stack, tmp_path: Path) -> None:
    before = Authority(tmp_path).ca.read_text()
    issued(own, tmp_path, "--client", "sis")
    bundle = (tmp_path / "ca.pem").read_text()
    ours = own.certificates.ca.read_text()
    assert bundle == ours + before
    issued(own, tmp_path, "--client", "sis")
    assert (tmp_path / "ca.pem").read_text() == bundle


def test_files_that_are_there_keep_owner_group_and_mode(own: Stack, tmp_path: Path) -> None:
    """As when root's timer renews what the server's own user reads. Only root can give files away."""
    out = tmp_path / "out"
    issued(own, out, "--client", "sis")
    modes = {"sis.pem": 0o640, "sis.key": 0o440, "ca.pem": 0o600}
    before = {}
    (out / "ca.pem").write_text("")  # so that it is written as well
    for name, mode in modes.items():
        if os.geteuid() == 0:
            os.chown(out / name, 12345, 54321)
        (out / name).chmod(mode)
        before[name] = (out / name).read_bytes()
    result = ssn_vault(own, "certs", "issue", "--out", out, "--client", "sis")
    assert result.exit_code == DONE, result.output
    for name, mode in modes.items():
        found = (out / name).stat()
        assert stat.S_IMODE(found.st_mode) == mode, name
        if os.geteuid() == 0:
            assert (found.st_uid, found.st_gid) == (12345, 54321), name
        assert (out / name).read_bytes() != before[name]


def test_a_certificate_that_cannot_be_put_in_place_leaves_key_and_authority_as_they_were(
    own: Stack, tmp_path: Path
) -> None:
    issued(own, tmp_path, "--client", "sis")
    key = (tmp_path / "sis.key").read_bytes()
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "sis.pem.partial").mkdir()  # what stands in the way of the last file
    result = ssn_vault(own, "certs", "issue", "--out", tmp_path, "--client", "sis")
    assert result.exit_code == USAGE, result.output
    assert (tmp_path / "sis.key").read_bytes() == key
    assert (tmp_path / "ca.pem").read_text() == ""


def test_a_running_server_takes_up_new_certificates_without_a_lost_call(own: Stack) -> None:
    """Three renewals under load: new connections see the new serial, connections from before go on."""
    directory = own.certificates.server.cert.parent
    over = threading.Event()
    failed: list[grpc.RpcError] = []
    answered = {"kept": 0, "fresh": 0}

    def call(stub: SsnVaultStub, kind: str) -> None:
        try:
            assert stub.Tokenize(one(), timeout=SECONDS).results[0].token
            answered[kind] += 1
        except grpc.RpcError as error:
            failed.append(error)

    def on_one_connection() -> None:
        with stub_of(own.profile("sis")) as stub:
            while not over.is_set():
                call(stub, "kept")

    def on_new_connections() -> None:
        while not over.is_set():
            with stub_of(own.profile("sis")) as stub:
                call(stub, "fresh")

    def much_is_answered() -> None:
        enough = {"kept": answered["kept"] + 10, "fresh": answered["fresh"] + 4}
        until(lambda: all(answered[kind] >= count for kind, count in enough.items()))

    threads = [threading.Thread(target=run) for run in (on_one_connection, on_new_connections)]
    for thread in threads:
        thread.start()
    try:
        much_is_answered()
        for _ in range(3):
            before = presented(own)
            new = issued(own, directory, "--server", "--dns", "localhost", "--ip", "127.0.0.1").serial_number
            until(lambda: presented(own) == new)  # noqa: B023 - called at once
            assert new != before
            much_is_answered()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed


def test_files_that_are_no_good_leave_a_running_server_as_it_is_and_are_told(own: Stack) -> None:
    files = own.certificates.server
    good = {path: path.read_bytes() for path in (files.key, files.cert, own.certificates.ca)}
    before, told = presented(own), own.log.read_text().count("changed certificate files are not used")

    def metric(name: str, file: str) -> float:
        (line,) = [
            line for line in http(own.server, "/metrics")[1].splitlines() if line.startswith(f'{name}{{file="{file}"}}')
        ]
        return float(line.split()[1])

    ends = x509.load_pem_x509_certificate(good[files.cert]).not_valid_after_utc.timestamp()
    assert metric("ssn_vault_certificate_not_after_seconds", "server") == ends
    try:
        own.certificates.ca.write_bytes(b"")
        files.cert.write_bytes(b"")
        for file in ("server", "client_ca"):
            until(lambda: metric("ssn_vault_certificate_refused", file) == 1)  # noqa: B023 - called at once
        own.certificates.ca.with_name("trusted.pem").write_bytes(good[own.certificates.ca])
        profile = replace(own.profile("sis"), ca=own.certificates.ca.with_name("trusted.pem"))
        for _ in range(5):
            with stub_of(profile) as stub:
                assert stub.Tokenize(one(), timeout=SECONDS).results[0].token
        assert own.log.read_text().count("changed certificate files are not used") == told + 2
        assert metric("ssn_vault_certificate_not_after_seconds", "server") == ends
    finally:
        for path, content in good.items():
            path.write_bytes(content)
    for file in ("server", "client_ca"):
        until(lambda: metric("ssn_vault_certificate_refused", file) == 0)  # noqa: B023 - called at once
    assert presented(own) == before


def test_a_server_without_a_client_authority_does_not_start(own: Stack, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    settings = {"SSN_VAULT_SERVER__CLIENT_CA": str(empty), "SSN_VAULT_SERVER__PORT": "0"}
    status, said = serve(own.home.config_file, settings)
    assert (status, "server.client_ca: the certificate file is empty" in said) == (USAGE, True), said
