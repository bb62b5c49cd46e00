"""How long a call waits for a Vault that fails: a few retries with growing pauses, and a circuit against hanging.

Attempts and what became of them come in; whether and when to try goes out. Three attempts in a row without
an answer open the circuit: nothing is sent for a second, then one attempt at a time, until one is answered. Any
answer, even a refusal, comes from a Vault that does not hang. What an attempt does is not known here.
"""

import random
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

from vault_service.keys.answers import VaultCircuitOpen, VaultError

_PAUSES: Final = (0.1, 0.3)  # seconds before the second and the third attempt, at least half of it
_RANDOM: Final = random.SystemRandom()

Result = TypeVar("Result")


class Entry(Enum):
    """What the circuit says to an attempt."""

    FREE = "free"
    PROBE = "probe"  # alone: it finds out whether Vault is back
    REFUSED = "refused"  # not to be sent


class Circuit:
    """Counts attempts without an answer, for any number of threads.

    It opens after `limit` of them with no answer in between, all within `window` seconds; `pause` is how many
    seconds it stays open before each probe; `clock` gives monotonic seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, limit: int = 3, window: float = 30.0, pause: float = 1.0
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._window = window
        self._pause = pause
        self._lock = threading.Lock()
        self._failures: list[float] = []
        self._open_until: float | None = None
        self._probing = False

    def enter(self) -> Entry:
        """Ask before an attempt. One that may be sent ends in `answered` or `failed`."""
        with self._lock:
            if self._open_until is None:
                return Entry.FREE
            if self._probing or self._clock() < self._open_until:
                return Entry.REFUSED
            self._probing = True
            return Entry.PROBE

    def answered(self) -> None:
        """An attempt was answered: the circuit is closed."""
        with self._lock:
            self._failures.clear()
            self._open_until = None
            self._probing = False

    def failed(self, entry: Entry) -> None:
        """The attempt that `entry` let through got no answer."""
        with self._lock:
            now = self._clock()
            if self._open_until is None:
                self._failures = [at for at in self._failures if now - at < self._window] + [now]
                if len(self._failures) >= self._limit:
                    self._open_until = now + self._pause
            elif entry is Entry.PROBE:  # others were sent before it opened, and say nothing new
                self._probing = False
                self._open_until = now + self._pause


def jittered(low: float, high: float) -> float:
    """Somewhere between the two, so that replicas do not do the same thing at the same moment."""
    return _RANDOM.uniform(low, high)


def retried(attempt: Callable[[], Result], deadline: float) -> Result:
    """What `attempt` gives, tried up to three times while it fails with what passes; last error otherwise.

    No pause ends after `deadline` (monotonic seconds). Where Vault says how long to wait, that long or not at
    all; an open circuit is not waited for.
    """
    for pause in _PAUSES:
        try:
            return attempt()
        except VaultError as error:
            wait = jittered(pause / 2, pause)
            if error.retry_after is not None:
                wait += error.retry_after
            if not error.transient or isinstance(error, VaultCircuitOpen) or time.monotonic() + wait >= deadline:
                raise
        time.sleep(wait)
    return attempt()
