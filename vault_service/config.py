"""The server's settings: one typed place, each with its unit and default; unknown names are refused.

A TOML file and `SSN_VAULT_*` variables come in (a variable wins: `SSN_VAULT_SERVER__PORT=50051`); one frozen
`Settings` goes out. Secrets come by file path only, never in the file or the surroundings.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from vault_service.errors import ConfigurationError

PREFIX: Final = "SSN_VAULT_"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
_ESCAPED_FOR_NOTHING: Final = re.compile(r"%(?!25|23|3[Ff]|[89A-Fa-f][0-9A-Fa-f])")  # all but % # ? and non-ASCII
_STRICT: Final = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

# Every number has an upper bound: what is beyond it is a slip of the pen, or more than sockets, threads, clocks or
# calendars take, which would show as a fault while calls are served.
Seconds = Annotated[float, Field(gt=0, le=3600)]  # an hour: whoever waits for one answer has given up by then
Days = Annotated[float, Field(gt=0, le=3650)]  # ten years; NIST SP 800-57 has one to two


class _Section(BaseModel):
    model_config = _STRICT


class ServerSettings(_Section):
    """The gRPC server and its certificates."""

    host: str = "127.0.0.1"  # address to listen on
    port: int = Field(default=50051, ge=0, le=65535)  # 0 takes a free one
    cert: Path  # PEM chain of the server; read again when it changes
    key: Path  # PEM private key
    client_ca: Path  # PEM bundle that client certificates must descend from
    trust_domain: str  # of the clients' SPIFFE ids
    # Days from a client certificate's first moment to its last; one that lives longer names nobody. A key that got
    # away is good for as long, and an authority can be made to sign for years by whoever may ask it for a day.
    longest_client_certificate_days: Days = 90.0
    reflection: bool = False  # lets tools list the methods; development only
    drain_seconds: Seconds = 10.0  # on SIGTERM, how long running calls may take to end
    metrics_host: str = "127.0.0.1"  # /metrics, /livez, /readyz: plain HTTP, no secrets
    metrics_port: int = Field(default=0, ge=-1, le=65535)  # 0 takes a free one, -1 opens none


class LimitSettings(_Section):
    """Bounds on what the server takes on at once; beyond them it answers OVERLOADED."""

    message_bytes: int = Field(
        default=4 * 1024 * 1024, gt=0, le=64 * 1024 * 1024
    )  # largest request; 1,000 items need 1 MiB
    calls_at_once: int = Field(
        default=1024, gt=0, le=65_536
    )  # calls and stream messages being worked on: all in memory
    items_at_once: int = Field(default=32_768, gt=0, le=4_194_304)  # items of those calls together: all in memory
    items_per_call: int = Field(default=1000, gt=0, le=1000)  # contract: 1,000
    items_per_transaction: int = Field(default=2000, gt=0, le=100_000)  # a larger call has its own; rows locked at once
    transactions_at_once: int = Field(
        default=1, gt=0, le=256
    )  # database threads and connections; SQLite always has one
    least_seconds_left: float = Field(default=0.01, ge=0, le=60)  # a call whose deadline is nearer is not begun

    @model_validator(mode="after")
    def _one_call_fits(self) -> Self:
        if self.items_at_once < self.items_per_call:
            raise ValueError("items_at_once is below items_per_call: the largest call could never be taken on")
        return self


def database_url(text: str) -> sa.URL:
    """The database that a URL names. ConfigurationError for none, or a path that would be read as another one."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError("database.url is not a URL") from None
    if url.get_backend_name() == "sqlite":
        if "?" in text:
            raise ConfigurationError("database.url: an SQLite file has no options; a ? in its path is written as %3F")
        if _ESCAPED_FOR_NOTHING.search(text):
            raise ConfigurationError("database.url: a % in the path of an SQLite file is written as %25")
    return url


class DatabaseSettings(_Section):
    """One role's way to the database. A password stands in a file of its own, never in the URL."""

    url: str = Field(repr=False)  # SQLAlchemy URL: postgresql+psycopg://user@host/name or sqlite:////path
    password_file: Path | None = None

    vault_role: str | None = Field(
        default=None, pattern=r"^[a-z][a-z0-9-]{0,62}$"
    )  # the server's: Vault makes the login

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.vault_role and self.password_file:
            raise ValueError("password_file and vault_role exclude each other: Vault makes user and password")
        return self

    def full_url(self) -> sa.URL:
        """The URL with the password in it; ConfigurationError when the file cannot be read."""
        url = database_url(self.url)
        if self.password_file is None:
            return url
        try:
            return url.set(password=self.password_file.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"database.password_file cannot be read: {type(error).__name__}") from None


VaultMethod = Literal["token", "approle", "kubernetes", "jwt", "cert"]
_VAULT_METHODS: Final[tuple[tuple[VaultMethod, tuple[str, ...], tuple[str, ...]], ...]] = (  # needs, and may have
    ("token", ("token_file",), ()),
    ("approle", ("role_id_file", "secret_id_file"), ("secret_id_wrapped",)),
    ("kubernetes", ("kubernetes_role",), ("kubernetes_token_file",)),
    ("jwt", ("jwt_role", "jwt_token_file"), ()),
    ("cert", ("client_cert", "client_key"), ("certificate_role",)),
)


