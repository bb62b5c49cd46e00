"""Prepares the development Vault: engines, policies, people, the server's login, the certificate authority.

A root login and names come in; a Vault that serves this project, logins and certificates go out. It runs at
every start and changes nothing that is as it should be. What it makes is what `vault-setup` makes in
production, except that people log in with passwords nobody knows and root signs their certificates.
"""

import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from vault_service.keys.transit import AUDIT_KEY, Vault, VaultBadAnswer, VaultRefused, person_key_name

TRUST_DOMAIN: Final = "ssn-vault.dev"
OIDC_ROLE: Final = "ssn-vault"
AUDIENCE: Final = "ssn-vault"
SERVER_POLICY: Final = "ssn-vault-server"
PERSON_POLICY: Final = "ssn-vault-person"
KEY_ADMIN_POLICY: Final = "ssn-vault-key-admin"
DESTROY_ALLOW_POLICY: Final = "ssn-vault-key-destroy-allow"
DESTROY_DELETE_POLICY: Final = "ssn-vault-key-destroy-delete"

# Not the server's address, so that a home may come back on another port and tokens keep their issuer.
_ISSUER_BASE: Final = "https://vault.ssn-vault.dev"
_SERVER_ROLE: Final = "ssn-vault-server"
_CLIENT_ROLE: Final = "ssn-vault-client"
_ORGANIZATION: Final = "ssn-vault development"
_PERSON_TOKEN_LIFE: Final = "10m"  # noqa: S105 - a time, not a secret
_LOGIN_LIFE: Final = "12h"
_SERVER_TOKEN_PERIOD: Final = "1h"  # noqa: S105 - a time, not a secret
_SECRET_ID_LIFE: Final = "720h"  # noqa: S105 - a time, not a secret
_ROOT_CERTIFICATE_LIFE: Final = "87600h"
_CERTIFICATE_LIFE: Final = "720h"
_ENGINES: Final = {"transit": "transit", "pki": "pki"}
_LOGINS: Final = {"userpass": "userpass", "approle": "approle"}
_POLICIES: Final = {
    SERVER_POLICY: "server.hcl",
    PERSON_POLICY: "person.hcl",
    KEY_ADMIN_POLICY: "key-admin.hcl",
    DESTROY_ALLOW_POLICY: "key-destroy-allow.hcl",
    DESTROY_DELETE_POLICY: "key-destroy-delete.hcl",
}
_CLIENT: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class VaultSetup:
    """What the service must know of the prepared Vault.

    `issuer` and `audience` stand in every person's token as `iss` and `aud`, the person's name as `person`;
    the keys that verify it are at `jwks_url`. `entities` maps a person's name to the entity id, the token's
    `sub`.
    """

    issuer: str
    audience: str
    jwks_url: str
    entities: Mapping[str, str]


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain, its private key, and the authority that vouches for it, all PEM."""

    chain: str
    key: str
    authority: str

    def __repr__(self) -> str:
        return "Certificate(...)"


def prepare_vault(root: Vault, people: Mapping[str, Collection[str]]) -> VaultSetup:
    """Bring the Vault behind `root` into its prepared state, from whatever state an earlier run left it in.

    `people` are names, each with the Vault policies that this person has beside everybody's. ValueError for
    names that cannot be people's, and for one person with both halves of destroying keys.
    """
    if any({DESTROY_ALLOW_POLICY, DESTROY_DELETE_POLICY} <= set(policies) for policies in people.values()):
        raise ValueError("one person may not have both halves of destroying keys")
    _mount(root, "sys/mounts", _ENGINES)
    _mount(root, "sys/auth", _LOGINS)
    for policy, file in _POLICIES.items():
        root.put_policy(policy, resources.files("vault_service.dev").joinpath("vault", file).read_text("utf-8"))
    _make_signing_key(root, AUDIT_KEY)
    _prepare_tokens(root)
    _prepare_server_login(root)
    _prepare_authority(root)
    accessor = _data(root.read("sys/auth"), "sys/auth")["userpass/"]["accessor"]
    entities = {name: _prepare_person(root, name, policies, accessor) for name, policies in people.items()}
    return VaultSetup(
        issuer=f"{_ISSUER_BASE}/v1/identity/oidc",
        audience=AUDIENCE,
        jwks_url=f"{root.address}/v1/identity/oidc/.well-known/keys",
        entities=entities,
    )


def login_person(root: Vault, name: str) -> str:
    """A token of the prepared person `name`, for 12 hours. The password is drawn, used once and forgotten."""
    password = secrets.token_urlsafe(32)
    root.write(f"auth/userpass/users/{name}/password", password=password)
    return root.login_at(f"auth/userpass/login/{name}", password=password)


def server_approle(root: Vault) -> tuple[str, str]:
    """The server's role id and a fresh secret id that lives 30 days."""
    path = f"auth/approle/role/{_SERVER_ROLE}"
    role_id = _data(root.read(f"{path}/role-id"), path)["role_id"]
    secret_id = root.write(f"{path}/secret-id")["secret_id"]
    return str(role_id), str(secret_id)


def issue_server_certificate(root: Vault) -> Certificate:
    """A server certificate for localhost and 127.0.0.1, for 30 days."""
    return _issue(root, _SERVER_ROLE, common_name="localhost", ip_sans="127.0.0.1")


