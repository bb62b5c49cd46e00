"""What Vault has refused is not shown again and again: how long a login waits, for every method alike.

Refusals of a login come in; whether it may be tried goes out, and words for what is wrong. A login that was refused
is tried again when its files change, else after a pause that grows, so that it heals where Vault was wrong. OpenBao
and HashiCorp Vault lock an AppRole for everybody (15 minutes) after five wrong secret ids, each within 15 minutes of
the one before: whatever the files do, one process stays below that.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Gauge

from vault_service.keys.answers import VaultError, VaultLockedOut, VaultLoginFile, VaultLoginRefused
from vault_service.keys.circuit import jittered
from vault_service.keys.credentials import Shown, shown_by
from vault_service.keys.methods import AppRole, Login

REFUSED: Final = Gauge("ssn_vault_login_refused", "1 while Vault refuses the server's login")

_MINUTE: Final = 60.0
_PAUSES: Final = (5.0, 15.0, _MINUTE, 5 * _MINUTE)  # no way in but AppRole is locked by failures
_APPROLE_PAUSES: Final = (20 * _MINUTE, 40 * _MINUTE, 80 * _MINUTE, 3 * 60 * _MINUTE)  # longer than Vault counts
_LOCKED_PAUSE: Final = 2 * _MINUTE  # what is tried while locked is not counted
_COUNTED: Final = 16 * _MINUTE  # seconds after which Vault begins to count from one, and a little more
_MOST_COUNTED: Final = 3  # of the five that lock; other replicas may show the same files
_log: Final = structlog.stdlib.get_logger("ssn_vault.vault")


@dataclass(frozen=True)
class _Refusal:
    """What was refused, why, how often in a row, and when it may be tried again (monotonic seconds)."""

    shown: Shown
    why: str
    times: int
    again_at: float


class Refusals:
    """Of one login. One thread at a time, but `problem` is for any."""

    def __init__(self, login: Login, clock: Callable[[], float] = time.monotonic) -> None:
        self._login = login
        self._clock = clock
        self._approle = isinstance(login, AppRole)
        self._refusal: _Refusal | None = None
        self._counted = 0  # as Vault counts wrong secret ids
        self._counted_at = float("-inf")
        self._shown = shown_by(login)
        self._unreadable = ""
        self.problem: str | None = None

    def check(self) -> None:
        """Before a login. VaultLoginRefused when it must not be tried now."""
        self._shown = shown_by(self._login)
        refusal, now = self._refusal, self._clock()
        if refusal is None or now >= refusal.again_at:
            return
        spent = self._counted >= _MOST_COUNTED and now - self._counted_at < _COUNTED
        if self._shown != refusal.shown and not spent:
            return
        raise VaultLoginRefused(self.problem or refusal.why)

    def failed(self, error: VaultError) -> None:
        """A login that `check` let through has failed. What may pass by itself says nothing of the login."""
        if error.transient:
            return
        if isinstance(error, VaultLoginFile):  # nothing was shown
            if self.problem != str(error):
                _log.error("the login at Vault cannot be made", why=str(error))
            self._tell(str(error))
            return
        now, before = self._clock(), self._refusal
        locked = isinstance(error, VaultLockedOut)
        if self._approle and not locked:
            self._counted = self._counted + 1 if now - self._counted_at < _COUNTED else 1
            self._counted_at = now
        same = before is not None and before.shown.content == self._shown.content
        times = (before.times if before is not None and same else 0) + (not locked)
        pauses = _APPROLE_PAUSES if self._approle else _PAUSES
        pause = _LOCKED_PAUSE if locked else pauses[min(max(times, 1), len(pauses)) - 1]
        pause *= jittered(1.0, 1.2)
        self._refusal = _Refusal(self._shown, str(error), times, now + pause)
        self._tell(f"{error}; tried again when the login's files change, else after {pause / _MINUTE:.0f} minutes")
        _log.error("Vault refuses the login", why=str(error), locked=locked, times=times, next_seconds=round(pause))

    def succeeded(self) -> None:
        """A login has been made."""
        if self.problem is not None:
            _log.info("Vault accepts the login again")
        self._refusal, self._counted = None, 0
        self._counted_at = float("-inf")
        self.problem = None
        REFUSED.set(0)

    def _tell(self, problem: str) -> None:
        self.problem = problem
        REFUSED.set(1)
