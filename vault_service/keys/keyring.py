"""Unwrapped keys in memory, each under a lease: asked of Vault again at half of it, gone when it ends.

The wrapped keys in force come in (`want`), a way to unwrap them is given once; ready keys go out, or
KEYS_UNAVAILABLE. Vault away: keys serve until their lease ends, then calls fail, and the keyring keeps
asking until Vault is back (promise 8). What Python cannot do is overwrite the bytes of a key that is
dropped; the threat model says so.
"""

import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault_service.errors import CallError, Reason
from vault_service.keys.names import KeyName
from vault_service.keys.transit import VaultError
from vault_service.telling import TellOnce

_RETRY_SECONDS: Final = 0.5  # between two attempts while Vault is away
_log: Final = structlog.stdlib.get_logger("ssn_vault.keys")
logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would log every refused connection


@dataclass(frozen=True, slots=True)
class Key:
    """One unwrapped key version. Nothing shows its bytes."""

    version: int
    secret: bytes = field(repr=False)
    cipher: AESGCM = field(repr=False)
    ends: float = field(repr=False)  # monotonic seconds


class Keyring:
    """Holds every key version in force. Any thread may ask; one thread, started here, keeps them alive."""

    def __init__(self, unwrap: Callable[[str, str], bytes], lease_seconds: float) -> None:
        """`unwrap(transit name, wrapped key)` gives 32 bytes or raises VaultError; `lease_seconds` as configured."""
        self._unwrap = unwrap
        self._lease = lease_seconds
        self._wrapped: Mapping[KeyName, str] = {}
        self._keys: dict[KeyName, Key] = {}
        self._told = TellOnce(_log)
        self._load_lock = threading.Lock()
        self._wake = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._keep_alive, name="keyring", daemon=True)

    def start(self) -> None:
        """Begin to keep the keys alive."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and forget every key."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._keys.clear()

    def want(self, wrapped: Mapping[KeyName, str]) -> None:
        """From now on hold these versions and no others; missing ones are loaded before this returns, if they can."""
        with self._load_lock:  # so that no load under way puts back a key that is no longer in force
            self._wrapped = dict(wrapped)
            for name in list(self._keys):
                if name not in wrapped:
                    self._keys.pop(name, None)
        # A key wrapped anew is the same key: it is asked for again when its lease says so.
        self._load(lambda key: key is None)
        with self._wake:
            self._wake.notify()

    def get(self, name: KeyName) -> Key:
        """The key; CallError KEYS_UNAVAILABLE when it is not loaded or its lease has ended."""
        key = self._keys.get(name)
        if key is None or time.monotonic() >= key.ends:
            raise CallError(Reason.KEYS_UNAVAILABLE)
        return key

    def check(self, name: KeyName, wrapped: str) -> bool:
        """Whether `wrapped` is the key that is in force as `name`; True where none is. Nothing is kept.

        VaultError unless it opens under the wrapping key of `name`.
        """
        secret = self._unwrap(name.transit, wrapped)
        return name not in self._wrapped or hmac.compare_digest(secret, self.get(name).secret)

    def holds(self, name: KeyName) -> bool:
        """Whether this key can be used now."""
        key = self._keys.get(name)
        return key is not None and time.monotonic() < key.ends

    @property
    def complete(self) -> bool:
        """Whether every key in force can be used now."""
        return all(map(self.holds, self._wrapped))

    def _keep_alive(self) -> None:
        while not self._stopped:
            now = time.monotonic()
            for name, key in list(self._keys.items()):
                if now >= key.ends:
                    self._keys.pop(name, None)
                    _log.error("key lease ended", key=name.transit)
            loaded = self._load(lambda key: key is None or time.monotonic() >= key.ends - self._lease / 2)
            with self._wake:
                if not self._stopped:
                    self._wake.wait(self._pause() if loaded else _RETRY_SECONDS)

    def _pause(self) -> float:
        """Seconds until the next key is to be asked for."""
        next_end = min((key.ends for key in self._keys.values()), default=time.monotonic() + self._lease)
        return max(0.05, next_end - self._lease / 2 - time.monotonic())

    def _load(self, due: Callable[[Key | None], bool]) -> bool:
        """Ask Vault for the keys that are due; whether all of them came."""
        complete = True
        with self._load_lock:
            for name, wrapped in list(self._wrapped.items()):
                if not due(self._keys.get(name)):
                    continue
                asked = time.monotonic()  # the lease runs from before the answer: never longer than promised
                try:
                    secret = self._unwrap(name.transit, wrapped)
                except VaultError as error:
                    self._told.wrong("key not loaded", about=name.transit, key=name.transit, error=type(error).__name__)
                    complete = False
                    if error.transient:
                        break  # the others would only wait for the same Vault
                    continue
                self._told.right("key loaded again", about=name.transit, key=name.transit)
                self._keys[name] = Key(name.version, secret, AESGCM(secret), asked + self._lease)
        return complete
