"""When a login will end for want of somebody's care: the token that is held, and what the next login would show.

A login, its token and a way to ask Vault come in; seconds left go out, as values and as a metric, and a warning in the
log once a fifth of a life is left. What Vault does not tell is unknown, not endless. Renewing is done elsewhere.
"""

import math
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import structlog
from prometheus_client import Gauge

from vault_service.keys.answers import VaultDenied, VaultError, VaultNotFound, data_of, seconds_of
from vault_service.keys.credentials import ENDLESS, GONE, Life, Shown, own_life, shown_by
from vault_service.keys.methods import AppRole, Authenticator, Kubernetes, Login, Send, Token, TokenFile, TokenValue

SECONDS_LEFT: Final = Gauge(
    "ssn_vault_login_seconds_left",
    "Seconds until the login at Vault ends: its token, what the next login shows, and the database login that Vault "
    "makes; +Inf without end, NaN where Vault does not tell",
    ["of"],
)
LOOK_SECONDS: Final = 60.0  # between two looks at the files
_ASK_SECONDS: Final = 3600.0  # between two questions to Vault while nothing changes
_WARN_AT: Final = 0.2  # of a life
_WARN_AT_KUBERNETES: Final = 0.1  # the kubelet replaces its tokens only when a fifth is left, and a little later
_log: Final = structlog.stdlib.get_logger("ssn_vault.vault")


class Ends:
    """Of one login. One thread at a time; the values are for any."""

    def __init__(self, login: Login, authenticator: Authenticator, send: Send) -> None:
        self._login = login
        self._authenticator = authenticator
        self._send = send
        self._life: Life | None = None
        self._asked: tuple[Shown, str] | None = None  # the files, and the token under which Vault was asked about them
        self._ask_at = float("-inf")
        self._warn_at = _WARN_AT_KUBERNETES if isinstance(login, Kubernetes) else _WARN_AT
        self._warned: set[str] = set()
        self.problem: str | None = None

    @property
    def credential_left(self) -> float:
        """Seconds until what the next login shows is no longer good; infinite without end, NaN when not known."""
        life = self._life
        return math.nan if life is None else life.left

    def look(self, token: Token | None, deadline: float) -> None:
        """Look at the files, and ask Vault where they or the token are others, or it was asked long ago. VaultError."""
        if token is not None:
            self._warn("its token", Life(time.time() + token.seconds_left, token.life))
        if isinstance(self._login, (AppRole, TokenFile, TokenValue)):
            if token is None or token.seconds_left == 0:
                return None
            shown = shown_by(self._login)
            if self._asked == (shown, token.value) and time.monotonic() < self._ask_at:
                return self._warn_of_credential()
            self._life = self._told(self._login, token, deadline)
            self._asked, self._ask_at = (shown, token.value), time.monotonic() + _ASK_SECONDS
        else:
            self._life = own_life(self._login)
        return self._warn_of_credential()

    def _told(self, login: AppRole | TokenFile | TokenValue, token: Token, deadline: float) -> Life | None:
        """What Vault tells; None where it does not, or this login may not ask."""
        path = "auth/token/lookup-self"
        if not isinstance(login, AppRole):
            value = self._authenticator.token_shown() or token.value
            try:
                return _life_of_token(data_of(self._send("GET", path, None, value, deadline), path))
            except VaultDenied:
                return GONE if value != token.value else None
        secret_id = self._authenticator.secret_id()
        if secret_id is None:
            return GONE
        try:
            meta = data_of(self._send("GET", path, None, token.value, deadline), path).get("meta") or {}
            path = f"auth/{login.mount}/role/{meta.get('role_name')}/secret-id/lookup"
            found = self._send("POST", path, {"secret_id": secret_id}, token.value, deadline).get("data")
        except VaultDenied:  # the role's policies leave this right out
            return None
        except VaultNotFound:
            found = None
        # Vault answers with nothing for a secret id that has ended, was used up, or never was.
        return _life_of_secret_id(found) if found else GONE

    def _warn_of_credential(self) -> None:
        self.problem = None
        if self._life is None:
            return
        if self._life.left == 0:
            self.problem = "what the next login at Vault would show is not good any more: replace it"
        self._warn("what the next login shows", self._life)

    def _warn(self, what: str, life: Life) -> None:
        """Once, until it is good for longer again."""
        if life.left >= life.seconds * self._warn_at:
            self._warned.discard(what)
        elif what not in self._warned:
            self._warned.add(what)
            _log.warning("the login at Vault ends soon: replace what it shows", of=what, seconds_left=round(life.left))


def _life_of_token(data: Mapping[str, Any]) -> Life | None:
    """The life of a token that renewing cannot make longer; None where the mount's longest life decides."""
    path = "auth/token/lookup-self"
    now, left = time.time(), seconds_of(data.get("ttl"), path)
    longest = seconds_of(data.get("explicit_max_ttl", 0), path)
    if left == 0:
        return ENDLESS
    if longest:
        return Life(seconds_of(data.get("creation_time"), path) + longest, longest)
    if not data.get("renewable"):
        return Life(now + left, max(left, seconds_of(data.get("creation_ttl"), path)))
    return ENDLESS if data.get("period") else None


def _life_of_secret_id(data: Mapping[str, Any]) -> Life | None:
    try:
        begins, ends = (datetime.fromisoformat(str(data.get(name))) for name in ("creation_time", "expiration_time"))
    except ValueError:
        return None
    if ends.year < begins.year:  # year 1 is how Go writes no time
        return ENDLESS
    return Life(ends.timestamp(), (ends - begins).total_seconds())


def look_quietly(ends: Ends, token: Token | None, deadline: float) -> None:
    """`look`, where nobody can do anything about an error: the next look may tell."""
    try:
        ends.look(token, deadline)
    except VaultError as error:
        _log.info("the end of the login at Vault is not known now", error=type(error).__name__)
