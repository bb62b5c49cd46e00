"""What the service needs of a Vault: engines, policies, logins, signing keys, certificates, an audit device.

Who the people are and where the server runs comes in; the list of wanted things goes out, pure, for
`resources.plan` to compare with a Vault. The same list, with other people, prepares the development stack.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources as package_files
from typing import Final

from vault_service.keys.people import FormerPeople, Person
from vault_service.keys.resources import (
    OURS,
    AuditDevice,
    Authority,
    Mount,
    OwnTransit,
    PolicyText,
    PresentLogin,
    Resource,
    Settings,
    SetupRefusedError,
    SigningKey,
)
from vault_service.keys.transit import AUDIT_KEY, person_key_name

TOKEN_ROLE: Final = "ssn-vault"  # noqa: S105 - the name of a role: of tokens that name people
TOKEN_AUDIENCE: Final = "ssn-vault"  # noqa: S105 - a name
SERVER: Final = "ssn-vault-server"  # the server's login, its certificates' role, its role in the database engine
CLIENT: Final = "ssn-vault-client"
RENEWER: Final = "ssn-vault-server-certificate"  # the login of the timer that renews the server's certificate
DATABASE: Final = "ssn-vault"

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_PERSON_TOKEN_LIFE: Final = 10 * _MINUTE
_SERVER_TOKEN_PERIOD: Final = _HOUR  # the server renews its login within this; a stopped server's ends after it
_SECRET_ID_LIFE: Final = 30 * _DAY
_RENEWER_TOKEN_LIFE: Final = 5 * _MINUTE
_ROOT_LIFE: Final = 3650 * _DAY
_CERTIFICATE_LIFE: Final = _DAY

# What the database engine does for a new login, and at its end. Sessions end with it: PostgreSQL lets them go on.
_CREATE_LOGIN: Final = (
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ssn_vault_server;"
)
_RENEW_LOGIN: Final = "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';"
_END_SESSIONS: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';"
_DROP_LOGIN: Final = 'DROP ROLE IF EXISTS "{{name}}";'


class Right(StrEnum):
    """What a person may do in Vault beside everybody's rights; each is the policy file of that name."""

    KEY_ADMIN = "key-admin"
    APPROVER = "approver"
    AUDITOR = "auditor"
    DESTROY_ALLOW = "key-destroy-allow"
    DESTROY_DELETE = "key-destroy-delete"
    CERTIFICATES = "certificates"

    @property
    def policy(self) -> str:
        """The policy's name in Vault."""
        return f"{OURS}{self}"


PERSON_POLICY: Final = f"{OURS}person"
_DATABASE_POLICY: Final = f"{OURS}server-database"
_POLICIES: Final = ("server", "server-certificate", "server-database", "person", *Right)


@dataclass(frozen=True)
class NamedPerson:
    """A person of the policy: the login at `auth/LOGIN` known there as `alias`, and the person's rights."""

    name: str
    login: str
    alias: str
    rights: frozenset[Right] = frozenset()


@dataclass(frozen=True)
class Kubernetes:
    """The server logs in with its service account. `host` is the cluster's API, with `ca` (PEM) where it is private."""

    host: str
    service_account: str
    namespace: str
    audience: str
    ca: str | None = None


@dataclass(frozen=True)
class DatabaseEngine:
    """PostgreSQL logins by Vault: how Vault reaches the database, and how long a login lives, in seconds."""

    url: str  # with {{username}} and {{password}} in it
    username: str
    password: Callable[[], str] = field(repr=False)  # asked for once, when the connection is made
    life: int = _HOUR
    longest: int = _DAY


@dataclass(frozen=True)
class Setup:
    """What an installation's Vault should be. Lives are in seconds."""

    trust_domain: str
    people: tuple[NamedPerson, ...]
    server_names: tuple[str, ...]  # DNS names in the server's certificates
    server_addresses: bool = False  # whether its certificates may hold IP addresses
    organization: str = "ssn-vault"
    kubernetes: Kubernetes | None = None  # else the server has an AppRole
    root_authority: str | None = None  # common name of a root made in Vault; None: the organisation brings its own
    longest_certificate: int = 3 * _DAY
    token_issuer: str | None = None  # what people's tokens name as their issuer; None leaves Vault's own
    audit: AuditDevice | None = None
    database: DatabaseEngine | None = None
    makes_logins: Mapping[str, str] = field(default_factory=dict)  # auth path -> kind; development only


