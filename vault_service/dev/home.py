"""The development home: its files, its lock, and the settings of the server that runs on it.

A directory, a port and a database URL come in; files that every command understands go out. The names of
the files are a contract (ready.json, config.toml, policy.yaml, people/NAME.token).
"""

import fcntl
import json
import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from vault_service.config import database_url as parsed_url
from vault_service.dev.bootstrap import (
    APPROVER_POLICY,
    AUDITOR_POLICY,
    DESTROY_ALLOW_POLICY,
    DESTROY_DELETE_POLICY,
    KEY_ADMIN_POLICY,
    TRUST_DOMAIN,
    VaultSetup,
    login_person,
    prepare_vault,
    server_approle,
)
from vault_service.dev.certificates import Certificates, write_certificates
from vault_service.errors import ConfigurationError
from vault_service.files import own_file, replace_file
from vault_service.keys.log_signer import pem_bundle
from vault_service.keys.transit import Vault
from vault_service.policy.file import parse_policy
from vault_service.policy.model import Policy, Role
from vault_service.storage.engine import Store, open_store
from vault_service.storage.schema import migrate

SIGNERS: Final = ("director", "privacy-officer")  # whose signatures make a policy valid in a new home
_ROLES: Final = ("server", "admin", "auditor")


class Home:
    """One development home."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.ready_file = self.directory / "ready.json"
        self.config_file = self.directory / "config.toml"
        self.policy_file = self.directory / "policy.yaml"
        self.log_file = self.directory / "server.log"
        self.checkpoint_file = self.directory / "checkpoints"
        self.openbao_directory = self.directory / "openbao"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the home for as long as the block runs. ConfigurationError when another stack does."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with own_file(self.directory / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(f"another stack runs in {self.directory}") from None
            self.ready_file.unlink(missing_ok=True)
            try:
                yield
            finally:
                self.ready_file.unlink(missing_ok=True)

    def policy(self) -> Policy:
        """The policy in policy.yaml; the sample policy is put there first when there is none."""
        if not self.policy_file.exists():
            sample = resources.files("vault_service.dev").joinpath("policy.yaml").read_text("utf-8")
            self._write("policy.yaml", sample)
        return parse_policy(self.policy_file.read_text("utf-8"))

    def signers(self) -> tuple[str, ...]:
        """Whose signatures make a policy valid here. A home keeps those it was made with: they signed its past."""
        if not self.config_file.exists():
            return SIGNERS
        return tuple(tomllib.loads(self.config_file.read_text("utf-8"))["policy"]["signers"])

    def prepare(self, root: Vault, port: int, database_url: str | None) -> Certificates:
        """Bring Vault, certificates, logins, database and config.toml into order; at every start."""
        policy = self.policy()
        setup = prepare_vault(root, vault_policies(policy))
        certificates = write_certificates(root, self.directory / "certificates", list(policy.clients))
        for name in policy.people:
            self._write(f"people/{name}.token", login_person(root, name))
        role_id, secret_id = server_approle(root)
        self._write("server/role-id", role_id)
        self._write("server/secret-id", secret_id)
        self._write("audit.pub.pem", pem_bundle(root))
        databases = self._prepare_database(database_url)
        self._write("config.toml", self._config(root, setup, certificates, databases, port))
        return certificates

    def announce(self, address: str, certificates: Certificates, vault_address: str, database_url: str | None) -> None:
        """Put ready.json in place."""
        clients = {
            name: {"cert": str(files.cert), "key": str(files.key), "p12": str(files.p12)}
            for name, files in certificates.clients.items()
        }
        ready = {
            "address": address,
            "pid": os.getpid(),
            "database_url": database_url or self._sqlite_url(),
            "vault_addr": vault_address,
            "ca": str(certificates.ca),
            "audit_public_key": str(self.directory / "audit.pub.pem"),
            "clients": clients,
        }
        self._write("ready.json", json.dumps(ready, indent=2) + "\n")

    def _sqlite_url(self) -> str:
        file = str(self.directory / "ssn-vault.db")
        return sa.URL.create("sqlite", database=file).render_as_string(hide_password=False)

    def _prepare_database(self, database_url: str | None) -> Mapping[str, Mapping[str, str]]:
        """Migrate, and give each role its own login; config sections by name."""
        owner = parsed_url(database_url or self._sqlite_url())
        if owner.get_backend_name() == "postgresql":
            owner = owner.set(drivername="postgresql+psycopg")
        store = open_store(owner)
        try:
            migrate(store)
            if not store.postgresql:
                return {"database": {"url": owner.render_as_string(hide_password=False)}}
            sections = {"migrator_database": self._section("migrator", owner, str(owner.password or ""))}
            for role in _ROLES:
                name = f"ssnv_{owner.database}_{role}"[:63]
                password = secrets.token_urlsafe(24)
                _give_login(store, name, f"ssn_vault_{role}", password)
                section = "database" if role == "server" else f"{role}_database"
                sections[section] = self._section(role, owner.set(username=name), password)
            return sections
        except sa.exc.DBAPIError as error:
            raise ConfigurationError(
                f"the database cannot be prepared ({type(error.orig).__name__}): the URL's user must own it "
                "and may create roles"
            ) from None
        finally:
            store.close()

    def _section(self, role: str, url: sa.URL, password: str) -> Mapping[str, str]:
        section = {"url": url.set(password=None).render_as_string()}
        if password:
            section["password_file"] = str(self._write(f"database/{role}.password", password))
        return section

    def _config(
        self,
        root: Vault,
        setup: VaultSetup,
        certificates: Certificates,
        databases: Mapping[str, Mapping[str, str]],
        port: int,
    ) -> str:
        sections: dict[str, Mapping[str, Any]] = {
            "server": {
                "port": port,
                "cert": str(certificates.server.cert),
                "key": str(certificates.server.key),
                "client_ca": str(certificates.ca),
                "trust_domain": TRUST_DOMAIN,
                "reflection": True,
            },
            **databases,
            "vault": {
                "address": root.address,
                "role_id_file": str(self.directory / "server" / "role-id"),
                "secret_id_file": str(self.directory / "server" / "secret-id"),
            },
            "policy": {"signers": list(self.signers())},
            "audit": {"checkpoint_file": str(self.checkpoint_file)},
        }
        issuer = {
            "issuer": setup.issuer,
            "audience": setup.audience,
            "jwks_url": setup.jwks_url,
            "person_claim": "person",
        }
        lines = ["# Written at every start of the development stack."]
        for name, section in sections.items():
            lines += ["", f"[{name}]", *_toml(section)]
        lines += ["", "[[issuers]]", *_toml(issuer), ""]
        return "\n".join(lines)

    def _write(self, name: str, content: str) -> Path:
        """Put a file in place by rename, mode 0600 from its first byte on."""
        path = self.directory / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, content.encode())
        return path


def vault_policies(policy: Policy) -> dict[str, list[str]]:
    """Each person's Vault policies beside everybody's. The first key admin may allow what the others delete."""
    admins = [name for name, person in policy.people.items() if Role.KEY_ADMIN in person.roles]
    given: dict[str, list[str]] = {name: [] for name in policy.people}
    for name, person in policy.people.items():
        if name in admins:
            given[name].append(KEY_ADMIN_POLICY)
        if name in admins[:1]:
            given[name].append(DESTROY_ALLOW_POLICY)
        elif name in admins or Role.APPROVER in person.roles:
            given[name].append(DESTROY_DELETE_POLICY)
        if Role.APPROVER in person.roles:
            given[name].append(APPROVER_POLICY)
        if Role.AUDITOR in person.roles:
            given[name].append(AUDITOR_POLICY)
    return given


def _toml(section: Mapping[str, Any]) -> list[str]:
    """JSON's strings, numbers, booleans and lists of strings are TOML's too."""
    return [f"{name} = {json.dumps(value)}" for name, value in section.items()]


def _give_login(store: Store, name: str, role: str, password: str) -> None:
    """A login role that is a member of one of the schema's roles, with a new password."""
    quote = store.engine.dialect.identifier_preparer.quote_identifier
    with store.engine.begin() as connection:
        known = connection.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}).scalar()
        verb = "ALTER" if known else "CREATE"
        # Our own alphabet of URL-safe characters: nothing in it needs quoting.
        connection.exec_driver_sql(f"{verb} ROLE {quote(name)} LOGIN PASSWORD '{password}'")
        connection.exec_driver_sql(f"GRANT {role} TO {quote(name)}")
