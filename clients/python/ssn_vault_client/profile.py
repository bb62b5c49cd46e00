"""Owns where the vault is and as whom to call it: from a development home or a TOML file. Every mistake is a
ProfileError that names the field; nothing is contacted here."""

import json
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DEFAULT_TIMEOUT = 10.0

_KEYS = ("address", "ca", "cert", "key", "person_token_file", "timeout")


class ProfileError(Exception):
    """A profile that cannot be used. `field` is the path of what is wrong, such as `profiles.sis.cert`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the vault is (`address`, host:port) and as whom to call it.

    `ca`, `cert` and `key` are PEM files; the certificate says which client this is. `person_token_file`
    holds a person's token, alone, and is read anew at each call, since tokens live 10 minutes. `timeout`:
    seconds a call.
    """

    address: str
    ca: Path
    cert: Path
    key: Path
    person_token_file: Path | None = None
    timeout: float = DEFAULT_TIMEOUT

    @classmethod
    def from_home(cls, directory: Path | str, client: str) -> Self:
        """The profile of `client` (such as `sis`) in the home of a running `ssn-vault dev`.

        Raises ProfileError, also when nothing runs there.
        """
        home = Path(directory)
        try:
            ready = json.loads((home / "ready.json").read_bytes())
        except FileNotFoundError:
            raise ProfileError("ready.json", f"not in {home}; is `ssn-vault dev` running there?") from None
        except OSError as failure:
            raise ProfileError("ready.json", f"cannot be read: {failure.strerror}") from None
        except ValueError:
            raise ProfileError("ready.json", "is not JSON") from None
        top = _table(ready, "ready.json")
        clients = _table(top.get("clients"), "clients")
        if client not in clients:
            raise ProfileError(f"clients.{client}", f"no such client; there are {', '.join(sorted(clients))}")
        files = _table(clients[client], f"clients.{client}")
        return cls(
            address=_string(top, "", "address"),
            ca=_path(top, "", "ca", home),
            cert=_path(files, f"clients.{client}.", "cert", home),
            key=_path(files, f"clients.{client}.", "key", home),
        )

    @classmethod
    def from_toml(cls, path: Path | str, name: str) -> Self:
        """The table `[profiles.NAME]` of a TOML file: `address`, `ca`, `cert`, `key`, and optionally
        `person_token_file` and `timeout` (seconds). Paths are relative to the file. Raises ProfileError.
        """
        file = Path(path)
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as failure:
            raise ProfileError(str(file), f"cannot be read: {failure.strerror}") from None
        except UnicodeDecodeError:
            raise ProfileError(str(file), "is not UTF-8") from None
        except tomllib.TOMLDecodeError as failure:
            raise ProfileError(str(file), f"is not TOML: {failure}") from None
        profiles = _table(document.get("profiles"), "profiles")
        if name not in profiles:
            raise ProfileError(f"profiles.{name}", f"no such profile; there are: {', '.join(sorted(profiles))}")
        prefix = f"profiles.{name}."
        table = _table(profiles[name], f"profiles.{name}")
        for key in table:
            if key not in _KEYS:
                raise ProfileError(prefix + key, f"unknown; a profile has {', '.join(_KEYS)}")
        return cls(
            address=_string(table, prefix, "address"),
            ca=_path(table, prefix, "ca", file.parent),
            cert=_path(table, prefix, "cert", file.parent),
            key=_path(table, prefix, "key", file.parent),
            person_token_file=(
                _path(table, prefix, "person_token_file", file.parent) if "person_token_file" in table else None
            ),
            timeout=_seconds(table.get("timeout", DEFAULT_TIMEOUT), prefix + "timeout"),
        )

    def read_credentials(self) -> tuple[bytes, bytes, bytes]:
        """The contents of `ca`, `key` and `cert`, tried first: gRPC itself would only say "unavailable".

        Raises ProfileError for a file that is missing or no PEM, and for a key that is not the certificate's.
        """
        ca, key, cert = _contents(self.ca, "ca"), _contents(self.key, "key"), _contents(self.cert, "cert")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cafile=self.ca)
        except ssl.SSLError:
            raise ProfileError("ca", f"{self.ca} holds no certificate in PEM form") from None
        try:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except ssl.SSLError:
            raise ProfileError(
                "cert, key",
                f"{self.cert} and {self.key} are not a certificate and its unencrypted key in PEM",
            ) from None
        return ca, key, cert


def _table(value: object, field: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ProfileError(field, "missing" if value is None else "must be a table")
    return value


def _string(table: Mapping[str, object], prefix: str, key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise ProfileError(prefix + key, "missing" if value is None else "must be a text that is not empty")
    return value


def _path(table: Mapping[str, object], prefix: str, key: str, base: Path) -> Path:
    return base / Path(_string(table, prefix, key)).expanduser()


def _seconds(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ProfileError(field, "must be a number of seconds above 0")
    return float(value)


def _contents(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as failure:
        raise ProfileError(field, f"{path} cannot be read: {failure.strerror}") from None