def wanted(setup: Setup) -> list[Resource]:
    """Everything that should stand in Vault, in an order in which it can be made.

    SetupRefusedError for people who together with their rights would make the service unsafe.
    """
    _check_people(setup.people)
    things: list[Resource] = [setup.audit] if setup.audit else []  # first, so that the rest stands in its log
    things += [Mount("sys/mounts", "transit", "transit"), OwnTransit()]
    things.append(Mount("sys/mounts", "pki", "pki", _ROOT_LIFE if setup.root_authority else None))
    things += [PolicyText(f"{OURS}{name}", policy_text(name)) for name in _POLICIES]
    things.append(SigningKey(AUDIT_KEY))
    things += _person_tokens(setup)
    things += _server_login(setup)
    things += _certificates(setup)
    if setup.database is not None:
        things += _database(setup.database)
    things += [Mount("sys/auth", path, kind) for path, kind in setup.makes_logins.items()]
    logins = dict.fromkeys(person.login for person in setup.people)
    things += [PresentLogin(login) for login in logins if login not in setup.makes_logins]
    for person in setup.people:
        things.append(SigningKey(person_key_name(person.name)))
        policies = frozenset({PERSON_POLICY, *(right.policy for right in person.rights)})
        things.append(Person(person.name, policies, person.login, person.alias))
    things.append(FormerPeople(frozenset(person.name for person in setup.people)))
    return things


def policy_text(name: str) -> str:
    """The policy file `name`, without ".hcl", as it is reviewed in deploy/vault."""
    return package_files.files("vault_service.keys").joinpath("policies", f"{name}.hcl").read_text("utf-8")


def _check_people(people: tuple[NamedPerson, ...]) -> None:
    names = [person.name for person in people]
    logins = [(person.login, person.alias) for person in people]
    for person in people:
        try:
            person_key_name(person.name)
        except ValueError as error:
            raise SetupRefusedError(str(error)) from None
        if names.count(person.name) > 1:
            raise SetupRefusedError(f"{person.name} stands there twice")
        if logins.count((person.login, person.alias)) > 1:
            raise SetupRefusedError(f"{person.name} shares a login with another name: one human being would be two")
        if {Right.DESTROY_ALLOW, Right.DESTROY_DELETE} <= person.rights:
            raise SetupRefusedError(f"{person.name} may not have both halves of destroying keys")


def _person_tokens(setup: Setup) -> list[Resource]:
    things: list[Resource] = []
    if setup.token_issuer is not None:
        things.append(Settings("identity/oidc/config", "identity tokens", {"issuer": setup.token_issuer}))
    key = {
        "algorithm": "RS256",
        "rotation_period": _DAY,
        "verification_ttl": _DAY,
        "allowed_client_ids": [TOKEN_AUDIENCE],
    }
    role = {
        "key": TOKEN_ROLE,
        "client_id": TOKEN_AUDIENCE,
        "ttl": _PERSON_TOKEN_LIFE,
        "template": '{"person": {{identity.entity.name}}}',  # Vault puts the quotes
    }
    things.append(Settings(f"identity/oidc/key/{TOKEN_ROLE}", "key of people's tokens", key))
    things.append(Settings(f"identity/oidc/role/{TOKEN_ROLE}", "role of people's tokens", role))
    return things


