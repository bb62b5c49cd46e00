"""From a client certificate to the client's name: the one URI SAN, a SPIFFE id of our trust domain.

The TLS library has verified the chain and the dates; the name is read here, and that the whole life is not longer than
the server allows: a certificate that lives for years is good for as long, whoever has got away with its key.
"""

import re
from datetime import timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import structlog
from cryptography import x509

_log: Final = structlog.stdlib.get_logger("ssn_vault.identity")
_CLIENT = re.compile(r"[a-z][a-z0-9-]{0,62}")


class CertifiedClient(NamedTuple):
    """Who a certificate names (None: nobody that could be a client) and its serial number in hex."""

    name: str | None
    serial: str


@lru_cache(maxsize=1024)
def certified_client(pem: bytes, trust_domain: str, longest: timedelta) -> CertifiedClient:
    """The client that the certificate `pem` names: `spiffe://<trust_domain>/client/<name>`.

    A certificate with no URI SAN, several, or another one names nobody (SPIFFE X.509-SVID, section 2: exactly one),
    nor does one whose life, from its first moment to its last, is longer than `longest`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return CertifiedClient(None, "")
    serial = f"{certificate.serial_number:x}"
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        return CertifiedClient(None, serial)
    prefix = f"spiffe://{trust_domain}/client/"
    if len(uris) != 1 or not uris[0].startswith(prefix):
        return CertifiedClient(None, serial)
    if certificate.not_valid_after_utc - certificate.not_valid_before_utc > longest:
        _log.warning(
            "a client certificate lives too long", certificate=serial, longest_days=longest / timedelta(days=1)
        )
        return CertifiedClient(None, serial)
    name = uris[0].removeprefix(prefix)
    return CertifiedClient(name if _CLIENT.fullmatch(name) else None, serial)
