"""A client is the one URI SAN of its certificate, in our trust domain, at the client path; else nobody."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from vault_service.identity.certificate import certified_client

TRUST_DOMAIN = "vault.example"
SIS = f"spiffe://{TRUST_DOMAIN}/client/sis"
SERIAL = 0x1F2E3D4C
LONGEST = timedelta(days=90)


def _pem(*names: x509.GeneralName, common_name: str = "", life: timedelta = timedelta(days=1)) -> bytes:
    key = generate_private_key(SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    subject = x509.Name(attributes)
    today = datetime.now(UTC) - timedelta(minutes=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(SERIAL)
        .not_valid_before(today)
        .not_valid_after(today + life)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def test_the_one_uri_names_the_client_and_the_serial_stands_in_the_record() -> None:
    assert certified_client(_pem(_uri(SIS)), TRUST_DOMAIN, LONGEST) == ("sis", "1f2e3d4c")


def test_names_of_other_kinds_beside_it_do_not_matter() -> None:
    pem = _pem(x509.DNSName("registrar"), _uri(SIS), x509.IPAddress(IPv4Address("127.0.0.1")), common_name="registrar")
    assert certified_client(pem, TRUST_DOMAIN, LONGEST).name == "sis"


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("sis"),),
        (x509.DNSName(SIS),),
        (x509.RFC822Name("sis@vault.example"),),
        (_uri(SIS), _uri(SIS)),
        (_uri(SIS), _uri(f"spiffe://{TRUST_DOMAIN}/client/registrar")),
        (_uri(SIS), _uri("https://example.org/")),
    ],
)
def test_none_or_several_uris_name_nobody(names: tuple[x509.GeneralName, ...]) -> None:
    assert certified_client(_pem(*names, common_name="sis"), TRUST_DOMAIN, LONGEST) == (None, "1f2e3d4c")


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://other.example/client/sis",
        "spiffe://vault.example.evil.example/client/sis",
        "spiffe://evil.example/vault.example/client/sis",
        "spiffe://vault.exampl/client/sis",
        "spiffe://vault.example:443/client/sis",
        "spiffe://x@vault.example/client/sis",
        "https://vault.example/client/sis",
        "SPIFFE://vault.example/client/sis",
    ],
)
def test_another_trust_domain_names_nobody(uri: str) -> None:
    assert certified_client(_pem(_uri(uri)), TRUST_DOMAIN, LONGEST).name is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/sis",
        "/client",
        "/client/",
        "/clients/sis",
        "/server/sis",
        "/Client/sis",
        "/client/sis/",
        "/client/sis/admin",
        "/client//sis",
        "/client/../client/sis",
        "/client/SIS",
        "/client/sis?x=1",
        "/client/sis#x",
        "/client/sis%20",
        "/client/sis\n",
        "/client/1sis",
        "/client/-",
        "/client/" + "a" * 64,
    ],
)
def test_another_path_names_nobody(path: str) -> None:
    assert certified_client(_pem(_uri(f"spiffe://{TRUST_DOMAIN}{path}")), TRUST_DOMAIN, LONGEST).name is None


def test_the_longest_name_is_taken() -> None:
    name = "a" * 63
    assert certified_client(_pem(_uri(f"spiffe://{TRUST_DOMAIN}/client/{name}")), TRUST_DOMAIN, LONGEST).name == name


@pytest.mark.parametrize("pem", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_names_nobody(pem: bytes) -> None:
    assert certified_client(pem, TRUST_DOMAIN, LONGEST) == (None, "")


@pytest.mark.parametrize(("life", "name"), [(LONGEST, "sis"), (LONGEST + timedelta(seconds=1), None)])
def test_a_certificate_that_lives_longer_than_allowed_names_nobody_and_is_in_the_log(
    life: timedelta, name: str | None
) -> None:
    pem = _pem(_uri(SIS), life=life)
    with capture_logs() as logs:
        for _ in range(3):
            assert certified_client(pem, TRUST_DOMAIN, LONGEST) == (name, "1f2e3d4c")
    assert [log["certificate"] for log in logs] == ["1f2e3d4c"] * (name is None)
