"""Certificate files that change under a running server: good ones are taken, all others leave what works in place."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from vault_service.api import certificate_files as module
from vault_service.api.certificate_files import CertificateFiles
from vault_service.config import ServerSettings
from vault_service.errors import ConfigurationError

DAY = timedelta(days=1)
HOST = x509.DNSName("vault.example")
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    cert: bytes
    key: bytes
    ends: float


def pair(
    *,
    names: Sequence[x509.GeneralName] = (HOST,),
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
    purposes: Sequence[x509.ObjectIdentifier] = (SERVER,),
    ca: bool = False,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Pair:
    """A certificate that signs itself; times are counted from now."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of the tests")])
    now = datetime.now(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if purposes and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return Pair(
        builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        (now + ends).timestamp(),
    )


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Server:
    """Files of a server in a directory, and what reads them."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.clock = clock
        self.settings = ServerSettings(
            cert=directory / "s.pem", key=directory / "s.key", client_ca=directory / "ca.pem", trust_domain="x"
        )
        self.pair, self.authority = pair(), pair(ca=True)
        self.put(self.settings.key, self.pair.key)
        self.put(self.settings.cert, self.pair.cert)
        self.put(self.settings.client_ca, self.authority.cert)

    def put(self, path: Path, content: bytes) -> None:
        fresh = path.with_name("fresh")
        fresh.write_bytes(content)
        fresh.replace(path)

    def put_pair(self, new: Pair) -> None:
        self.put(self.settings.key, new.key)
        self.put(self.settings.cert, new.cert)

    def settle(self, files: CertificateFiles) -> list[dict[str, object]]:
        """Look again and again for an hour; the errors that were logged."""
        with capture_logs() as logs:
            for _ in range(60):
                files.look()
                files.changed()
                self.clock.now += 60
        return [dict(log) for log in logs if log["log_level"] == "error"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return Server(tmp_path, clock)


def metric(name: str, file: str) -> float:
    value = REGISTRY.get_sample_value(name, {"file": file})
    assert value is not None
    return value


def ends(file: str) -> float:
    return metric("ssn_vault_certificate_not_after_seconds", file)


def refused(file: str) -> float:
    return metric("ssn_vault_certificate_reloads_refused_total", file)


def test_good_files_are_taken_at_the_next_handshake_and_once(server: Server) -> None:
    files = CertificateFiles(server.settings)
    assert files.changed() is None
    new = pair(ends=9 * DAY)
    server.put_pair(new)
    assert files.changed() is files.current
    assert files.changed() is None
    assert ends("server") == new.ends


def test_a_look_between_handshakes_keeps_the_change_for_the_next(server: Server) -> None:
    files = CertificateFiles(server.settings)
    server.put_pair(pair())
    files.look()
    files.look()
    assert files.changed() is files.current
    assert files.changed() is None


def encrypted(server: Server) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    new = pair(key=key)
    server.put_pair(new)
    server.put(
        server.settings.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )


def directory_instead(server: Server) -> None:
    server.settings.cert.unlink()
    server.settings.cert.mkdir()


BAD_SERVER: dict[str, tuple[Callable[[Server], object], str]] = {
    "empty certificate": (lambda s: s.put(s.settings.cert, b""), "server.cert: the certificate file is empty"),
    "empty key": (lambda s: s.put(s.settings.key, b"\n"), "server.key: the certificate file is empty"),
    "no certificate": (lambda s: s.settings.cert.unlink(), "server.cert: the certificate file cannot be read"),
    "no key": (lambda s: s.settings.key.unlink(), "server.key: the certificate file cannot be read"),
    "a directory": (directory_instead, "server.cert: the certificate file cannot be read"),
    "no PEM": (lambda s: s.put(s.settings.cert, b"x"), "is not PEM"),
    "no PEM key": (lambda s: s.put(s.settings.key, b"x"), "is not a PEM private key"),
    "encrypted key": (encrypted, "encrypted"),
    "half a pair": (lambda s: s.put(s.settings.cert, pair().cert), "does not belong"),
    "ended": (lambda s: s.put_pair(pair(begins=-2 * DAY, ends=-DAY)), "has ended"),
    "not begun": (lambda s: s.put_pair(pair(begins=DAY, ends=2 * DAY)), "not valid yet"),
    "a client's": (lambda s: s.put_pair(pair(purposes=[CLIENT])), "not a server's"),
    "nameless": (lambda s: s.put_pair(pair(names=())), "names no host"),
    "another host's": (lambda s: s.put_pair(pair(names=[x509.DNSName("mail.example")])), "shares no host name"),
}


@pytest.mark.parametrize("what", BAD_SERVER)
def test_a_bad_server_certificate_never_replaces_the_working_one_and_is_told_once(server: Server, what: str) -> None:
    files = CertificateFiles(server.settings)
    before, counted = files.current, refused("server")
    spoil, why = BAD_SERVER[what]
    spoil(server)
    (error,) = server.settle(files)
    assert error["file"] == "server"
    assert why in str(error["why"])
    assert files.current is before
    assert refused("server") == counted + 1
    assert metric("ssn_vault_certificate_refused", "server") == 1
    assert ends("server") == server.pair.ends


BAD_CLIENTS: dict[str, tuple[Callable[[Server], object], str]] = {
    "empty": (lambda s: s.put(s.settings.client_ca, b""), "is empty"),
    "none": (lambda s: s.settings.client_ca.unlink(), "cannot be read"),
    "no PEM": (lambda s: s.put(s.settings.client_ca, b"# authorities\n"), "is not PEM"),
    "no authority": (lambda s: s.put(s.settings.client_ca, pair().cert), "no authority"),
    "ended": (lambda s: s.put(s.settings.client_ca, pair(ca=True, begins=-2 * DAY, ends=-DAY).cert), "has ended"),
    "another's": (lambda s: s.put(s.settings.client_ca, pair(ca=True).cert), "none of the authorities in use"),
}


@pytest.mark.parametrize("what", BAD_CLIENTS)
def test_a_bad_client_bundle_never_replaces_the_working_one_and_is_told_once(server: Server, what: str) -> None:
    files = CertificateFiles(server.settings)
    before, counted = files.current, refused("client_ca")
    spoil, why = BAD_CLIENTS[what]
    spoil(server)
    (error,) = server.settle(files)
    assert error["file"] == "client_ca"
    assert why in str(error["why"])
    assert files.current is before
    assert refused("client_ca") == counted + 1
    assert ends("client_ca") == server.authority.ends


def test_a_second_bad_change_is_told_again_and_a_good_one_ends_it(server: Server) -> None:
    files = CertificateFiles(server.settings)
    server.put(server.settings.cert, b"")
    assert len(server.settle(files)) == 1
    server.put(server.settings.cert, b"x")
    assert len(server.settle(files)) == 1
    server.put_pair(pair())
    assert files.changed() is not None
    assert metric("ssn_vault_certificate_refused", "server") == 0


def test_a_pair_that_is_being_replaced_is_no_error(server: Server) -> None:
    files = CertificateFiles(server.settings)
    new = pair()
    with capture_logs() as logs:
        server.put(server.settings.key, new.key)
        assert files.changed() is None
        server.clock.now += 1
        assert files.changed() is None
        server.put(server.settings.cert, new.cert)
        assert files.changed() is files.current
    assert [log["log_level"] for log in logs] == ["info"]


def test_a_bad_client_bundle_does_not_hold_up_the_servers_renewal(server: Server) -> None:
    files = CertificateFiles(server.settings)
    new = pair(ends=5 * DAY)
    server.put(server.settings.client_ca, b"")
    server.put_pair(new)
    assert files.changed() is not None
    assert ends("server") == new.ends
    assert ends("client_ca") == server.authority.ends


def test_an_authority_is_replaced_by_way_of_a_bundle_with_both(server: Server) -> None:
    files = CertificateFiles(server.settings)
    new = pair(ca=True, ends=3 * DAY)
    server.put(server.settings.client_ca, server.authority.cert + new.cert)
    assert files.changed() is not None
    assert ends("client_ca") == server.authority.ends, "the first that ends"
    server.put(server.settings.client_ca, new.cert)
    assert files.changed() is not None
    assert ends("client_ca") == new.ends


def test_a_certificate_that_begins_a_moment_later_is_taken_then(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CertificateFiles(server.settings)
    new = pair(begins=DAY, ends=2 * DAY)
    server.put_pair(new)
    assert len(server.settle(files)) == 1

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + DAY + timedelta(minutes=1)

    monkeypatch.setattr(module, "datetime", Tomorrow)
    assert server.settle(files) == []
    assert ends("server") == new.ends


@pytest.mark.parametrize(("spent", "warned"), [(7, 0), (9, 1)])
def test_a_fifth_of_a_life_before_the_end_there_is_one_warning(server: Server, spent: int, warned: int) -> None:
    server.put_pair(pair(begins=-spent * DAY, ends=(10 - spent) * DAY))
    files = CertificateFiles(server.settings)

    def warnings() -> list[object]:
        with capture_logs() as logs:
            for _ in range(5):
                files.look()
        return [log["file"] for log in logs if log["log_level"] == "warning"]

    assert warnings() == ["server"] * warned
    assert warnings() == []
    first = pair(ca=True, begins=-9 * DAY, ends=DAY / 2)  # of the two it ends first
    server.put(server.settings.client_ca, first.cert + server.authority.cert)
    assert warnings() == ["client_ca"]


def test_files_that_only_root_may_read_are_named_and_taken_when_they_can_be_read(server: Server) -> None:
    """As when root renews them with mode 0600. Root itself reads everything: there a link leads nowhere."""
    files = CertificateFiles(server.settings)
    key = server.settings.key
    hidden = key.with_name("hidden")
    if os.geteuid() == 0:
        key.rename(hidden)
        key.symlink_to(key.with_name("nowhere"))
    else:
        key.chmod(0)
    (error,) = server.settle(files)
    assert "server.key: the certificate file cannot be read" in str(error["why"])
    if os.geteuid() == 0:
        key.unlink()
        hidden.rename(key)
    else:
        key.chmod(0o600)
    assert files.changed() is not None


@pytest.mark.parametrize("what", [*BAD_CLIENTS, *BAD_SERVER])
def test_a_server_does_not_start_with_bad_files(server: Server, what: str) -> None:
    spoil, why = {**BAD_CLIENTS, **BAD_SERVER}[what]
    spoil(server)
    if what in ("another's", "another host's"):
        assert CertificateFiles(server.settings).changed() is None
        return
    with pytest.raises(ConfigurationError, match=why):
        CertificateFiles(server.settings)