def issue_client_certificate(root: Vault, name: str) -> Certificate:
    """A client certificate whose one name is the URI SAN of client `name`, for 30 days.

    ValueError for what cannot be a client's name.
    """
    if not _CLIENT.fullmatch(name):
        raise ValueError("a client's name is a letter, then letters, digits, hyphens: lower case, at most 63")
    return _issue(root, _CLIENT_ROLE, uri_sans=f"spiffe://{TRUST_DOMAIN}/client/{name}")


def authority(root: Vault) -> str:
    """The certificate of the authority that signs all others (PEM)."""
    return str(_data(root.read("pki/cert/ca"), "pki/cert/ca")["certificate"]).strip() + "\n"


def _mount(root: Vault, table: str, wanted: Mapping[str, str]) -> None:
    present = _data(root.read(table), table)
    for path, kind in wanted.items():
        if f"{path}/" not in present:
            root.write(f"{table}/{path}", type=kind)


def _make_signing_key(root: Vault, name: str) -> None:
    root.write(f"transit/keys/{name}", type="ed25519", exportable=False, allow_plaintext_backup=False)
    root.public_keys(name)  # raises where a key of another kind has the name


def _prepare_tokens(root: Vault) -> None:
    root.write("identity/oidc/config", issuer=_ISSUER_BASE)
    key = f"identity/oidc/key/{OIDC_ROLE}"
    if root.read(key) is None:  # writing it again would start its rotation period anew
        root.write(
            key,
            algorithm="RS256",
            rotation_period="24h",
            verification_ttl="24h",
            allowed_client_ids=[AUDIENCE],
        )
    root.write(
        f"identity/oidc/role/{OIDC_ROLE}",
        key=OIDC_ROLE,
        client_id=AUDIENCE,
        ttl=_PERSON_TOKEN_LIFE,
        template='{"person": {{identity.entity.name}}}',  # Vault puts the quotes
    )


def _prepare_server_login(root: Vault) -> None:
    root.write(
        f"auth/approle/role/{_SERVER_ROLE}",
        token_policies=[SERVER_POLICY],
        token_no_default_policy=True,
        token_period=_SERVER_TOKEN_PERIOD,
        secret_id_ttl=_SECRET_ID_LIFE,
    )


def _prepare_authority(root: Vault) -> None:
    root.write("sys/mounts/pki/tune", max_lease_ttl=_ROOT_CERTIFICATE_LIFE)
    try:
        present = root.read("pki/cert/ca")
    except VaultRefused:  # how OpenBao says that there is no authority yet
        present = None
    if not present or not present.get("certificate"):
        root.write(
            "pki/root/generate/internal",
            common_name="ssn-vault development authority",
            organization=_ORGANIZATION,
            key_type="ec",
            key_bits=256,
            ttl=_ROOT_CERTIFICATE_LIFE,
        )
    common = {
        "key_type": "ec",
        "key_bits": 256,
        "ttl": _CERTIFICATE_LIFE,
        "max_ttl": _CERTIFICATE_LIFE,
        "organization": _ORGANIZATION,  # some TLS libraries refuse an empty subject
        "allow_any_name": False,
        "allow_localhost": False,
        "enforce_hostnames": True,
    }
    root.write(
        f"pki/roles/{_SERVER_ROLE}",
        **common,
        allowed_domains=["localhost"],
        allow_bare_domains=True,
        allow_ip_sans=True,
        server_flag=True,
        client_flag=False,
        ext_key_usage=["ServerAuth"],
    )
    root.write(
        f"pki/roles/{_CLIENT_ROLE}",
        **common,
        allowed_uri_sans=[f"spiffe://{TRUST_DOMAIN}/client/*"],
        allow_ip_sans=False,
        require_cn=False,
        server_flag=False,
        client_flag=True,
        ext_key_usage=["ClientAuth"],
    )


def _prepare_person(root: Vault, name: str, policies: Collection[str], accessor: str) -> str:
    """Entity, login and signing key of one person: the entity's id."""
    _make_signing_key(root, person_key_name(name))
    path = f"identity/entity/name/{name}"
    root.write(path, policies=[PERSON_POLICY, *policies])
    entity = str(_data(root.read(path), path)["id"])
    user = f"auth/userpass/users/{name}"
    life: dict[str, object] = {
        "token_ttl": _LOGIN_LIFE,
        "token_max_ttl": _LOGIN_LIFE,
        "token_no_default_policy": True,
    }
    if root.read(user) is None:  # Vault makes no user without a password
        life["password"] = secrets.token_urlsafe(32)
    root.write(user, **life)
    root.write("identity/entity-alias", name=name, canonical_id=entity, mount_accessor=accessor)
    return entity


def _issue(root: Vault, role: str, **names: str) -> Certificate:
    path = f"pki/issue/{role}"
    issued = root.write(path, **names)
    parts = [issued.get("certificate"), issued.get("private_key"), issued.get("issuing_ca")]
    if not all(isinstance(part, str) and part for part in parts):
        raise VaultBadAnswer(f"{path} gave no certificate")
    certificate, key, issuer = (f"{str(part).strip()}\n" for part in parts)
    return Certificate(chain=_chain(certificate, issued.get("ca_chain") or ()), key=key, authority=issuer)


def _chain(certificate: str, issuers: Iterable[str]) -> str:
    """The certificate and what stands between it and the root: the root itself is the reader's to know."""
    between = list(issuers)[:-1]
    return certificate + "".join(f"{issuer.strip()}\n" for issuer in between)


def _data(found: dict[str, Any] | None, path: str) -> dict[str, Any]:
    if found is None:
        raise VaultBadAnswer(f"nothing stands at {path}")
    return found
