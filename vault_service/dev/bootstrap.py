"""Prepares the development Vault: what `vault-setup` makes in production, and what is development's own.

A root login and names come in; a Vault that serves this project, logins and certificates go out. It runs at
every start and changes nothing that is as it should be. Development's own are people who log in with passwords
nobody knows, a root certificate made inside Vault, and certificates that live for 30 days.
"""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vault_service.keys.authority import Certificate, sign_client_certificate, sign_server_certificate
from vault_service.keys.resources import OURS, Resource, Settings, carry_out, plan
from vault_service.keys.setup import (
    SERVER,
    TOKEN_AUDIENCE,
    TOKEN_ROLE,
    NamedPerson,
    Right,
    Setup,
    wanted,
)
from vault_service.keys.transit import Vault, VaultBadAnswer

TRUST_DOMAIN: Final = "ssn-vault.dev"
OIDC_ROLE: Final = TOKEN_ROLE
AUDIENCE: Final = TOKEN_AUDIENCE
KEY_ADMIN_POLICY: Final = Right.KEY_ADMIN.policy
DESTROY_ALLOW_POLICY: Final = Right.DESTROY_ALLOW.policy
DESTROY_DELETE_POLICY: Final = Right.DESTROY_DELETE.policy
APPROVER_POLICY: Final = Right.APPROVER.policy
AUDITOR_POLICY: Final = Right.AUDITOR.policy

# Not the server's address, so that a home may come back on another port and tokens keep their issuer.
_ISSUER_BASE: Final = "https://vault.ssn-vault.dev"
_LOGIN_LIFE: Final = 12 * 3600
_CERTIFICATE_LIFE: Final = 30 * 24 * 3600


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


def prepare_vault(root: Vault, people: Mapping[str, Collection[str]]) -> VaultSetup:
    """Bring the Vault behind `root` into its prepared state, from whatever state an earlier run left it in.

    `people` are names, each with the Vault policies that this person has beside everybody's. SetupRefusedError
    for names that cannot be people's, and for one person with both halves of destroying keys; ValueError for a
    policy that is none of ours.
    """
    carry_out(root, plan(root, development(people)))
    paths = {name: f"identity/entity/name/{name}" for name in people}
    return VaultSetup(
        issuer=f"{_ISSUER_BASE}/v1/identity/oidc",
        audience=AUDIENCE,
        jwks_url=f"{root.address}/v1/identity/oidc/.well-known/keys",
        entities={name: str(_data(root.read(path), path)["id"]) for name, path in paths.items()},
    )


def development(people: Mapping[str, Collection[str]]) -> list[Resource]:
    """What stands in a development Vault: the production list, people's passwords, and a root of our own."""
    named = tuple(
        NamedPerson(name, "userpass", name, frozenset(Right(policy.removeprefix(OURS)) for policy in policies))
        for name, policies in people.items()
    )
    setup = Setup(
        trust_domain=TRUST_DOMAIN,
        people=named,
        server_names=("localhost",),
        server_addresses=True,
        organization="ssn-vault development",
        root_authority="ssn-vault development authority",
        longest_certificate=_CERTIFICATE_LIFE,
        token_issuer=_ISSUER_BASE,
        makes_logins={"userpass": "userpass"},
    )
    return [*wanted(setup), *map(_password_login, people)]


def login_person(root: Vault, name: str) -> str:
    """A token of the prepared person `name`, for 12 hours. The password is drawn, used once and forgotten."""
    password = secrets.token_urlsafe(32)
    root.write(f"auth/userpass/users/{name}/password", password=password)
    return root.login_at(f"auth/userpass/login/{name}", password=password)


def server_approle(root: Vault) -> tuple[str, str]:
    """The server's role id and a fresh secret id that lives 30 days."""
    path = f"auth/approle/role/{SERVER}"
    role_id = _data(root.read(f"{path}/role-id"), path)["role_id"]
    secret_id = root.write(f"{path}/secret-id")["secret_id"]
    return str(role_id), str(secret_id)


def issue_server_certificate(root: Vault) -> Certificate:
    """A server certificate for localhost and 127.0.0.1, for 30 days."""
    return sign_server_certificate(root, ["localhost"], ["127.0.0.1"], _CERTIFICATE_LIFE)


def issue_client_certificate(root: Vault, name: str) -> Certificate:
    """A client certificate whose one name is the URI SAN of client `name`, for 30 days.

    ValueError for what cannot be a client's name.
    """
    return sign_client_certificate(root, TRUST_DOMAIN, name, _CERTIFICATE_LIFE)


def authority(root: Vault) -> str:
    """The certificate of the authority that signs all others (PEM)."""
    return str(_data(root.read("pki/cert/ca"), "pki/cert/ca")["certificate"]).strip() + "\n"


def _password_login(name: str) -> Resource:
    life = {"token_ttl": _LOGIN_LIFE, "token_max_ttl": _LOGIN_LIFE, "token_no_default_policy": True}
    # Vault makes no user without a password.
    return Settings(
        f"auth/userpass/users/{name}",
        f"the login of {name}",
        life,
        secret=lambda: {"password": secrets.token_urlsafe(32)},
    )


def _data(found: dict[str, Any] | None, path: str) -> dict[str, Any]:
    if found is None:
        raise VaultBadAnswer(f"nothing stands at {path}")
    return found