def _server_login(setup: Setup) -> list[Resource]:
    policies = [f"{OURS}server"] + [_DATABASE_POLICY] * (setup.database is not None)
    token = {"token_policies": policies, "token_no_default_policy": True, "token_period": _SERVER_TOKEN_PERIOD}
    if setup.kubernetes is None:
        role = {**token, "bind_secret_id": True, "secret_id_ttl": _SECRET_ID_LIFE}
        things: list[Resource] = [
            Mount("sys/auth", "approle", "approle"),
            Settings(f"auth/approle/role/{SERVER}", "the server's AppRole", role),
            _renewer(),
        ]
        return things
    cluster = setup.kubernetes
    config: dict[str, object] = {"kubernetes_host": cluster.host}
    if cluster.ca is not None:
        config["kubernetes_ca_cert"] = cluster.ca
    account = {
        "bound_service_account_names": [cluster.service_account],
        "bound_service_account_namespaces": [cluster.namespace],
        "audience": cluster.audience,
    }
    return [
        Mount("sys/auth", "kubernetes", "kubernetes"),
        Settings("auth/kubernetes/config", "the cluster", config),
        Settings(f"auth/kubernetes/role/{SERVER}", "the server's Kubernetes role", {**account, **token}),
        Mount("sys/auth", "approle", "approle"),
        _renewer(),
    ]


def _renewer() -> Resource:
    """The login of the timer that renews the server's certificate: short, and good for that only."""
    role = {
        "token_policies": [RENEWER],
        "token_no_default_policy": True,
        "token_ttl": _RENEWER_TOKEN_LIFE,
        "token_max_ttl": _RENEWER_TOKEN_LIFE,
        "bind_secret_id": True,
        "secret_id_ttl": _SECRET_ID_LIFE,
    }
    return Settings(f"auth/approle/role/{RENEWER}", "the AppRole that renews the server's certificate", role)


def _certificates(setup: Setup) -> list[Resource]:
    things: list[Resource] = []
    if setup.root_authority is not None:
        things.append(Authority(setup.root_authority, setup.organization, _ROOT_LIFE))
    common = {
        "key_type": "ec",
        "key_bits": 256,
        "ttl": min(_CERTIFICATE_LIFE, setup.longest_certificate),
        "max_ttl": setup.longest_certificate,
        "organization": [setup.organization],  # some TLS libraries refuse an empty subject
        "require_cn": False,
        "use_csr_common_name": False,  # names come with the request for a signature, where the role checks them
        "use_csr_sans": False,
        "allow_any_name": False,
        "allow_localhost": False,
        "allow_subdomains": False,
        "allow_glob_domains": False,
        "allow_wildcard_certificates": False,
        "enforce_hostnames": True,
        "code_signing_flag": False,
        "email_protection_flag": False,
        "basic_constraints_valid_for_non_ca": True,
    }
    server = {
        "allowed_domains": list(setup.server_names),
        "allow_bare_domains": True,
        "allow_ip_sans": setup.server_addresses,
        "allowed_uri_sans": [],
        "server_flag": True,
        "client_flag": False,
        "ext_key_usage": ["ServerAuth"],
    }
    client = {
        "allowed_domains": [],
        "allow_bare_domains": False,
        "allow_ip_sans": False,
        "allowed_uri_sans": [f"spiffe://{setup.trust_domain}/client/*"],
        "server_flag": False,
        "client_flag": True,
        "ext_key_usage": ["ClientAuth"],
    }
    # OpenBao's: whatever policy a login has, no life is longer than the role's. Ours leave the parameters out as well.
    bounds = {"not_after_bound": "forbid", "not_before_bound": "forbid"}
    for role, what, values in ((SERVER, "server", server), (CLIENT, "client", client)):
        words = f"the role of {what} certificates"
        things.append(Settings(f"pki/roles/{role}", words, {**common, **values}, where_known=bounds))
    return things


def _database(engine: DatabaseEngine) -> list[Resource]:
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "connection_url": engine.url,
        "username": engine.username,
        "password_authentication": "scram-sha-256",  # Vault sends the verifier: the password stands in no log
        "allowed_roles": [SERVER],
    }
    role = {
        "db_name": DATABASE,
        "creation_statements": [_CREATE_LOGIN],
        "renew_statements": [_RENEW_LOGIN],
        "revocation_statements": [_END_SESSIONS, _DROP_LOGIN],
        "default_ttl": engine.life,
        "max_ttl": engine.longest,
    }
    return [
        Mount("sys/mounts", "database", "database"),
        Settings(
            f"database/config/{DATABASE}",
            "the connection to the database",
            connection,
            inside="connection_details",
            secret=lambda: {"password": engine.password()},
        ),
        Settings(f"database/roles/{SERVER}", "the server's role in the database", role),
    ]
