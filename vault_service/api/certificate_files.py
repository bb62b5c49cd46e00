"""The server's certificate, its key and the client authorities: read again when they change, and only taken when good.

Paths come in; what the next handshake uses goes out. Files that cannot be read, do not belong together, have ended or
are somebody else's never replace what works: each such change is logged once and counted, and the old files' content
serves on. Who renews the files, and how, is not known here.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from prometheus_client import Counter, Gauge

from vault_service.config import ServerSettings
from vault_service.errors import ConfigurationError

NOT_AFTER: Final = Gauge(
    "ssn_vault_certificate_not_after_seconds",
    "Unix time at which what is in use ends: the server's certificate, the first of the client authorities",
    ["file"],
)
REFUSED: Final = Counter(
    "ssn_vault_certificate_reloads_refused", "Changes of certificate files that were not taken", ["file"]
)
PENDING: Final = Gauge(
    "ssn_vault_certificate_refused", "1 while the files are refused, and what was read before is in use", ["file"]
)
# Files are put in place one by one: for this long (seconds), a pair that does not fit is one that is being replaced.
_SETTLE_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 60.0  # what is refused can become good as it is: a certificate that begins a moment later
_WARN_AT: Final = 0.2  # of a life
_SERVER_PURPOSES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})
_log: Final = structlog.stdlib.get_logger("ssn_vault.server")


@dataclass(frozen=True)
class _ServerFiles:
    """A certificate chain and its key, PEM as read, with the leaf."""

    key: bytes
    chain: bytes
    leaf: x509.Certificate

    @property
    def names(self) -> frozenset[str]:
        """DNS names and addresses that the certificate is for."""
        return _names(self.leaf)

    @property
    def not_after(self) -> datetime:
        """The end of the certificate."""
        return self.leaf.not_valid_after_utc

    @property
    def not_before(self) -> datetime:
        """The beginning of the certificate."""
        return self.leaf.not_valid_before_utc

    @property
    def works(self) -> bool:
        """Whether clients can still accept it."""
        return datetime.now(UTC) < self.not_after


@dataclass(frozen=True)
class _ClientAuthorities:
    """The bundle, PEM as read, and the certificates in it that can vouch for clients now."""

    pem: bytes
    living: tuple[x509.Certificate, ...]

    @property
    def not_after(self) -> datetime:
        """The end of the first that ends: from then on some clients are refused."""
        return self._first.not_valid_after_utc

    @property
    def not_before(self) -> datetime:
        """The beginning of the one that ends first."""
        return self._first.not_valid_before_utc

    @property
    def _first(self) -> x509.Certificate:
        return min(self.living, key=lambda authority: authority.not_valid_after_utc)

    @property
    def works(self) -> bool:
        """Whether any of them still vouches for anybody."""
        return any(datetime.now(UTC) < authority.not_valid_after_utc for authority in self.living)


_Content = TypeVar("_Content", _ServerFiles, _ClientAuthorities)


class _Watched(Generic[_Content]):
    """Files that are read together: what is in use, and what became of the last change."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        read: Callable[[], _Content],
        unlike: Callable[[_Content, _Content], str | None],
    ) -> None:
        """`read` raises ConfigurationError for what must not be used; `unlike` says why new may not follow old."""
        self._name = name
        self._paths = tuple(paths)
        self._read: Callable[[], _Content] = read
        self._unlike: Callable[[_Content, _Content], str | None] = unlike
        self._looked_at = _stamp(self._paths)
        self._again_at: float | None = None  # monotonic; when refused files are tried again
        self._told = False  # whether their refusal is in the log
        self._warned = False  # whether the end of what is in use is
        self.current: _Content = read()
        REFUSED.labels(name)  # shown as 0 from the start: an increase can only be seen from something
        self._show()

    def look(self) -> bool:
        """Take changed files when they are good; whether `current` is another one now."""
        self._warn()
        stamp, now = _stamp(self._paths), time.monotonic()
        if stamp != self._looked_at:
            self._looked_at, self._told, self._again_at = stamp, False, now + _SETTLE_SECONDS
            return self._taken()
        if self._again_at is None or now < self._again_at:
            return False
        if self._taken():
            return True
        self._again_at = now + _AGAIN_SECONDS
        return False

    def _taken(self) -> bool:
        """Try the files as they are now. A refusal is told once, when they had time to be replaced."""
        problem = self._problem()
        if problem is None:
            self._again_at = None
            return True
        if self._again_at is not None and time.monotonic() >= self._again_at and not self._told:
            self._told = True
            _log.error("changed certificate files are not used: those before stay", file=self._name, why=problem)
            REFUSED.labels(self._name).inc()
            PENDING.labels(self._name).set(1)
        return False

    def _problem(self) -> str | None:
        """Why the files cannot be used; None when they are in use now."""
        try:
            found = self._read()
        except ConfigurationError as error:
            return str(error)
        if self.current.works and (problem := self._unlike(self.current, found)) is not None:
            return problem
        self.current = found
        self._show()
        _log.info("certificate files read again", file=self._name, ends=found.not_after.isoformat())
        return None

    def _warn(self) -> None:
        """Say once that what is in use ends soon."""
        ends, begins = self.current.not_after, self.current.not_before
        if not self._warned and ends - datetime.now(UTC) < (ends - begins) * _WARN_AT:
            self._warned = True
            _log.warning("a certificate in use ends soon: replace it", file=self._name, ends=ends.isoformat())

    def _show(self) -> None:
        self._warned = False
        NOT_AFTER.labels(self._name).set(self.current.not_after.timestamp())
        PENDING.labels(self._name).set(0)


