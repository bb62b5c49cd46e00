"""Who we are to Vault: the ways to log in, and the one token that is kept alive, renewed and replaced.

A login and a way to send one request come in; the token to send with a call goes out. One thread at a time
logs in or renews, the others wait for it. What is done under the login is not known here.
"""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vault_service.keys.answers import (
    VaultBadAnswer,
    VaultDenied,
    VaultError,
    VaultRefused,
    auth_of,
    data_of,
    seconds_of,
)


@dataclass(frozen=True)
class TokenFile:
    """A file with a token, read again whenever Vault refuses the last one (an agent may replace it)."""

    path: Path


@dataclass(frozen=True)
class TokenValue:
    """A token held in memory; it does not print."""

    token: str = field(repr=False)


@dataclass(frozen=True)
class AppRole:
    """Two files of an AppRole login, read again at every login; `mount` is where the method is mounted."""

    role_id_file: Path
    secret_id_file: Path
    mount: str = "approle"


Login = TokenFile | TokenValue | AppRole


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

    @classmethod
    def living(cls, value: str, seconds: float) -> "Token":
        """`seconds` to live from now, 0 for ever; renewed when a third of that is left."""
        if seconds == 0:
            return cls(value)
        now = time.monotonic()
        return cls(value, now + seconds, now + seconds * 2 / 3)

    @property
    def seconds_left(self) -> float:
        """Seconds until it ends, 0 when it has."""
        return max(0.0, self.ends - time.monotonic())

    def renewed_no_more(self) -> "Token":
        """The same token, used to its end."""
        return Token(self.value, self.ends, self.ends)


class LoginKeeper:
    """Holds the token of one login."""

    def __init__(self, login: Login, send: Send) -> None:
        self._login = login
        self._send = send
        self._token: Token | None = None
        self._lock = threading.Lock()

    @property
    def seconds_left(self) -> float:
        """Seconds until the login ends, infinite for one without end; 0 when there is none yet."""
        token = self._token
        return token.seconds_left if token else 0.0

    def current(self, deadline: float) -> Token:
        """The token to send, renewed in time; when renewing fails for now, one that lives is used."""
        token = self._token
        if token is not None and time.monotonic() < token.renew_at:
            return token
        with self._lock:
            token = self._token or self._log_in(deadline)
            if time.monotonic() >= token.renew_at:
                try:
                    token = self._renewed(token, deadline)
                except VaultError as error:
                    if not error.transient or token.seconds_left == 0:
                        raise
                    # Not at every call: each would wait for a Vault that is away.
                    token = Token(token.value, token.ends, time.monotonic() + token.seconds_left / 3)
            self._token = token
            return token

    def renew(self, deadline: float) -> None:
        """Renew now. VaultDenied when the login is over and nothing can make a new one."""
        with self._lock:
            token = self._token or self._log_in(deadline)
            self._token = self._renewed(token, deadline)

    def replacement(self, refused: Token, deadline: float) -> Token | None:
        """Another token after Vault answered 403 to `refused`; None when none can help.

        A token that still lives was refused by its policies: a fresh login would be refused as well, and
        a call that is not allowed must not cost a login each time.
        """
        with self._lock:
            if self._token is not None and self._token.value != refused.value:
                return self._token  # another thread was here first
            try:
                self._send("GET", "auth/token/lookup-self", None, refused.value, deadline)
            except VaultDenied:
                fresh = self._log_in(deadline)
            else:
                return None
            self._token = fresh
            return fresh

    def _renewed(self, token: Token, deadline: float) -> Token:
        if math.isinf(token.ends):
            return token
        path = "auth/token/renew-self"
        try:
            renewed = token_of(self._send("POST", path, {}, token.value, deadline), path)
        except VaultDenied:  # it has ended, or was revoked
            return self._log_in(deadline)
        except VaultRefused:  # a token that cannot be renewed
            renewed = token
        if renewed.ends - token.ends >= 1.0:
            return renewed
        # It cannot live longer than this.
        return self._log_in(deadline) if isinstance(self._login, AppRole) else renewed.renewed_no_more()

    def _log_in(self, deadline: float) -> Token:
        match self._login:
            case TokenValue(value):
                return self._looked_up(value, deadline)
            case TokenFile(path):
                return self._looked_up(_secret(path), deadline)
            case AppRole(role_id_file, secret_id_file, mount):
                ids = {"role_id": _secret(role_id_file), "secret_id": _secret(secret_id_file)}
                where = f"auth/{mount}/login"
                try:
                    return token_of(self._send("POST", where, ids, None, deadline), where)
                except VaultRefused:  # how Vault says that one of the two is wrong or has ended
                    pass
                raise VaultDenied(f"{where}: the role id or the secret id is not accepted")

    def _looked_up(self, value: str, deadline: float) -> Token:
        path = "auth/token/lookup-self"
        data = data_of(self._send("GET", path, None, value, deadline), path)
        return Token.living(value, seconds_of(data.get("ttl"), path))


def token_of(answer: Mapping[str, Any], path: str) -> Token:
    """The token that an answer to a login or a renewal at `path` carries."""
    auth = auth_of(answer, path)
    value = auth.get("client_token")
    if not isinstance(value, str) or not value:
        raise VaultBadAnswer(f"{path} gave no token")
    return Token.living(value, seconds_of(auth.get("lease_duration"), path))


def _secret(path: Path) -> str:
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        secret = ""
    if not secret:
        raise VaultDenied(f"the login file {path} cannot be read or is empty")
    return secret
