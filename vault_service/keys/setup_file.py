"""The reviewed file that `vault-setup` works from: TOML in, a `Setup` out. Unknown names are refused.

It holds no secret: a password stands in a file of its own, which is read only when the database's connection is made.
"""

import tomllib
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vault_service.errors import ConfigurationError
from vault_service.keys.resources import AuditDevice
from vault_service.keys.setup import DatabaseEngine, Kubernetes, NamedPerson, Right, Setup
from vault_service.keys.values import seconds_in

_LONGEST_SECONDS: Final = 3650 * 86_400
_STRICT: Final = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _is_duration(text: str) -> str:
    # Vault counts nanoseconds in 64 bits; a life of more than ten years is a slip of the pen.
    if seconds_in(text) > _LONGEST_SECONDS:
        raise ValueError("must be ten years (3650d) at most")
    return text


Duration = Annotated[str, AfterValidator(_is_duration)]  # 24h, 90m, 3d
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
# What goes into a path of Vault, or into a configuration file: nothing there may need quoting.
MountPath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")]
FilePath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./-]+$")]
Domain = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]


class _Section(BaseModel):
    model_config = _STRICT


class _Audit(_Section):
    """The file that Vault logs every request to, on Vault's own machine."""

    file: FilePath
    device: Name = "ssn-vault"


class _Kubernetes(_Section):
    """The cluster in which the server runs."""

    host: Annotated[str, Field(pattern=r"^https://")]  # its API server
    service_account: str
    namespace: str
    audience: str = "vault"  # of the service account's token
    ca_file: Path | None = None  # PEM; none where Vault itself runs in the cluster


class _Server(_Section):
    """The server: its login, and what its certificates may say."""

    names: Annotated[tuple[Domain, ...], Field(min_length=1)]
    addresses: bool = False
    login: Literal["approle", "kubernetes"] = "approle"
    kubernetes: _Kubernetes | None = None


class _Certificates(_Section):
    """Who signs certificates, and for how long."""

    authority: Literal["root", "external"] = "root"  # a root made in Vault; or one that you bring
    organization: Annotated[str, Field(pattern=r"^[A-Za-z0-9 .-]+$")] = "ssn-vault"  # stands in every certificate
    longest: Duration = "3d"


class _Database(_Section):
    """PostgreSQL, as Vault reaches it to make and drop logins."""

    url: Annotated[str, Field(pattern=r"^postgresql://\{\{username\}\}:\{\{password\}\}@")]
    username: str
    password_file: Path
    life: Duration = "1h"
    longest: Duration = "24h"


class _Person(_Section):
    """One person: the name in the policy, and the name at the organisation's own login."""

    name: Name
    alias: Annotated[str, Field(min_length=1)]
    login: MountPath | None = None  # else people_login
    rights: tuple[Right, ...] = ()


class _File(_Section):
    trust_domain: Domain
    people_login: MountPath | None = None
    token_issuer: Annotated[str, Field(pattern=r"^https://")] | None = None
    audit: _Audit
    server: _Server
    certificates: _Certificates = _Certificates()
    database: _Database | None = None
    people: tuple[_Person, ...]


def load_setup(path: Path) -> Setup:
    """The setup that the file at `path` describes. ConfigurationError names each mistake, never a value."""
    try:
        file = _File.model_validate(tomllib.loads(path.read_text("utf-8")))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise ConfigurationError(f"{path} is not valid:\n  " + "\n  ".join(lines)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as TOML: {type(error).__name__}") from None
    own = file.certificates.authority == "root"
    return Setup(
        trust_domain=file.trust_domain,
        people=tuple(_person(person, file.people_login) for person in file.people),
        server_names=file.server.names,
        server_addresses=file.server.addresses,
        organization=file.certificates.organization,
        kubernetes=_kubernetes(file.server),
        root_authority=f"ssn-vault authority of {file.trust_domain}" if own else None,
        longest_certificate=seconds_in(file.certificates.longest),
        token_issuer=file.token_issuer,
        audit=AuditDevice(file.audit.device, file.audit.file),
        database=_database(file.database) if file.database else None,
    )


def _person(person: _Person, people_login: str | None) -> NamedPerson:
    login = person.login or people_login
    if login is None:
        raise ConfigurationError(f"people.{person.name}: neither login nor people_login says where they log in")
    return NamedPerson(person.name, login, person.alias, frozenset(person.rights))


def _kubernetes(server: _Server) -> Kubernetes | None:
    cluster = server.kubernetes
    if (server.login == "kubernetes") != (cluster is not None):
        raise ConfigurationError('server.kubernetes belongs to server.login = "kubernetes", and to no other')
    if cluster is None:
        return None
    ca = _text(cluster.ca_file, "server.kubernetes.ca_file") if cluster.ca_file else None
    return Kubernetes(cluster.host, cluster.service_account, cluster.namespace, cluster.audience, ca)


def _database(database: _Database) -> DatabaseEngine:
    return DatabaseEngine(
        url=database.url,
        username=database.username,
        password=partial(_text, database.password_file, "database.password_file"),
        life=seconds_in(database.life),
        longest=seconds_in(database.longest),
    )


def _text(path: Path, setting: str) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{setting} cannot be read: {type(error).__name__}") from None
