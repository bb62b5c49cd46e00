"""What may be asked of the certificate authority, on a real OpenBao: names and a life, within the role, and no more.

Every other parameter that this OpenBao's `sign` knows is refused, so that none can pass by the role's longest life or
names. The server is this file's own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vault_service.dev.bootstrap import development, login_person, prepare_vault
from vault_service.dev.openbao import OpenBao
from vault_service.keys.resources import carry_out, plan
from vault_service.keys.setup import CLIENT, RENEWER, SERVER, Right
from vault_service.keys.transit import TokenValue, Vault, VaultDenied, VaultRefused

LONGEST = timedelta(days=30)  # of the development roles
NAMES: Mapping[str, Mapping[str, str]] = {
    SERVER: {"alt_names": "localhost", "ip_sans": "127.0.0.1"},
    CLIENT: {"uri_sans": "spiffe://ssn-vault.dev/client/sis"},
}
MAY_ASK = [("renewer", SERVER), ("issuer", SERVER), ("issuer", CLIENT)]
# Values that the engine would take; any other parameter is tried with a text.
DANGEROUS: Mapping[str, object] = {
    "not_after": "2035-01-01T00:00:00Z",
    "not_before": "2001-01-01T00:00:00Z",
    "exclude_cn_from_sans": True,
    "remove_roots_from_chain": True,
    "use_pss": True,
    "signature_bits": 512,
    "common_name": "somebody",
    "other_sans": "1.2.3.4;utf8:somebody",
    "not_before_duration": "8760h",
    "issuer_ref": "default",
}


@dataclass(frozen=True)
class World:
    """Logins by name, and every parameter that the engine's `sign` has."""

    logins: Mapping[str, Vault]
    parameters: frozenset[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with OpenBao(tmp_path_factory.mktemp("rights") / "openbao") as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(root, {"issuer": [Right.CERTIFICATES.policy]})
        path = f"auth/approle/role/{RENEWER}"
        ids = {
            "role_id": (root.read(f"{path}/role-id") or {})["role_id"],
            "secret_id": root.write(f"{path}/secret-id")["secret_id"],
        }
        tokens = {"issuer": login_person(root, "issuer"), "renewer": root.login_at("auth/approle/login", **ids)}
        logins = {name: Vault(bao.address, TokenValue(token)) for name, token in tokens.items()}
        specification = root._call("GET", "sys/internal/specs/openapi")
        yield World({"root": root, **logins}, frozenset(_parameters(specification)))
        for vault in (root, *logins.values()):
            vault.close()


def _parameters(specification: dict[str, Any]) -> Iterator[str]:
    """The body's fields of `sign/{role}`, as OpenBao describes itself."""
    content = specification["paths"]["/pki/sign/{role}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = content["$ref"].rsplit("/", 1)[-1]
    yield from specification["components"]["schemas"][name]["properties"]


def sign(vault: Vault, role: str, **asked: object) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, SHA256())
    body = {"csr": request.public_bytes(Encoding.PEM).decode(), **NAMES[role], **asked}
    return x509.load_pem_x509_certificate(vault.write(f"pki/sign/{role}", **body)["certificate"].encode())


def life(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - datetime.now(UTC)


@pytest.mark.parametrize(("who", "role"), MAY_ASK)
def test_names_and_a_life_can_be_asked_for_and_no_life_is_longer_than_the_roles(
    world: World, who: str, role: str
) -> None:
    assert life(sign(world.logins[who], role)) <= timedelta(days=1)
    assert life(sign(world.logins[who], role, ttl="2h")) <= timedelta(hours=2)
    assert life(sign(world.logins[who], role, ttl="87600h")) <= LONGEST


@pytest.mark.parametrize(("who", "role"), MAY_ASK)
def test_every_other_parameter_is_refused(world: World, who: str, role: str) -> None:
    allowed = {"csr", "ttl", *NAMES[role]}
    assert {"not_after", "not_before", *allowed} <= world.parameters
    passed = []
    for name in (world.parameters | set(DANGEROUS)) - allowed:
        for spelled in (name, name.upper()):
            try:
                sign(world.logins[who], role, **{spelled: DANGEROUS.get(name, "x")})
            except VaultDenied:
                continue
            except VaultRefused:
                pass  # it reached the engine
            passed.append(spelled)
    assert passed == []


def test_the_role_itself_takes_no_dates_whoever_asks(world: World) -> None:
    """The organization's own policies may be wider than ours; root's is."""
    for role in (SERVER, CLIENT):
        for date in ("not_after", "not_before"):
            with pytest.raises(VaultRefused):
                sign(world.logins["root"], role, **{date: DANGEROUS[date]})


def test_the_certificate_right_reaches_no_other_way_of_signing(world: World) -> None:
    for who in ("issuer", "renewer"):
        for path in ("pki/issue", "pki/sign-verbatim", "pki/issuer/default/sign", "pki/issuer/default/issue"):
            for role in (SERVER, CLIENT):
                with pytest.raises(VaultDenied):
                    world.logins[who].write(f"{path}/{role}", csr="x")
    with pytest.raises(VaultDenied):
        sign(world.logins["renewer"], CLIENT)


def test_setup_puts_back_a_bound_that_somebody_lifted(world: World) -> None:
    root, people = world.logins["root"], {"issuer": [Right.CERTIFICATES.policy]}
    assert plan(root, development(people)) == []
    path = f"pki/roles/{CLIENT}"
    root.write(path, **{**(root.read(path) or {}), "not_after_bound": "permit"})
    (change,) = plan(root, development(people))
    assert "not_after_bound" in change.words
    carry_out(root, [change])
    assert plan(root, development(people)) == []