class VaultSettings(_Section):
    """Vault's address, and the server's login there: settings of exactly one of the methods below."""

    address: str  # URL, https:// beyond this machine
    ca_file: Path | None = None  # PEM bundle trusted instead of the public authorities
    namespace: str | None = None  # that holds the engines and the login
    timeout: Seconds = 5.0  # seconds for a call with its retries; 0.4 of it for one attempt of what is tried again
    auth_mount: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")  # else its usual one
    # A token, read again when the last one ends.
    token_file: Path | None = None
    # AppRole, at "approle".
    role_id_file: Path | None = None
    secret_id_file: Path | None = None
    secret_id_wrapped: bool = False  # the file holds a wrapping token: good once, so each start needs another
    # Kubernetes, at "kubernetes".
    kubernetes_role: str | None = None
    kubernetes_token_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")  # read at each login
    # JWT, at "jwt".
    jwt_role: str | None = None
    jwt_token_file: Path | None = None  # read at each login
    # TLS certificate, at "cert". Shown on every connection: Vault renews the login only over one that shows it.
    client_cert: Path | None = None  # PEM chain, read at each login
    client_key: Path | None = None  # PEM private key, read at each login
    certificate_role: str | None = None  # else Vault tries every role

    @property
    def method(self) -> VaultMethod:
        """The one way to log in that is set. ConfigurationError names the field that is missing or too much."""
        given = self.model_fields_set
        set_here = {method: [name for name in (*needs, *may) if name in given] for method, needs, may in _VAULT_METHODS}
        chosen = [method for method, names in set_here.items() if names]
        if not chosen:
            ways = "; ".join(" and ".join(needs) for _, needs, _ in _VAULT_METHODS)
            raise ConfigurationError(f"vault has no login; set one of: {ways}")
        if len(chosen) > 1:
            names = ", ".join(name for method in chosen for name in set_here[method])
            raise ConfigurationError(f"vault has more than one login: {names}")
        (method,) = chosen
        needed = next(needs for one, needs, _ in _VAULT_METHODS if one == method)
        missing = [name for name in needed if name not in given]
        if missing:
            raise ConfigurationError(f"vault.{missing[0]} is missing: {' and '.join(needed)} belong together")
        if method == "token" and "auth_mount" in given:
            raise ConfigurationError("vault.auth_mount says nothing beside token_file")
        return method


class KeySettings(_Section):
    """How long unwrapped keys may live in memory, and how long each kind may be used (NIST SP 800-57, 5.3.6)."""

    lease_seconds: float = Field(
        default=300.0, gt=0, le=86_400
    )  # at most a day; then gone, unless Vault was asked again; renewed at half of it
    data_days: Days = 730.0  # cryptoperiods: `keys status` says when one has passed
    index_days: Days = 730.0
    wrapping_days: Days = 365.0


class IssuerSettings(_Section):
    """One issuer of persons' tokens (RFC 7519); its keys come from a URL or a file (JWKS, RFC 7517)."""

    issuer: str
    audience: str
    jwks_url: str | None = None
    jwks_file: Path | None = None
    ca_file: Path | None = None
    person_claim: str = "sub"  # the claim that holds the person's name in the policy
    algorithms: tuple[Literal["RS256", "ES256", "EdDSA", "PS256"], ...] = ("RS256",)
    longest_life: float = Field(default=600.0, gt=0, le=600)  # seconds between iat and exp
    leeway: float = Field(default=5.0, ge=0, le=60)  # seconds that clocks may differ


class PolicySettings(_Section):
    """Whose signatures make a policy valid. It stands here, so that no database can say otherwise."""

    signers: tuple[str, ...]
    signatures: int = Field(default=2, ge=2, le=64)  # nobody gathers more


class AuditSettings(_Section):
    """The disclosure record: its log, how often it is sealed, and where checkpoints go outside the database."""

    refusals_per_minute: int = Field(
        default=60, gt=0, le=1_000_000
    )  # of one client, method and reason; more are counted in one event a minute
    origin: str | None = Field(default=None, pattern=r"^[!-*,-~]{1,128}$")  # the log's name; else TRUST_DOMAIN/audit
    sequence: bool = True  # whether this server may seal the log; one at a time does
    checkpoint_seconds: float = Field(default=2.0, gt=0, le=3)  # between checkpoints when anything happened
    max_unsealed: float = Field(
        default=300.0, ge=1, le=86_400
    )  # seconds without a seal or a sink, then nothing is given out
    checkpoint_file: Path | None = None  # append-only file of checkpoints, not beside the database
    witness_url: str | None = None  # a witness that cosigns: `ssn-vault audit witness`, or any of C2SP tlog-witness
    witness_key_file: Path | None = None  # its key, as it prints it
    witness_ca_file: Path | None = None  # PEM bundle trusted for it instead of the public authorities
    witness_timeout: Seconds = 2.0  # seconds for one request to it
    ship: str | None = None  # a sink of events as OCSF lines: stdout, file:/path, syslog:/dev/log, syslog:tls:HOST:PORT
    ship_ca_file: Path | None = None  # PEM bundle trusted for syslog:tls instead of the public authorities

    @model_validator(mode="after")
    def _witness_with_key(self) -> Self:
        if (self.witness_url is None) != (self.witness_key_file is None):
            raise ValueError("witness_url and witness_key_file belong together")
        return self

    @property
    def sinks(self) -> list[str]:
        """The names of the sinks that must acknowledge: checkpoints, or the events that were shipped."""
        given = {"file": self.checkpoint_file, "witness": self.witness_url, "ship": self.ship}
        return [name for name, setting in given.items() if setting is not None]


