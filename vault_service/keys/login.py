"""The one token that stands for us at Vault: kept alive, renewed and replaced.

A login and a way to send one request come in; the token to send with a call goes out. One thread at a time
logs in or renews; the others go on with a token that lives, or wait. What is done under the login is not known
here, nor how each method logs in.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from vault_service.keys.answers import VaultDenied, VaultError, VaultRefused, VaultTimeout
from vault_service.keys.circuit import jittered
from vault_service.keys.ends import LOOK_SECONDS, SECONDS_LEFT, Ends, look_quietly
from vault_service.keys.methods import Authenticator, Login, Send, Token, token_of
from vault_service.keys.refusals import Refusals

_LEAST_GAIN: Final = 1.0  # seconds; a renewal that gives less is at the end of what the login may live
_log: Final = structlog.stdlib.get_logger("ssn_vault.vault")


class LoginKeeper:
    """Holds the token of one login, renewed at every call that comes late in its life; after `start`, in time."""

    def __init__(self, login: Login, send: Send, reconnect: Callable[[], None], timeout: float) -> None:
        """`timeout`, in seconds, is for what the thread of `start` asks; `reconnect` as `Authenticator` has it."""
        self._authenticator = Authenticator(login, send, reconnect)
        self._refusals = Refusals(login)
        self._ends = Ends(login, self._authenticator, send)
        self._look_at = float("-inf")  # monotonic; when to look at the login's ends next
        self._send = send
        self._timeout = timeout
        self._token: Token | None = None
        self._lock = threading.Lock()  # of whoever logs in or renews
        self._wake = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def seconds_left(self) -> float:
        """Seconds until the login ends, infinite for one without end; 0 when there is none yet."""
        token = self._token
        return token.seconds_left if token else 0.0

    @property
    def credential_left(self) -> float:
        """Seconds until what the next login shows is no longer good; infinite without end, NaN when not known."""
        return self._ends.credential_left

    @property
    def problem(self) -> str | None:
        """Why Vault refuses the login, or why it will refuse the next one; None while all is well."""
        return self._refusals.problem or self._ends.problem

    def start(self) -> None:
        """Renew in time from now on, also when nobody calls, and tell beforehand when the login will end.

        The first login is left to the first call.
        """
        SECONDS_LEFT.labels("token").set_function(lambda: self.seconds_left)
        SECONDS_LEFT.labels("credential").set_function(lambda: self.credential_left)
        with self._wake:
            if self._thread is None:
                self._stopped = False
                self._thread = threading.Thread(target=self._renew_in_time, name="vault-login", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End what `start` began."""
        with self._wake:
            thread, self._thread = self._thread, None
            self._stopped = True
            self._wake.notify()
        if thread is not None:
            thread.join()

    def current(self, deadline: float) -> Token:
        """The token to send, renewed in time; when renewing fails, one that lives is used. VaultError without one."""
        token = self._token
        if token is not None and time.monotonic() < token.renew_at:
            return token
        if token is not None and token.seconds_left > 0 and self._lock.locked():
            return token  # somebody is at it: a slow Vault keeps no call waiting that needs not wait
        return self._up_to_date(deadline)

    def renew(self, deadline: float) -> None:
        """Renew now; one that cannot be renewed is used on. VaultError when it is over and no new one can be had."""
        self._acquire(deadline)
        try:
            token = self._token or self._log_in(deadline)
            self._keep(self._kept_alive(token, deadline))
        finally:
            self._lock.release()

    def replacement(self, refused: Token, deadline: float) -> Token | None:
        """Another token after Vault answered 403 to `refused`; None when none can help.

        A token that still lives was refused by its policies: a fresh login would be refused as well, and
        a call that is not allowed must not cost a login each time.
        """
        self._acquire(deadline)
        try:
            if self._token is not None and self._token.value != refused.value:
                return self._token  # another thread was here first
            try:
                self._send("GET", "auth/token/lookup-self", None, refused.value, deadline)
            except VaultDenied:
                self._token = None  # nobody need be refused under it again
            else:
                return None
            fresh = self._log_in(deadline)
            self._keep(fresh)
            return fresh
        finally:
            self._lock.release()

    def _up_to_date(self, deadline: float) -> Token:
        self._acquire(deadline)
        try:
            token = self._token
            if token is None:
                token = self._log_in(deadline)
            elif time.monotonic() >= token.renew_at:
                token = self._kept_alive(token, deadline)
            self._keep(token)
            return token
        finally:
            self._lock.release()

    def _acquire(self, deadline: float) -> None:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise VaultTimeout("the login: another thread has waited for it all the time")

    def _log_in(self, deadline: float) -> Token:
        """A fresh token; what Vault refused is not shown again before something changes, or a long time is over."""
        self._refusals.check()
        try:
            token = self._authenticator.log_in(deadline)
        except VaultError as error:
            self._refusals.failed(error)
            raise
        self._refusals.succeeded()
        return token

    def _keep(self, token: Token) -> None:
        with self._wake:
            if self._token is None or self._token.value != token.value:
                self._look_at = float("-inf")
            self._token = token
            self._wake.notify()

    def _kept_alive(self, token: Token, deadline: float) -> Token:
        """The token renewed, or another, or the same to be tried again later as long as it lives."""
        try:
            return self._renewed(token, deadline)
        except VaultError as error:
            left = token.seconds_left
            if left == 0:
                raise
            # Not at every call: each would wait for a Vault that is away.
            again = min(left, max(1.0, left * jittered(0.2, 0.4)))
            _log.warning("login not renewed", error=type(error).__name__, seconds_left=round(left))
            return replace(token, renew_at=time.monotonic() + again)

    def _renewed(self, token: Token, deadline: float) -> Token:
        if math.isinf(token.ends):
            return token
        if token.seconds_left > 0:
            path = "auth/token/renew-self"
            try:
                renewed = token_of(self._send("POST", path, {}, token.value, deadline), path)
            except (VaultDenied, VaultRefused):  # it has ended, was revoked, or cannot be renewed
                pass
            else:
                if renewed.ends - token.ends >= _LEAST_GAIN:
                    return renewed
        return self._log_in(deadline)  # it cannot live longer than this

    def _renew_in_time(self) -> None:
        while True:
            with self._wake:
                while not self._stopped and (pause := self._pause()) > 0:
                    self._wake.wait(None if math.isinf(pause) else min(pause, threading.TIMEOUT_MAX))
                if self._stopped:
                    return
            if self._until_renewal() <= 0:
                try:
                    self._up_to_date(time.monotonic() + self._timeout)
                except VaultError as error:  # it has ended meanwhile; the next call logs in, or says why not
                    _log.warning("login has ended", error=type(error).__name__)
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_SECONDS
                look_quietly(self._ends, self._token, time.monotonic() + self._timeout)

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        return min(self._until_renewal(), self._look_at - time.monotonic())

    def _until_renewal(self) -> float:
        """Seconds until there is something to renew; infinite without a login that lives."""
        token = self._token
        if token is None or token.seconds_left == 0:
            return math.inf
        return token.renew_at - time.monotonic()