class CertificateFiles:
    """What handshakes use. Any thread may ask. The two halves change apart: one that is bad does not hold up the other.

    ConfigurationError from the start when a file cannot be used.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._lock = threading.Lock()
        self._server = _Watched(
            "server", (settings.key, settings.cert), lambda: _server_files(settings), _is_for_another_host
        )
        self._clients = _Watched(
            "client_ca", (settings.client_ca,), lambda: _client_authorities(settings), _is_another_authority
        )
        self._given = self._current = self._configuration()

    @property
    def current(self) -> grpc.ServerCertificateConfiguration:
        """What the next handshake uses."""
        return self._current

    def look(self) -> None:
        """See whether files have changed: at every handshake, and from time to time so that a refusal is told."""
        with self._lock:
            if any([self._server.look(), self._clients.look()]):
                self._current = self._configuration()

    async def watch(self) -> None:
        """Look from time to time, for ever: a change that is refused is told without a handshake, too."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(_LOOK_SECONDS)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """At a handshake: the configuration when it is another one than at the last; else None."""
        self.look()
        with self._lock:
            if self._given is self._current:
                return None
            self._given = self._current
            return self._current

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        server = self._server.current
        return grpc.ssl_server_certificate_configuration([(server.key, server.chain)], self._clients.current.pem)


def _stamp(paths: Sequence[Path]) -> tuple[tuple[int, int, int] | None, ...]:
    """Changes with content, with the file behind the name, and with who may read it; None for a missing file."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(found)


def _content(setting: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{setting}: the certificate file cannot be read ({error.strerror}); let the server's user read it"
        ) from None
    if not content.strip():
        raise ConfigurationError(f"{setting}: the certificate file is empty")
    return content


def _server_files(settings: ServerSettings) -> _ServerFiles:
    """Key and chain that belong together, good now, for a server that TLS can serve with. ConfigurationError."""
    key, chain = _content("server.key", settings.key), _content("server.cert", settings.cert)
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise ConfigurationError("server.key: the certificate file is encrypted; store it without a password") from None
    except ValueError:
        raise ConfigurationError("server.key: the certificate file is not a PEM private key") from None
    leaf = _certificates("server.cert", chain)[0]
    if private.public_key() != leaf.public_key():
        raise ConfigurationError("server.key does not belong to server.cert: the certificate files are of two pairs")
    if not isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ConfigurationError("server.key: the certificate file holds neither an EC nor an RSA key")
    now = datetime.now(UTC)
    if now >= leaf.not_valid_after_utc:
        raise ConfigurationError("server.cert: the certificate file has ended; issue another (ssn-vault certs issue)")
    if now < leaf.not_valid_before_utc:
        raise ConfigurationError("server.cert: the certificate file is not valid yet; check this machine's clock")
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    if purposes is not None and _SERVER_PURPOSES.isdisjoint(purposes):
        raise ConfigurationError("server.cert: the certificate file is not a server's (extended key usage serverAuth)")
    if not _names(leaf):
        raise ConfigurationError("server.cert: the certificate file names no host (DNS name or IP address)")
    return _ServerFiles(key, chain, leaf)


def _client_authorities(settings: ServerSettings) -> _ClientAuthorities:
    """A bundle in which at least one certificate is an authority's and good now. ConfigurationError."""
    pem = _content("server.client_ca", settings.client_ca)
    now = datetime.now(UTC)
    authorities = [one for one in _certificates("server.client_ca", pem) if _may_sign(one)]
    living = tuple(one for one in authorities if one.not_valid_before_utc <= now < one.not_valid_after_utc)
    if not authorities:
        raise ConfigurationError("server.client_ca: the certificate file holds no authority's certificate")
    if not living:
        raise ConfigurationError("server.client_ca: every authority in the certificate file has ended or begins later")
    return _ClientAuthorities(pem, living)


def _certificates(setting: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigurationError(f"{setting}: the certificate file is not PEM certificates") from None


def _may_sign(certificate: x509.Certificate) -> bool:
    constraints, usage = _extension(certificate, x509.BasicConstraints), _extension(certificate, x509.KeyUsage)
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _names(certificate: x509.Certificate) -> frozenset[str]:
    names = _extension(certificate, x509.SubjectAlternativeName) or ()
    return frozenset(str(one.value).lower() for one in names if isinstance(one, (x509.DNSName, x509.IPAddress)))


def _is_for_another_host(old: _ServerFiles, new: _ServerFiles) -> str | None:
    """A certificate of another service that was put here by mistake shares no name with ours."""
    if old.names.isdisjoint(new.names):
        return "server.cert: the certificate file shares no host name with the one in use; a restart takes it"
    return None


def _is_another_authority(old: _ClientAuthorities, new: _ClientAuthorities) -> str | None:
    """An authority is replaced by way of a bundle that holds both; else every client would be shut out at once."""
    if {_identity(one) for one in old.living}.isdisjoint(map(_identity, new.living)):
        return "server.client_ca: the certificate file holds none of the authorities in use; a restart takes it"
    return None


def _identity(authority: x509.Certificate) -> tuple[bytes, bytes]:
    """The same for an authority whose certificate was renewed: its name and its key."""
    key = authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return authority.subject.public_bytes(), key
