"""Certificates signed by Vault: the private key is made here and never travels, only a signing request does.

A Vault, names and a life come in; a certificate with its key, its chain and the authority that vouches for it go
out, and files in their places. Which names may be had is decided by the role in Vault.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from vault_service.files import replace_files
from vault_service.keys.resources import SetupRefusedError, has_authority
from vault_service.keys.setup import CLIENT, SERVER
from vault_service.keys.transit import Vault, VaultBadAnswer

_CLIENT_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain, its private key, and the authority that vouches for it, all PEM."""

    chain: str
    key: str
    authority: str

    def __repr__(self) -> str:
        return "Certificate(...)"

    @property
    def serial(self) -> str:
        """The serial number, in hex, as the record and the policy write it."""
        return f"{self._parsed.serial_number:x}"

    @property
    def ends(self) -> datetime:
        """The end of its life (UTC)."""
        return self._parsed.not_valid_after_utc

    @property
    def _parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain.encode())


@dataclass(frozen=True)
class CertificatePaths:
    """Where one certificate is kept: OUT/NAME.pem, OUT/NAME.key and OUT/ca.pem."""

    cert: Path
    key: Path
    ca: Path

    @classmethod
    def in_directory(cls, directory: Path, name: str) -> "CertificatePaths":
        """The three files of `name` in `directory`."""
        return cls(directory / f"{name}.pem", directory / f"{name}.key", directory / "ca.pem")


def sign_server_certificate(vault: Vault, dns: Sequence[str], addresses: Sequence[str], seconds: int) -> Certificate:
    """A server certificate for these DNS names and IP addresses, at least one of them.

    VaultRefused for names that the role does not give, SetupRefusedError without an authority; ValueError for no name.
    """
    if not dns and not addresses:
        raise ValueError("a server certificate needs a DNS name or an address")
    return _signed(vault, SERVER, seconds, alt_names=",".join(dns), ip_sans=",".join(addresses))


def sign_client_certificate(vault: Vault, trust_domain: str, name: str, seconds: int) -> Certificate:
    """A client certificate whose one name is the URI SAN `spiffe://TRUST_DOMAIN/client/NAME`.

    ValueError for what cannot be a client's name.
    """
    if not _CLIENT_NAME.fullmatch(name):
        raise ValueError("a client's name is a letter, then letters, digits, hyphens: lower case, at most 63")
    return _signed(vault, CLIENT, seconds, uri_sans=f"spiffe://{trust_domain}/client/{name}")


def write_certificate(paths: CertificatePaths, issued: Certificate) -> None:
    """Put the three files in place, each by rename: the authority, then the key (mode 0600), the certificate last.

    All are on disk before the first is renamed. Between the last two renames they do not belong together; a server
    notices, keeps what it has, and looks again. A file that is there keeps its owner, group and mode. OSError.
    """
    paths.cert.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    bundle = _bundle(paths.ca, issued.authority)
    files = [(paths.key, issued.key.encode(), 0o600), (paths.cert, issued.chain.encode(), 0o644)]
    if not paths.ca.exists() or paths.ca.read_text("ascii") != bundle:
        files.insert(0, (paths.ca, bundle.encode(), 0o644))
    replace_files(files)


def _signed(vault: Vault, role: str, seconds: int, **names: str) -> Certificate:
    if not has_authority(vault):  # Vault itself would answer 500, as if it were away
        raise SetupRefusedError(
            "Vault's pki engine has no certificate authority yet: docs/vault.md says how it gets one"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    # An empty subject: the role sets it, and the names go beside the request, where the role checks them.
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, SHA256())
    path = f"pki/sign/{role}"
    asked = {name: value for name, value in names.items() if value}
    answer = vault.write(path, csr=request.public_bytes(Encoding.PEM).decode(), ttl=f"{seconds}s", **asked)
    texts = [answer.get("certificate"), answer.get("issuing_ca"), *(answer.get("ca_chain") or ())]
    try:
        leaf, *others = [x509.load_pem_x509_certificate(str(text).encode()) for text in texts]
    except ValueError:
        raise VaultBadAnswer(f"{path} gave no certificate") from None
    if leaf.public_key() != key.public_key():
        raise VaultBadAnswer(f"{path} gave a certificate for another key")
    issuers = list(dict.fromkeys(others))
    roots = [issuer for issuer in issuers if issuer.subject == issuer.issuer] or issuers[-1:]
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Certificate(
        chain=_pem([leaf, *(issuer for issuer in issuers if issuer not in roots)]),
        key=private.decode(),
        authority=_pem(roots),
    )


def _bundle(ca: Path, authority: str) -> str:
    """The authority, and after it what the file trusted before and has not ended.

    While an authority is being replaced, certificates of both are in use. The old one is removed by hand.
    """
    trusted = x509.load_pem_x509_certificates(authority.encode())
    try:
        before = x509.load_pem_x509_certificates(ca.read_bytes()) if ca.exists() else []
    except ValueError:
        before = []
    now = datetime.now(UTC)
    return _pem([*trusted, *(old for old in before if old not in trusted and old.not_valid_after_utc > now)])


def _pem(certificates: Sequence[x509.Certificate]) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)
