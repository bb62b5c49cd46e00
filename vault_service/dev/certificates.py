"""Certificate files of the development home: written where missing, replaced in the last third of their life.

A root login, a directory and the clients' names come in; the paths of PEM and PKCS #12 files go out.
Private keys are never readable by others, not even while they are written. Who the clients are is not
decided here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import NoEncryption, load_pem_private_key, pkcs12

from vault_service.dev.bootstrap import authority, issue_client_certificate, issue_server_certificate
from vault_service.files import replace_file
from vault_service.keys.authority import Certificate
from vault_service.keys.transit import Vault


@dataclass(frozen=True)
class CertificateFiles:
    """One certificate's files: chain and key as PEM and, for clients, both with the authority as PKCS #12."""

    cert: Path
    key: Path
    p12: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.cert, self.key) if self.p12 is None else (self.cert, self.key, self.p12)


@dataclass(frozen=True)
class Certificates:
    """The files of one development home, all paths absolute."""

    ca: Path
    server: CertificateFiles
    clients: Mapping[str, CertificateFiles]


def write_certificates(root: Vault, directory: Path, clients: Sequence[str]) -> Certificates:
    """See that `directory` holds ca.pem, server.pem/.key and clients/NAME.pem/.key/.p12, good for a while.

    What is there, signed by this Vault and in the first two thirds of its life is left as it is. The PKCS
    #12 files have an empty password. Raises VaultError and OSError.
    """
    directory = directory.absolute()
    (directory / "clients").mkdir(mode=0o700, parents=True, exist_ok=True)
    ca = directory / "ca.pem"
    trusted = authority(root)
    if not ca.exists() or ca.read_text("ascii") != trusted:
        replace_file(ca, trusted.encode(), 0o644)
    server = CertificateFiles(directory / "server.pem", directory / "server.key")
    _ensure(server, trusted, partial(issue_server_certificate, root), "server")
    files: dict[str, CertificateFiles] = {}
    for name in clients:
        cert, key, p12 = (directory / "clients" / f"{name}.{kind}" for kind in ("pem", "key", "p12"))
        files[name] = CertificateFiles(cert, key, p12)
        _ensure(files[name], trusted, partial(issue_client_certificate, root, name), name)
    return Certificates(ca, server, files)


def _ensure(files: CertificateFiles, trusted: str, issue: Callable[[], Certificate], name: str) -> None:
    if all(path.exists() for path in files.paths) and _is_good(files, trusted):
        return
    issued = issue()
    # The key first, the certificate last: whoever finds a new certificate finds its key beside it.
    replace_file(files.key, issued.key.encode(), 0o600)
    if files.p12 is not None:
        replace_file(files.p12, _pkcs12(issued, name), 0o600)
    replace_file(files.cert, issued.chain.encode(), 0o644)


def _is_good(files: CertificateFiles, trusted: str) -> bool:
    """Signed by the authority, belonging to its key, and in the first two thirds of its life."""
    try:
        certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
        key = load_pem_private_key(files.key.read_bytes(), None)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(trusted.encode()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    young = datetime.now(UTC) < certificate.not_valid_after_utc - life / 3
    return young and key.public_key() == certificate.public_key()


def _pkcs12(issued: Certificate, name: str) -> bytes:
    key = load_pem_private_key(issued.key.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the development authority issues EC keys only")
    return pkcs12.serialize_key_and_certificates(
        name.encode(),
        key,
        x509.load_pem_x509_certificate(issued.chain.encode()),
        [x509.load_pem_x509_certificate(issued.authority.encode())],
        NoEncryption(),
    )