class Settings(BaseSettings):
    """Everything `ssn-vault` takes from outside."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    server: ServerSettings
    database: DatabaseSettings  # the server's role
    admin_database: DatabaseSettings | None = None  # the admins' role, for the command line
    auditor_database: DatabaseSettings | None = None  # the auditors' role, for the command line
    migrator_database: DatabaseSettings | None = None  # the schema's owner, for `database migrate`
    vault: VaultSettings
    policy: PolicySettings
    issuers: tuple[IssuerSettings, ...] = ()
    limits: LimitSettings = LimitSettings()
    keys: KeySettings = KeySettings()
    audit: AuditSettings = AuditSettings()

    @property
    def origin(self) -> str:
        """The name of the log of events."""
        return self.audit.origin or f"{self.server.trust_domain}/audit"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables before the file; nothing else."""
        path = init_settings.init_kwargs.get("_file") if hasattr(init_settings, "init_kwargs") else None
        file = _File(settings_cls, path) if path is not None else None
        return (env_settings, file) if file else (env_settings,)


class _File(TomlConfigSettingsSource):
    """The TOML file, as one more source."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls, toml_file=path)


def _refuse_plain_http(settings: Settings) -> None:
    """Keys and persons' names may cross this machine in the clear, but no network."""
    named = [("vault.address", settings.vault.address)]
    if settings.audit.witness_url:
        named.append(("audit.witness_url", settings.audit.witness_url))
    named += [(f"issuers.{at}.jwks_url", one.jwks_url) for at, one in enumerate(settings.issuers) if one.jwks_url]
    for name, url in named:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ConfigurationError(f"{name} must begin with https://, beyond this machine")


def load_settings(file: Path | None = None) -> Settings:
    """The settings of `file` (else of `SSN_VAULT_CONFIG`) and of the variables.

    ConfigurationError names every setting that is missing, unknown or wrong; never a value.
    """
    path = file or (Path(found) if (found := os.environ.get(CONFIG_VARIABLE)) else None)
    if path is not None and not path.is_file():
        raise ConfigurationError(f"there is no configuration file at {path}")
    _refuse_unknown_variables()
    try:
        settings = Settings(**({"_file": path} if path else {}))  # type: ignore[arg-type]  # read by the sources
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise ConfigurationError("the configuration is not valid:\n  " + "\n  ".join(lines)) from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"the configuration file cannot be read: {type(error).__name__}") from None
    _refuse_plain_http(settings)
    return settings


def _refuse_unknown_variables() -> None:
    """A misspelt variable would pass silently and leave a default in force."""
    for name in os.environ:
        if _is_service_link(name, os.environ[name]):
            continue
        if name.upper().startswith(PREFIX) and name.upper() != CONFIG_VARIABLE:  # pydantic takes either case
            model: Any = Settings
            for part in name[len(PREFIX) :].lower().split("__"):
                field = getattr(model, "model_fields", {}).get(part)
                if field is None:
                    raise ConfigurationError(f"{name} is not a setting")
                parts = [kind for kind in get_args(field.annotation) if kind is not type(None)]
                model = parts[0] if parts else field.annotation


# Kubernetes puts these into every container for each Service of its namespace, such as one named `ssn-vault`.
_LINK_URL: Final = r"(tcp|udp|sctp)://[0-9A-Fa-f.:\[\]]+"
_LINK_ADDRESS: Final = r"[0-9A-Fa-f.:]+"
_SERVICE_LINKS: Final = [
    (re.compile(rf"{PREFIX}([A-Z0-9]+_)*{name}"), re.compile(value))
    for name, value in (
        ("SERVICE_HOST", _LINK_ADDRESS),
        ("SERVICE_PORT(_[A-Z0-9]+)*", "[0-9]{1,5}"),
        ("PORT", _LINK_URL),
        ("PORT_[0-9]+_(TCP|UDP|SCTP)", _LINK_URL),
        ("PORT_[0-9]+_(TCP|UDP|SCTP)_PROTO", "tcp|udp|sctp"),
        ("PORT_[0-9]+_(TCP|UDP|SCTP)_PORT", "[0-9]{1,5}"),
        ("PORT_[0-9]+_(TCP|UDP|SCTP)_ADDR", _LINK_ADDRESS),
    )
]


def _is_service_link(name: str, value: str) -> bool:
    """Whether a variable is one of Kubernetes' own; a setting has two underscores together, these never do."""
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _SERVICE_LINKS)
