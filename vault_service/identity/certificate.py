"""From a client certificate to the client's name: the one URI SAN, a SPIFFE id of our trust domain.

The TLS library has verified the chain; only the name is read here.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

_CLIENT = re.compile(r"[a-z][a-z0-9-]{0,62}")


class CertifiedClient(NamedTuple):
    """Who a certificate names (None: nobody that could be a client) and its serial number in hex."""

    name: str | None
    serial: str


@lru_cache(maxsize=1024)
def certified_client(pem: bytes, trust_domain: str) -> CertifiedClient:
    """The client that the certificate `pem` names: `spiffe://<trust_domain>/client/<name>`.

    A certificate with no URI SAN, several, or another one names nobody (SPIFFE X.509-SVID, section 2: exactly one).
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
    name = uris[0].removeprefix(prefix)
    return CertifiedClient(name if _CLIENT.fullmatch(name) else None, serial)
