"""The ways to log in to Vault: what each needs, and how a token is got with it.

A login and a way to send one request come in; a token with its end goes out. Files are read at every login, so
that whoever renews them need not tell us. Keeping the token alive is done elsewhere.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from vault_service.keys.answers import (
    VaultBadAnswer,
    VaultDenied,
    VaultLockedOut,
    VaultLoginFile,
    VaultLoginRefused,
    VaultNotFound,
    VaultRefused,
    VaultWrappingRefused,
    auth_of,
    data_of,
    seconds_of,
)
from vault_service.keys.circuit import jittered

_RENEW: Final = (0.55, 0.7)  # of a token's life, drawn anew for each, so that replicas do not renew at one moment
_LOOKUP_SELF: Final = "auth/token/lookup-self"
_log: Final = structlog.stdlib.get_logger("ssn_vault.vault")


@dataclass(frozen=True)
class TokenFile:
    """A file with a token, read again when the last one ends or is refused (an agent may replace it)."""

    path: Path


@dataclass(frozen=True)
class TokenValue:
    """A token held in memory; it does not print."""

    token: str = field(repr=False)


@dataclass(frozen=True)
class AppRole:
    """Two files of an AppRole login; `mount` is where the method is mounted.

    With `secret_id_wrapped` the second file holds a wrapping token: good once, for a secret id that is then kept
    in memory only. A restart needs another one.
    """

    role_id_file: Path
    secret_id_file: Path
    mount: str = "approle"
    secret_id_wrapped: bool = False


@dataclass(frozen=True)
class Kubernetes:
    """The pod's service account, by the token that Kubernetes puts into a file and replaces in time."""

    role: str
    token_file: Path
    mount: str = "kubernetes"


@dataclass(frozen=True)
class Jwt:
    """A signed token (RFC 7519) in a file, from an issuer that Vault trusts."""

    role: str
    token_file: Path
    mount: str = "jwt"


@dataclass(frozen=True)
class Certificate:
    """A TLS client certificate and its key, PEM files; without `role` Vault tries every role.

    It is shown on every connection, not at the login alone: Vault renews such a login only over a connection
    that shows the same certificate.
    """

    cert_file: Path
    key_file: Path
    role: str | None = None
    mount: str = "cert"


Login = TokenFile | TokenValue | AppRole | Kubernetes | Jwt | Certificate


