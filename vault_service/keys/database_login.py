"""The server's PostgreSQL login, made by Vault's database engine for a short life and replaced before it ends.

A Vault and the name of a role come in; the user and password for the next connection go out. A thread renews the
lease at two thirds of its life, and fetches another login when Vault shortens it. The connections themselves are
not known here.
"""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from vault_service.keys.answers import VaultBadAnswer, VaultError, data_of, seconds_of
from vault_service.keys.circuit import jittered
from vault_service.keys.ends import SECONDS_LEFT
from vault_service.keys.transit import Vault

_RENEW_AT: Final = (0.6, 0.7)  # of a lease's life: replicas do not renew at one moment
_PAUSE: Final = (0.5, 1.0)  # seconds before another attempt while Vault is away
_LONGEST_PAUSE: Final = 60.0  # seconds; what Vault refuses, it will refuse again: each time twice as long, up to this
_LEAST_BETWEEN_REFUSALS: Final = 5.0  # seconds: a database that refuses every login must not use up Vault's
_log: Final = structlog.stdlib.get_logger("ssn_vault.database_login")


@dataclass(frozen=True, slots=True)
class _Lease:
    """One login with its lease; times are monotonic seconds."""

    user: str
    password: str = field(repr=False)
    id: str = field(repr=False)
    life: float  # as it was given at first
    ends: float
    renew_at: float


class DatabaseLogin:
    """The login of database role `role`. Fetches nothing before `start`; any thread may ask."""

    def __init__(self, vault: Vault, role: str) -> None:
        self._vault = vault
        self._path = f"database/creds/{role}"
        self._lock = threading.Lock()  # held by whoever fetches a login
        self._wake = threading.Event()
        self._lease: _Lease | None = None
        self._refusal_at = float("-inf")
        self._refused_by_vault = 0  # times in a row
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="database-login", daemon=True)

    def start(self) -> None:
        """Fetch the first login and keep one alive from then on. VaultError when there is none to be had."""
        self._lease = self._fetched()
        SECONDS_LEFT.labels("database").set_function(lambda: self.seconds_left)
        self._thread.start()

    def stop(self) -> None:
        """End what `start` began. The login is left to its end: connections may still use it."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def seconds_left(self) -> float:
        """Seconds until the login ends unless its lease is renewed; 0 when it has, or there is none yet."""
        lease = self._lease
        return max(0.0, lease.ends - time.monotonic()) if lease else 0.0

    def __call__(self, refused: str | None = None) -> tuple[str, str]:
        """User and password for a connection. `refused` is a user that the database did not let in.

        Vault drops a login before its lease ends when the server's own login at Vault has ended; then another
        one is fetched here, at most every five seconds. Never raises a VaultError: a login that cannot be
        replaced now is given again, and the connection fails.
        """
        with self._lock:
            if self._lease is None:
                raise RuntimeError("the database login has not been started")
            now = time.monotonic()
            if refused == self._lease.user and now - self._refusal_at >= _LEAST_BETWEEN_REFUSALS:
                self._refusal_at = now
                self._replace("the database refused the login")
            return self._lease.user, self._lease.password

    def _run(self) -> None:
        while not self._stopped:
            lease = self._lease
            assert lease is not None  # noqa: S101 - `start` has fetched it
            if self._wake.wait(max(0.0, lease.renew_at - time.monotonic())):
                return
            renewed = self._renewed(lease)
            with self._lock:
                if self._lease is not lease:
                    continue  # replaced meanwhile
                if renewed is not None:
                    self._lease = renewed
                elif not self._replace("its lease cannot be made longer"):
                    pause = min(jittered(*_PAUSE) * 2.0 ** min(self._refused_by_vault, 20), _LONGEST_PAUSE)
                    self._lease = replace(lease, renew_at=time.monotonic() + pause)

    def _renewed(self, lease: _Lease) -> _Lease | None:
        """The same login for about its whole life again; None when Vault gives it less, or nothing."""
        path = "sys/leases/renew"
        try:
            answer = self._vault._call("POST", path, {"lease_id": lease.id, "increment": int(lease.life)})
            seconds = seconds_of(answer.get("lease_duration"), path)
        except VaultError:
            return None  # whatever the reason: a new login is asked for, which says more
        if seconds < lease.life * _RENEW_AT[1]:
            return None
        now = time.monotonic()
        renew_at = now + seconds * jittered(*_RENEW_AT)
        return _Lease(lease.user, lease.password, lease.id, lease.life, now + seconds, renew_at)

    def _replace(self, reason: str) -> bool:
        try:
            self._lease = self._fetched()
        except VaultError as error:
            self._refused_by_vault = 0 if error.transient else self._refused_by_vault + 1
            if self._refused_by_vault:
                _log.error("Vault refuses the database login", reason=reason, why=str(error))
            else:
                _log.warning("no new database login", reason=reason, error=type(error).__name__)
            return False
        self._refused_by_vault = 0
        _log.info("new database login", reason=reason)
        return True

    def _fetched(self) -> _Lease:
        answer = self._vault._call("GET", self._path)  # not `read`: the lease stands beside the data
        data = data_of(answer, self._path)
        user, password, lease = data.get("username"), data.get("password"), answer.get("lease_id")
        if not (isinstance(user, str) and isinstance(password, str) and isinstance(lease, str)):
            raise VaultBadAnswer(f"{self._path} gave no login")
        life = seconds_of(answer.get("lease_duration"), self._path)
        now = time.monotonic()
        return _Lease(user, password, lease, life, now + life, now + life * jittered(*_RENEW_AT))