class Send(Protocol):
    """Sends one request under `token`, until `deadline` (monotonic): the whole answer, or a VaultError."""

    def __call__(
        self, method: str, path: str, body: Mapping[str, object] | None, token: str | None, deadline: float
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Token:
    """A token with its end and the moment to renew it (monotonic seconds), infinite for one without end."""

    value: str = field(repr=False)
    ends: float = math.inf
    renew_at: float = math.inf
    life: float = math.inf  # seconds it had when it was given or last renewed

    @classmethod
    def living(cls, value: str, seconds: float) -> "Token":
        """`seconds` to live from now, 0 for ever; renewed when somewhat more than half of that is over."""
        if seconds == 0:
            return cls(value)
        now = time.monotonic()
        return cls(value, now + seconds, now + max(min(seconds, 1.0), seconds * jittered(*_RENEW)), seconds)

    @property
    def seconds_left(self) -> float:
        """Seconds until it ends, 0 when it has."""
        return max(0.0, self.ends - time.monotonic())


class Authenticator:
    """Logs in by one method. One thread at a time."""

    def __init__(self, login: Login, send: Send, reconnect: Callable[[], None]) -> None:
        """`reconnect` makes the next requests use new connections, which read the certificate anew."""
        self._login = login
        self._send = send
        self._reconnect = reconnect
        self._unwrapped: _Unwrapped | None = None
        self._unsure: str | None = None  # the wrapping token that we sent, and got no answer

    def log_in(self, deadline: float) -> Token:
        """A fresh token. VaultLoginRefused when it is refused, VaultLoginFile when a file of it cannot be read."""
        match self._login:
            case TokenValue(value):
                return self._looked_up(value, deadline)
            case TokenFile(path):
                return self._looked_up(_secret(path), deadline)
            case AppRole(role_id_file, secret_id_file, mount, wrapped):
                role_id = _secret(role_id_file)
                secret_id = self._unwrap(secret_id_file, mount, deadline) if wrapped else _secret(secret_id_file)
                ids = {"role_id": role_id, "secret_id": secret_id}
                return self._token_from(mount, ids, "the role id or the secret id is not accepted", deadline)
            case Kubernetes(role, token_file, mount) | Jwt(role, token_file, mount):
                proof = {"role": role, "jwt": _secret(token_file)}
                return self._token_from(mount, proof, "the role or the token is not accepted", deadline)
            case Certificate(cert_file, key_file, role, mount):
                _secret(cert_file), _secret(key_file)  # the error is clearer here than on the wire
                self._reconnect()
                named = {"name": role} if role else {}
                return self._token_from(mount, named, "the role or the certificate is not accepted", deadline)

    def secret_id(self) -> str | None:
        """The secret id that an AppRole's next login shows; None where it cannot be read."""
        if self._unwrapped is not None:
            return self._unwrapped.secret_id
        return _readable(self._login.secret_id_file) if isinstance(self._login, AppRole) else None

    def token_shown(self) -> str | None:
        """The token that the next login takes from a file; None where there is none to read."""
        return _readable(self._login.path) if isinstance(self._login, TokenFile) else None

    def _token_from(self, mount: str, body: Mapping[str, object], refused: str, deadline: float) -> Token:
        path = f"auth/{mount}/login"
        try:
            return token_of(self._send("POST", path, body, None, deadline), path)
        except VaultRefused:  # how most methods say that what was shown is wrong or has ended
            locked = False
        except VaultDenied:  # an AppRole's own refusals are all 400: this one comes from before it
            locked = isinstance(self._login, AppRole)
        if locked:
            raise VaultLockedOut(
                f"{path}: Vault has locked the role out after too many wrong secret ids (sys/locked-users shows it; "
                f"15 minutes by default), or nothing is mounted at auth/{mount}"
            )
        raise VaultLoginRefused(f"{path}: {refused}")

    def _looked_up(self, value: str, deadline: float) -> Token:
        try:
            answer = self._send("GET", _LOOKUP_SELF, None, value, deadline)
        except VaultDenied:
            answer = None
        if answer is None:
            raise VaultLoginRefused(f"{_LOOKUP_SELF}: the token has ended, was revoked, or may not look at itself")
        data = data_of(answer, _LOOKUP_SELF)
        return Token.living(value, seconds_of(data.get("ttl"), _LOOKUP_SELF))

    def _unwrap(self, file: Path, mount: str, deadline: float) -> str:
        """The secret id behind the wrapping token in `file`, asked for once for each token.

        The wrapping token's origin is looked at first, as HashiCorp's guide to response wrapping asks: one that
        somebody made of a secret id of their own was not made by the AppRole's path.
        """
        try:
            wrapping = _secret(file)
        except VaultLoginFile:
            if self._unwrapped is not None:
                return self._unwrapped.secret_id  # who gave the file may take it away once it is used
            raise
        if self._unwrapped is not None and self._unwrapped.wrapping == wrapping:
            return self._unwrapped.secret_id
        path = "sys/wrapping/lookup"
        try:
            answer = self._send("POST", path, {"token": wrapping}, None, deadline)
        except (VaultRefused, VaultDenied, VaultNotFound):
            answer = None
        if answer is None:
            raise self._spent(wrapping, path)
        made_by = data_of(answer, path).get("creation_path")
        if not isinstance(made_by, str) or not re.fullmatch(rf"auth/{re.escape(mount)}/role/[^/]+/secret-id", made_by):
            raise _wrapping_refused(
                f"{path}: the wrapping token was not made by auth/{mount}: somebody may have put it"
            )
        path = "sys/wrapping/unwrap"
        self._unsure = wrapping
        try:
            answer = self._send("POST", path, {}, wrapping, deadline)
        except (VaultRefused, VaultDenied, VaultNotFound):
            self._unsure, answer = None, None
        if answer is None:
            raise self._spent(wrapping, path)
        secret_id = data_of(answer, path).get("secret_id")
        if not isinstance(secret_id, str) or not secret_id:
            raise VaultBadAnswer(f"{path} gave no secret id")
        self._unwrapped = _Unwrapped(wrapping, secret_id)
        return secret_id

    def _spent(self, wrapping: str, path: str) -> VaultWrappingRefused:
        why = "used already or has ended: somebody else may hold the secret id"
        if self._unsure == wrapping:
            why = "used already: by our own request, whose answer was lost, or by somebody else"
        return _wrapping_refused(f"{path}: the wrapping token of the secret id was {why}")


@dataclass(frozen=True)
class _Unwrapped:
    """A wrapping token that was used, and what was in it."""

    wrapping: str = field(repr=False)
    secret_id: str = field(repr=False)


def token_of(answer: Mapping[str, Any], path: str) -> Token:
    """The token that an answer to a login or a renewal at `path` carries."""
    auth = auth_of(answer, path)
    value = auth.get("client_token")
    if not isinstance(value, str) or not value:
        raise VaultBadAnswer(f"{path} gave no token")
    return Token.living(value, seconds_of(auth.get("lease_duration"), path))


def _wrapping_refused(why: str) -> VaultWrappingRefused:
    _log.error("the wrapped secret id is not to be trusted", why=why)
    return VaultWrappingRefused(why)


def _secret(path: Path) -> str:
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        secret = ""
    if not secret:
        raise VaultLoginFile(f"the login file {path} cannot be read or is empty")
    return secret


def _readable(path: Path) -> str | None:
    try:
        return _secret(path)
    except VaultLoginFile:
        return None
